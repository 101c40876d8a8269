"""`ipa profile` with a real model server: a quiet machine passes `ipa fit`, busy loops beside are told."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from ipa.cli.main import run
from ipa.files import load_profile
from ipa.profiling.measure import LOOK_S, QUIET_RATIO, foreign_use
from ipa.targets.local.bench import cpu_times

pytestmark = [pytest.mark.local, pytest.mark.xdist_group("local")]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The profile to write, of a pipeline that is one stage of one variant of digits."""
    # Its runtime and its models are imported from where they are.
    monkeypatch.chdir(root)
    folder = tmp_path / "pipelines" / "digits"
    shutil.copytree(root / "pipelines" / "digits", folder, ignore=shutil.ignore_patterns("__pycache__"))
    described = yaml.safe_load((folder / "pipeline.yaml").read_text("utf-8"))
    (stage,) = (each for each in described["stages"] if each["name"] == "classify")
    stage["variants"] = [each for each in stage["variants"] if each["name"] == "logistic"]
    described |= {"graph": ["classify"], "stages": [stage]}
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(described), encoding="utf-8")
    (folder.parent / "__init__.py").touch()
    monkeypatch.setenv("IPA_PIPELINES_DIR", str(folder.parent))
    monkeypatch.setenv("IPA_PROFILES_DIR", str(tmp_path / "profiles"))
    return tmp_path / "profiles" / "digits" / "classify.yaml"


@pytest.fixture
def busy() -> Iterator[None]:
    """A busy loop for each CPU."""
    with ExitStack() as stack:
        for _ in os.sched_getaffinity(0):
            loop = stack.enter_context(subprocess.Popen([sys.executable, "-c", "while 1: pass"]))
            stack.callback(loop.kill)
        yield


@pytest.fixture
def quiet() -> None:
    """Skips unless the machine is quiet: beside other tests it measures for minutes, and shows nothing."""
    before = cpu_times(())
    time.sleep(LOOK_S)
    after = cpu_times(())
    use = foreign_use(before, after, cores=1.0) if before and after else None
    if use is not None and not use.is_quiet:
        pytest.skip(f"{use}: run it alone")


@pytest.mark.usefixtures("quiet")
def test_what_the_defaults_measure_passes_fit(file: Path, capsys: Capture) -> None:
    assert run(["profile", "digits", "--write"]) == 0
    said = capsys.readouterr().err
    if "DISTURBED" in said:
        pytest.skip(f"others used the CPUs: {said.splitlines()[-1]}")
    assert len(load_profile(file).variants[0].points) == 12
    assert run(["fit", "digits", "--strict"]) == 0, capsys.readouterr().out


@pytest.mark.usefixtures("busy")
def test_busy_loops_beside_are_told_and_recorded(file: Path, capsys: Capture) -> None:
    words = ["--cores", "1", "--batches", "1,2,4", "--repeats", "900", "--budget", "1.5", "--wait-quiet", "0"]
    assert run(["profile", "digits", "--write", *words]) == 0
    said = capsys.readouterr().err
    assert said.count("DISTURBED: others used") == 3
    assert "warning: 3 of 3 points were measured while others used more than 10% of their CPUs" in said
    points = load_profile(file).variants[0].points
    assert all((point.foreign_cpu_ratio or 0) > QUIET_RATIO for point in points)
    assert run(["validate", str(file)]) == 0
    assert capsys.readouterr().out.startswith("WARNING ")
