"""The tutorial's commands, one after another as they are printed, over the simulated world."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.xdist_group("first-hour"), pytest.mark.timeout(420)]


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("first_hour", ROOT / "tools" / "first_hour.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["first_hour"] = module
    spec.loader.exec_module(module)
    return module


def test_every_step_of_the_first_hour_works_as_printed(tool: ModuleType, tmp_path: Path) -> None:
    for name in ("pipelines", "profiles"):
        shutil.copytree(ROOT / name, tmp_path / name)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    took = tool.run(tmp_path, path, tool.TUTORIAL.read_text())
    titles = [step.title for step in tool.steps_of(tool.TUTORIAL.read_text())]
    assert ["1. Install", *took] == titles
    assert len(took) == 6
    assert all(title in tool.table(took) for title in took)


def test_what_does_not_go_as_printed_is_said(tool: ModuleType, tmp_path: Path) -> None:
    path = os.environ["PATH"]
    for block, words in (("$ false", "exit code 1"), ("$ echo a\nb", "printed")):
        with pytest.raises(tool.FailedError, match=words):
            tool.run(tmp_path, path, f"## 1. Try\n\n```console\n{block}\n```\n")
    assert tool.run(tmp_path, path, "## 1. Try\n\n```yaml\n# a.yaml\nb: 1\n```\n")
    assert (tmp_path / "a.yaml").read_text() == "b: 1\n"


def test_the_readme_names_what_the_first_hour_uses() -> None:
    text = (ROOT / "README.md").read_text()
    for words in ("ipa demo", "ipa init", "ipa import", "ipa doctor", "make first-hour"):
        assert words in text
