"""Traces in the formats people have them, their options, and messages for lines that cannot be read."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.forecast.runner import cells, thinned, work
from ipa.experiment.loads import rates_of as experiment_rates
from ipa.experiment.reading import load_experiment
from ipa.experiment.runners import WorkloadArm
from ipa.files.traces import EXAMPLE_TRACE, read_rates, read_trace, trace_file, trace_in
from ipa.library import load_trace
from ipa.model.errors import InputError, NotFoundError
from ipa.service.simulation import rates_of as simulated_rates

LLM = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,374,44\n"
    "2023-11-16 18:15:46.9951690,396,109\n2023-11-16 18:15:48.0000000,1,2\n"
)


@pytest.mark.parametrize(
    ("name", "text", "rates"),
    [
        ("plain.txt", "1\n.5\n1e1\n+2.\n", (1, 0.5, 10, 2)),
        ("comment.txt", "\ufeff# measured in May\n3\n\n4\n", (3, 4)),
        ("minutes.txt?step=60s", "60\n120\n", (1,) * 60 + (2,) * 60),
        ("rate.csv", "time_s,rate_rps\n0,5\n1,6\n2,7\n", (5, 6, 7)),
        (
            "rpm.csv",
            "timestamp;requests_per_minute\n2026-01-01T00:00:00Z;60\n2026-01-01T00:00:02Z;120\n",
            (1, 1, 2, 2),
        ),
        ("unit.csv", '"Time","load [1/min]"\n0,60\n1,120\n', (1, 2)),
        ("count.csv", "time_ms,requests\n0,10\n2000,20\n4000,0\n", (5, 5, 10, 10, 0, 0)),
        ("fine.csv", "time_ms,requests\n0,10\n500,20\n1000,30\n1500,10\n", (30, 40)),
        ("one.csv", "qps\n4\n5\n", (4, 5)),
        ("pick.csv?column=b%5Frps", "a_rps,b_rps\n1,8\n1,9\n", (8, 9)),
        ("hole.csv", "time_s,rps\n0,5\n1,5\n4,7\n5,7\n6,7\n", (5, 5, 0, 0, 7, 7, 7)),
        ("iso.txt", "2026-01-01T00:00:01.5Z\n2026-01-01T01:00:00+01:00\n2026-01-01 00:00:01\n", (1, 2)),
        ("epoch.txt", "1767225601.2\n1767225600\n1767225601.9\n", (1, 2)),
        ("epoch_ms.txt", "1767225600000\n1767225601999\n", (1, 1)),
        ("offsets.txt?format=timestamps", "0.1\n0.9\n2.5\n", (2, 0, 1)),
        ("log.jsonl", '{"ts": 10.5, "path": "/"}\n{"ts": 10.6}\n{"ts": "11"}\n', (2, 1)),
        ("rates.jsonl", '{"time_s": 0, "rps": 3}\n{"time_s": 1, "rps": 4.5}\n', (3, 4.5)),
        ("llm.csv", LLM, (2, 0, 1)),
        ("t.txt?from=1s&to=3s", "1\n2\n3\n4\n", (2, 3)),
        ("t.txt?scale=0.5", "1\n3\n", (0.5, 1.5)),
        ("t.txt?from=1s&mean=10", "100\n1\n3\n", (5, 15)),
        ("a?b.txt", "7\n", (7,)),
    ],
)
def test_formats_and_options(tmp_path: Path, name: str, text: str, rates: tuple[float, ...]) -> None:
    path = tmp_path / (name if name == "a?b.txt" else name.partition("?")[0])
    path.write_text(text)
    assert read_rates(tmp_path / name) == pytest.approx(rates)


def test_seconds_without_a_record_are_gaps(tmp_path: Path) -> None:
    (tmp_path / "hole.csv").write_text("time_s,rps\n0,5\n1,5\n3,7\n")
    assert read_trace(tmp_path / "hole.csv", finds_outages=False) == (5, 5, None, 7)


@pytest.mark.parametrize(
    ("name", "text", "line", "words"),
    [
        ("a.txt", "1\nmany\n", 2, "'many' is not a number from 0 on"),
        ("a.txt", "1\n-3\n", 2, "'-3' is not a number"),
        ("a.txt", "1\nnan\n", 2, "'nan' is not a number"),
        ("a.txt", "1\n1e99999\n", 2, "'1e99999' is not a number"),
        ("a.txt", "0" * 200, 1, "is not a number"),
        ("iso.txt", "2026-01-01T00:00:00Z\nyesterday\n", 2, "'yesterday' is not a time"),
        ("a.csv", "1,2\n3,4\n", 1, "add a header line"),
        ("a.csv", "time_s,rps\n0,5\n1\n", 3, "has 1 columns; the header has 2"),
        ("a.csv", "time_s,rps\n0,5\n1,x\n", 3, "rps: 'x' is not a number"),
        ("a.csv", "time_s,rps\nsoon,5\n", 2, "time_s: 'soon' is not a time"),
        ("a.csv", "cpu,ram\n1,2\n", 2, "no column is a load or a time; there are: cpu, ram"),
        ("a.csv", "x_rps,y_rps\n1,2\n", 2, "choose one with column=x_rps"),
        ("a.csv", "host,requests\nx,2\n", 2, "give the duration of a line, as step=60s"),
        ("a.csv?column=z", "time_s,rps\n0,5\n", 2, "no column 'z'"),
        ("a.jsonl", '{"ts": 1}\n[2]\n', 2, "is not a JSON object"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(
    tmp_path: Path, name: str, text: str, line: int, words: str
) -> None:
    path = tmp_path / name.partition("?")[0]
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_trace(tmp_path / name)
    problem = caught.value.problems[0]
    assert (problem.path, problem.line) == (str(path), line)
    assert words in problem.message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("scale=0", "scale=0 is not a number above 0"),
        ("scale=two", "scale=two"),
        ("size=2", "'size=2' is not known"),
        ("scale", "'scale' is not known"),
        ("step=0s", "step=0s is not a time"),
        ("from=1", "from=1"),
        ("from=9s", "nothing from 9 s to its end: it lasts 3 s"),
        ("format=excel", "format=excel is not one of rates, timestamps, csv, jsonl"),
        ("to=2s&mean=3", "no requests to scale"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(tmp_path: Path, options: str, words: str) -> None:
    (tmp_path / "t.txt").write_text("0\n0\n1\n")
    with pytest.raises(InputError, match=r"t\.txt") as caught:
        read_trace(tmp_path / f"t.txt?{options}", finds_outages=False)
    assert words in str(caught.value)


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_parquet_is_read_as_its_columns_are_in_csv(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    path, start = tmp_path / "load.parquet", datetime(2026, 1, 31, 12, tzinfo=UTC)
    times = pa.array([start, start + timedelta(seconds=2)], pa.timestamp(unit, "UTC"))
    pq.write_table(pa.table({"timestamp": times, "requests": [10, 20], "host": ["a", None]}), path)
    assert read_rates(path) == (5, 5, 10, 10)
    assert read_rates(f"{path}?column=timestamp") == (1, 0, 1)
    pq.write_table(pa.table({"time_s": [0, 1], "rps": [4.5, None]}), path)
    with pytest.raises(InputError, match=r"load\.parquet:2:1: rps: 'null' is not a number"):
        read_rates(path)
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"load\.parquet cannot be read as a trace: Parquet"):
        read_rates(path)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(InputError, match="which pyarrow reads") as caught:
        read_rates(path)
    assert "its extra `experiments`" in caught.value.hint


def test_times_that_are_years_apart_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("2020-01-01\n2026-01-01\n")
    with pytest.raises(InputError, match=r"spans 1\.89e\+08 s"):
        read_trace(tmp_path / "t.txt")


def test_one_reader_for_every_command(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("time_s,rps\n0,5\n1,6\n2,7\n")
    trace = f"{tmp_path / 't.csv'}?scale=2&from=1s"
    assert simulated_rates(trace, None, 1.0) == (12, 14)
    assert experiment_rates(WorkloadArm("t", trace=trace), tmp_path) == [12, 14]
    assert load_trace(trace) == (12, 14)
    assert trace_in(tmp_path, "t.csv?scale=2") == f"{tmp_path / 't.csv'}?scale=2"


def test_the_packaged_trace_has_every_request_and_its_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rates = read_rates(EXAMPLE_TRACE)
    assert (len(rates), sum(rates)) == (3503, 19366)
    text = trace_file(EXAMPLE_TRACE).read_text("utf-8")
    assert "Creative Commons Attribution 4.0" in text
    assert "Microsoft" in text
    assert trace_file(EXAMPLE_TRACE).stat().st_size < 200_000
    # A file of one's own with that name wins.
    Path(EXAMPLE_TRACE).write_text("1\n")
    assert read_rates(EXAMPLE_TRACE) == (1,)
    with pytest.raises(NotFoundError, match=r"none\.csv does not exist"):
        read_rates("none.csv?scale=2")


def test_the_forecast_experiment_thins_to_whole_requests_and_keeps_gaps() -> None:
    assert thinned((0.5, None, 2.5), 1).rates_rps == (0.5, None, 2.5)
    assert thinned((15.0, None, 17.0), 8).rates_rps == (1, None, 2)


def test_the_forecast_experiment_has_cells_without_published_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path
) -> None:
    monkeypatch.setenv("IPA_SHARED_DATA", str(tmp_path))
    experiment = load_experiment(
        root / "experiments" / "forecast" / "experiment.yaml",
        pipelines_dir=root / "pipelines",
        profiles_dir=root / "profiles",
        quick=True,
    )
    made, notes = cells(experiment)
    assert any("twitter is left out" in note for note in notes)
    level = next(each for each in made if each.labels["forecaster"] == "level")
    assert level.labels["trace"] == "azure conversation"
    # The fifth ten minutes, a forecast every ten seconds.
    assert work(level.payload, level.series).row["count"] == 60
    experiment.settings["traces"][0]["divide"] = 0
    with pytest.raises(InputError, match="divide is below 1"):
        cells(experiment)
