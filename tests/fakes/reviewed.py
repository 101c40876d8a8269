"""A git repository with one pipeline, its profiles and a trace, and changes to review."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from ipa.forecast.arrivals import workload_rates
from ipa.service import simulation
from ipa.simulate.run import SimResult, SimSetup, simulate

ROOT = Path(__file__).resolve().parents[2]
PIPELINE = "pipelines/video/pipeline.yaml"
# What is replaced in the pipeline's file: nothing that shows, accuracy worth twice, and half of the cores.
HARMLESS = ("drop_after: 10s", "drop_after: 8s")
COSTLY = ("    alpha: 10\n    beta: 0.05", "    alpha: 20\n    beta: 0.05")
BREAKING = ("max_replicas: 100}", "max_replicas: 100, cores: 8}")
# Seconds of the trace.
TRACE_S = 60
# One moment and one person, so that equal repositories have equal commits.
WHO = {
    f"GIT_{role}_{key}": value
    for role in ("AUTHOR", "COMMITTER")
    for key, value in (("NAME", "ann"), ("EMAIL", "ann@example.com"), ("DATE", "2026-11-24T12:00:00Z"))
}


def git(folder: Path, *words: str) -> str:
    """The output of that git command."""
    command = ["git", "-C", str(folder), *words]
    environment = {**os.environ, **WHO, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout


def make(folder: Path) -> Path:
    """The repository on branch `change`, which is where `main` is."""
    for kind in ("pipelines", "profiles"):
        for file in sorted((ROOT / kind / "video").glob("*.yaml")):
            target = folder / kind / "video" / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    (folder / "traces").mkdir()
    rates = workload_rates("fluctuating")[400 : 400 + TRACE_S]
    (folder / "traces" / "video.txt").write_text("".join(f"{rate:.0f}\n" for rate in rates))
    git(folder, "init", "--quiet", "-b", "main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "-m", "first")
    git(folder, "checkout", "--quiet", "-b", "change")
    return folder


RUNS: dict[str, SimResult] = {}


def remember(patch: pytest.MonkeyPatch) -> None:
    """Let reviews in this process simulate equal setups once."""

    def run(setup: SimSetup) -> SimResult:
        key = repr(setup)
        if key not in RUNS:
            RUNS[key] = simulate(setup)
        return RUNS[key]

    patch.setattr(simulation, "simulate", run)


def edit(file: Path, change: tuple[str, str]) -> None:
    """Replace the one text by the other, which must be there once."""
    text = file.read_text()
    assert text.count(change[0]) == 1, change
    file.write_text(text.replace(*change))


def entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new repository, as the working directory."""
    folder = tmp_path / "repository"
    folder.mkdir()
    make(folder)
    monkeypatch.chdir(folder)
    for name in ("IPA_PIPELINES_DIR", "IPA_PROFILES_DIR"):
        monkeypatch.delenv(name, raising=False)
    return folder
