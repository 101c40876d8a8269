"""Experiments run: the same bytes whether a run was whole, killed or interrupted; reports."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ipa.cli.main import run
from ipa.experiment.results import DIFFERENCES, RUNS, SCHEMA, TICKS
from tests.fakes.children import run_process
from tests.fakes.commands import Ipa

FILE = """
apiVersion: ipa/v1
kind: Experiment
name: try
title: A try & more
question: Does it work?
runner: tests.fakes.lab:RUNNER
minutes: 2
seeds: [1, 2, 3]
pipelines: [video]
workloads: [bursty, steady_low]
policies: [ours, ipa]
reference: ipa
"""
CELLS_THERE = 2 * 2 * 3
# Its stderr is a file, so that the lab's cells can read what it says.
IPA = """
import os
os.dup2(os.open(os.environ["LAB_STDERR"], os.O_CREAT | os.O_WRONLY), 2)
from ipa.cli.main import main
main()
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module", autouse=True)
def here(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("SOURCE_DATE_EPOCH", "0")
        patch.setenv("IPA_SHARED_DATA", str(tmp_path_factory.mktemp("none")))
        yield


def conduct(file: Path, out: Path, *options: str, **environment: str) -> int:
    """Run it in this process, with one worker."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        return run(["experiment", "run", str(file), "--out", str(out), "--workers", "1", *options])


def conduct_apart(file: Path, out: Path, stderr: Path, **environment: str) -> int:
    """Run it in a process of its own, with two workers."""
    done = run_process(
        [sys.executable, "-c", IPA, "experiment", "run", str(file), "--out", str(out)],
        env={**os.environ, **environment, "LAB_STDERR": str(stderr)},
        timeout=300,
    )
    assert "Traceback" not in stderr.read_text(), stderr.read_text()
    return done.returncode


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    (out / "experiment.yaml").write_text(FILE)
    assert conduct(out / "experiment.yaml", out) == 0
    return out


def results(out: Path) -> dict[str, bytes]:
    names = (RUNS, TICKS, "report.html")
    return {name: (out / "try" / name).read_bytes() for name in names}


@pytest.mark.parametrize(("name", "code"), [("SIGKILL", -signal.SIGKILL), ("SIGINT", 130)])
def test_the_same_command_continues_and_gives_the_same_bytes(
    file: Path, whole: Path, tmp_path: Path, name: str, code: int
) -> None:
    broken = tmp_path / "broken"
    strike = {"LAB_STRIKE": "6", "LAB_SIGNAL": name, "LAB_COUNTER": str(tmp_path / "counter")}
    strike["LAB_CELLS"] = str(broken / "cells")
    assert conduct_apart(file, broken, tmp_path / "stderr", **strike) == code
    before = len(list((broken / "cells").rglob("*.json")))
    assert 0 < before < CELLS_THERE
    if name == "SIGINT":
        # The cells that were under way are finished and kept.
        assert before == (tmp_path / "counter").stat().st_size
    assert not (broken / "try" / RUNS).exists()
    again = tmp_path / "again"
    assert conduct(file, broken, LAB_COUNTER=str(again)) == 0
    # Only the missing ones are computed.
    assert again.stat().st_size == CELLS_THERE - before
    assert results(broken) == results(whole)


def test_a_cell_is_kept_for_every_experiment_that_has_it(whole: Path, tmp_path: Path) -> None:
    first, counter = results(whole), tmp_path / "counter"
    other = tmp_path / "experiment.yaml"
    other.write_text(FILE.replace("name: try", "name: other").replace("[ours, ipa]", "[ours, ipa, rim]"))
    assert conduct(other, whole, LAB_COUNTER=str(counter)) == 0
    assert counter.stat().st_size == 2 * 3
    fresh = tmp_path / "fresh"
    assert conduct(whole / "experiment.yaml", whole, "--fresh", LAB_COUNTER=str(fresh)) == 0
    assert fresh.stat().st_size == CELLS_THERE
    assert results(whole) == first


def test_tables_have_their_documented_columns(whole: Path) -> None:
    rows = pq.read_table(whole / "try" / RUNS).to_pylist()
    assert [row["run"] for row in rows] == list(range(CELLS_THERE))
    arms = product(("bursty", "steady_low"), ("ours", "ipa"), (1, 2, 3))
    assert [(row["workload"], row["policy"], row["seed"]) for row in rows] == [*arms]
    assert {(whole / "cells" / row["cell"][:2] / f"{row['cell']}.json").is_file() for row in rows} == {True}
    assert set(pq.read_table(whole / "try" / TICKS)["run"].to_pylist()) == set(range(CELLS_THERE))
    for name in (RUNS, TICKS):
        for field in pq.read_schema(whole / "try" / name):
            column = SCHEMA[name][field.name]
            assert (str(field.type), field.metadata[b"description"].decode()) == (column.type, column.meaning)
    # Only simulations proper have differences.
    assert not (whole / "try" / DIFFERENCES).exists()


def test_the_page_is_numbered_names_its_origin_and_fetches_nothing(whole: Path) -> None:
    page = (whole / "try" / "report.html").read_text()
    assert "<title>A try &amp; more</title>" in page
    for word, count in (("Table", page.count("<table>")), ("Figure", page.count("<svg"))):
        numbers = [int(digits) for digits in re.findall(rf"<figcaption>{word} (\d+)\. ", page)]
        assert numbers == list(range(1, count + 1)) != []
    for text in ("commit", "1970-01-01 00:00:00 UTC", " cores, ", "seeds 1, 2, 3"):
        assert text in page
    # Nothing is fetched: no links but anchors, no sources but namespaces.
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#)", page)
    assert "@import" not in page
    assert "url(http" not in page


def test_policies_are_compared_in_one_command(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ipa: Ipa
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pipelines", "profiles"):
        (tmp_path / name).symlink_to(root / name)
    (tmp_path / "load.txt").write_text("4\n" * 30 + "7.5\n" * 30)
    words = ["compare", "video", "--policies", "ipa,static", "--trace", "load.txt", "--workers", "1"]
    words += ["--world", "no-room", "--world", "slow:1.2"]
    values = json.loads(ipa(*words, "--seeds", "2", "-o", "json").out)
    assert [(row["policy"], row["seed"]) for row in values["runs"]] == [*product(("ipa", "static"), (1, 2))]
    assert {row["reference"] for row in values["differences"]} == {"static"}
    assert {row["world"] for key in ("runs", "differences") for row in values[key]} == {"no-room+slow:1.2"}
    folder = tmp_path / "runs" / "experiments" / "compare-video-load"
    assert values["report"] == str(Path("runs") / "experiments" / "compare-video-load" / "report.html")
    assert pq.read_table(folder / DIFFERENCES).to_pylist() == values["differences"]
    for name in (RUNS, TICKS, DIFFERENCES):
        for field in pq.read_schema(folder / name):
            column = SCHEMA[name][field.name]
            assert str(field.type) in (column.type, "null")
    ticks = [row for row in pq.read_table(folder / TICKS).to_pylist() if row["run"] == 0]
    assert sum(row["sent"] for row in ticks) == values["runs"][0]["requests"]
    late = sum(row["sent"] * (1 - (row["attained_ratio"] or 0)) for row in ticks)
    assert late / values["runs"][0]["requests"] == pytest.approx(values["runs"][0]["violation_ratio"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--policies", "ours,ippa"], "there is no policy 'ippa'"),
        (["--world", "slow:fast"], "world 'slow:fast': 'fast' is not a number above 0"),
        (["--reference", "rim"], "--reference 'rim' is not among --policies"),
        (["--trace", "none.txt"], "there is no trace file and no load 'none.txt'"),
    ],
)
def test_a_comparison_that_cannot_be_made_says_why(
    capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert run(["compare", "video", *words]) != 0
    assert says in capsys.readouterr().err
