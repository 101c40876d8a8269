"""Experiments: the same bytes whether a run was whole, killed or interrupted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.lab.tables import RUNS, TICKS, read_rows

FILE = """
apiVersion: ipa/v1
kind: Experiment
name: try
title: A try & more
question: Does it work?
runner: simulate
minutes: 2
seeds: [1, 2, 3]
pipelines: [video]
workloads: [bursty, steady_low]
policies: [ours, ipa]
reference: ipa
"""
RUNS_THERE = 2 * 2 * 3


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "experiment.yaml"
    path.write_text(FILE)
    return path


def conduct(root: Path, file: Path, out: Path, *options: str, **environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-m", "tests.fakes.lab", str(file), str(out), *options],
        cwd=root,
        env={**os.environ, "IPA_SHARED_DATA": str(out / "none"), **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


@pytest.fixture(scope="module")
def whole(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an experiment that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    (out / "experiment.yaml").write_text(FILE)
    assert conduct(root, out / "experiment.yaml", out) == 0
    return out


def results(out: Path) -> dict[str, bytes]:
    names = (RUNS, TICKS, "report.html", "headline.html")
    return {name: (out / "try" / name).read_bytes() for name in names}


def kept(out: Path) -> int:
    return len(list((out / "try" / "runs").glob("*.json")))


@pytest.mark.parametrize(("name", "code"), [("SIGKILL", -signal.SIGKILL), ("SIGINT", 130), ("SIGTERM", 130)])
def test_resumed_gives_the_same_bytes(
    root: Path, file: Path, whole: Path, tmp_path: Path, name: str, code: int
) -> None:
    broken = tmp_path / "broken"
    strike = {"LAB_STRIKE": "6", "LAB_SIGNAL": name, "LAB_COUNTER": str(tmp_path / "counter")}
    assert conduct(root, file, broken, **strike) == code
    assert 0 < kept(broken) < RUNS_THERE
    assert not (broken / "try" / RUNS).exists()
    before = kept(broken)
    counter = tmp_path / "again"
    again = {"LAB_STRIKE": "999", "LAB_SIGNAL": name, "LAB_COUNTER": str(counter)}
    assert conduct(root, file, broken, "--resume", **again) == 0
    # Only what was missing is made.
    assert counter.stat().st_size == RUNS_THERE - before
    assert results(broken) == results(whole)


def test_without_resume_all_is_made_again(root: Path, whole: Path, tmp_path: Path) -> None:
    first, counter = results(whole), tmp_path / "counter"
    count = {"LAB_STRIKE": "999", "LAB_SIGNAL": "SIGKILL", "LAB_COUNTER": str(counter)}
    assert conduct(root, whole / "experiment.yaml", whole, **count) == 0
    assert counter.stat().st_size == RUNS_THERE
    assert results(whole) == first


def test_tables_and_page(whole: Path) -> None:
    rows = read_rows(whole / "try" / RUNS)
    assert [row["run"] for row in rows] == list(range(RUNS_THERE))
    assert [(row["workload"], row["policy"], row["seed"]) for row in rows[:4]] == [
        ("bursty", "ours", 1),
        ("bursty", "ours", 2),
        ("bursty", "ours", 3),
        ("bursty", "ipa", 1),
    ]
    ticks = read_rows(whole / "try" / TICKS)
    # Ticks are kept of the first seed, and say which run they are of.
    assert {tick["run"] for tick in ticks} == {0, 3, 6, 9}
    page = (whole / "try" / "report.html").read_text()
    assert "<title>A try &amp; more</title>" in page
    assert page.count("<svg") >= 6
    # Nothing is fetched: no links but anchors, no sources but namespaces.
    assert not re.search(r"(?:src|href)\s*=\s*[\"'](?!#)", page)
    assert "@import" not in page
    assert "url(http" not in page
