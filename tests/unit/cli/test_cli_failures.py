"""Policies and forecasters that fail in simulations: counted, told with the tick, and no exit code 0."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from ipa.experiment.results import RUNS, TICKS
from ipa.simulate import run as running
from ipa.simulate import run as simulation
from tests.fakes.commands import Ipa

BAD = "tests.fakes.bad_plugins"
MINUTE = ["--minutes", "1"]


@pytest.fixture(autouse=True)
def here(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(root)
    yield


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Raising", "raised ValueError: no such column"),
        ("Leaving", "raised SystemExit: 2"),
        ("AnsweringNothing", "made an invalid plan: a NoneType instead of a Plan"),
        ("OtherVariant", "has no variant 'huge'"),
        ("ForgettingHow", "raised RuntimeError: disk full"),
        ("Unbounded", "planned outside the bounds: crop: 1000 replicas are above the bound of 100"),
    ],
)
def test_a_policy_that_fails_is_no_result(name: str, words: str, ipa: Ipa) -> None:
    arguments = ["simulate", "video", *MINUTE, "--policy", f"{BAD}:{name}"]
    printed = ipa(*arguments, "-o", "json", code=1)
    figures = json.loads(printed.out)
    # The first tick has no load yet, and asks no policy.
    assert figures["failed_ticks"] == sum(figures["decisions_by_reason"].values()) - 1 > 0
    assert figures["first_failure"].startswith("tick 2, ") and words in figures["first_failure"]
    assert f"error: {BAD}:{name} failed at ticks" in printed.err and figures["first_failure"] in printed.err
    printed = ipa(*arguments, "--allow-failures")
    assert f"ticks that failed {figures['failed_ticks']}" in " ".join(printed.out.split())
    assert printed.err.startswith(f"warning: {BAD}:{name} failed at ticks")


def test_one_failure_of_many_ticks_is_told(ipa: Ipa) -> None:
    arguments = ["simulate", "video", *MINUTE, "--policy", f"{BAD}:FirstRaising", "--repeats", "2"]
    figures = json.loads(ipa(*arguments, "-o", "json", code=1).out)
    assert 0 < figures["failed_ticks"] < sum(figures["decisions_by_reason"].values()) - 1
    assert figures["first_failure"].startswith("tick 2, ")


@pytest.mark.parametrize(
    ("name", "words"),
    [("BadForecaster", "raised IndexError"), ("NanForecaster", "answered nan and nan rps")],
)
def test_a_forecaster_that_fails_is_no_result(name: str, words: str, ipa: Ipa) -> None:
    err = ipa("simulate", "video", *MINUTE, "--forecaster", f"{BAD}:{name}", code=1).err
    assert f"{BAD}:{name}: failed, forecaster '{BAD}:{name}'" in err and words in err


def test_a_forecaster_without_enough_history_has_not_failed(ipa: Ipa) -> None:
    figures = json.loads(ipa("simulate", "video", *MINUTE, "--forecaster", "level", "-o", "json").out)
    assert (figures["failed_ticks"], figures["first_failure"]) == (0, None)


@pytest.mark.parametrize("option", [f"--policy={BAD}:Hanging", f"--forecaster={BAD}:HangingForecaster"])
def test_what_hangs_is_given_up(option: str, monkeypatch: pytest.MonkeyPatch, ipa: Ipa) -> None:
    monkeypatch.setattr(simulation, "PLUGIN_LIMIT_S", 0.01)
    monkeypatch.setattr(running, "PLUGIN_LIMIT_S", 0.01)
    assert "no answer within 0.01 s" in ipa("simulate", "video", *MINUTE, option, code=1).err


def test_a_comparison_marks_the_row_that_failed_and_keeps_none_of_it(tmp_path: Path, ipa: Ipa) -> None:
    policies = f"static,{BAD}:Raising"
    arguments = ["compare", "video", *MINUTE, "--policies", policies, "--seeds", "2", "--workers", "1"]
    arguments += ["--out", str(tmp_path)]
    printed = ipa(*arguments, code=1)
    (folder,) = tmp_path.glob("compare-*")
    runs = {row["run"]: row for row in pq.read_table(folder / RUNS).to_pylist()}
    failed = [row for row in runs.values() if row["failed_ticks"]]
    assert [row["policy"] for row in failed] == [f"{BAD}:Raising"] * 2
    total = sum(row["failed_ticks"] for row in failed)
    assert f"{BAD}:Raising ✗ failed at {total} ticks" in printed.out and printed.out.count("✗ failed") == 1
    assert f":Raising ✗ failed at {total} ticks" in (folder / "report.html").read_text()
    assert failed[0]["first_failure"] in printed.err and "--allow-failures" in printed.err
    ticks = [row for row in pq.read_table(folder / TICKS).to_pylist() if row["failure"]]
    assert len(ticks) == total and {row["run"] for row in ticks} == {row["run"] for row in failed}
    # What failed is computed again, since the cause may be gone.
    assert "2 cells to compute" in ipa(*arguments, "--allow-failures").err


def test_every_policy_is_checked_before_the_first_cell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ipa: Ipa
) -> None:
    computed: list[object] = []
    monkeypatch.setattr("ipa.experiment.simulated.simulate", computed.append)
    policies = f"static,infadapter,{BAD}:NotMade"
    arguments = ["--workers", "1", "--out", str(tmp_path)]
    err = ipa("compare", "video", "--policies", policies, *arguments, code=64).err
    assert "nothing was computed" in err and "cannot be planned as a set" in err
    assert "infadapter" in err and "raised KeyError: 'weights.bin'" in err
    file = tmp_path / "experiment.yaml"
    file.write_text(
        "apiVersion: ipa/v1\nkind: Experiment\nname: try\ntitle: try\nquestion: try?\nrunner: simulate\n"
        "minutes: 1\nseeds: [1]\npipelines: [video]\nworkloads: [bursty]\npolicies: [static, infadapter]\n"
    )
    for more in ([], ["--check"]):
        assert "infadapter" in ipa("experiment", "run", str(file), *arguments, *more, code=64).err
    assert computed == []
