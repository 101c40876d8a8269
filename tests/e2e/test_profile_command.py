"""`ipa profile` with a real model server: what a quiet machine measures passes `ipa fit`."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from ipa.files import load_profile
from tests.fakes.commands import Ipa

pytestmark = [pytest.mark.local, pytest.mark.xdist_group("local")]


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


def test_what_the_defaults_measure_passes_fit(file: Path, ipa: Ipa) -> None:
    err = ipa("profile", "digits", "--write").err
    if "scatters" in err:
        pytest.skip(f"others used the CPUs: {err.splitlines()[-1]}")
    assert len(load_profile(file).variants[0].points) == 12
    ipa("fit", "digits", "--strict")
