"""The rule by which a live test that failed is run once more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CONFIGURATION = """
[pytest]
markers =
    live: needs real time
    browser: drives Chromium
    local: starts servers
"""
# A plug-in that is not needed takes a second.
PLUGINS = {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_PLUGINS": "xdist.plugin"}
HEAD = """
from pathlib import Path
import pytest
SEEN = Path(__file__).with_name("seen")
def test_of_the_other_command(): raise AssertionError
@pytest.mark.live
def test_that_passes(): SEEN.with_name("passes").open("a").write("run\\n")
"""
DISTURBED_ONCE = """
@pytest.mark.live
def test_disturbed_once():
    seen = SEEN.exists()
    SEEN.touch()
    assert seen
"""
BROKEN = """
@pytest.mark.live
def test_broken(): assert not SEEN.touch() and False
"""


def live_tests(folder: Path, root: Path, tests: str) -> subprocess.CompletedProcess[str]:
    """`make test-live` over a file with these tests."""
    (folder / "pytest.ini").write_text(CONFIGURATION)
    (folder / "test_it.py").write_text(HEAD + tests)
    return subprocess.run(
        [sys.executable, "-m", "tools.live_tests", "-q"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(root)} | PLUGINS,
        capture_output=True,
        text=True,
        check=False,
    )


def test_those_that_failed_are_run_again_alone_and_one_that_fails_twice_fails_the_run(
    tmp_path: Path, root: Path
) -> None:
    run = live_tests(tmp_path, root, DISTURBED_ONCE + BROKEN)
    assert run.returncode == 1, run.stdout
    named = "test_it.py::test_disturbed_once, test_it.py::test_broken"
    assert f"failed at first, run again alone: {named}\n" in run.stdout
    assert "1 failed, 1 passed" in run.stdout.rstrip().splitlines()[-1]
    assert (tmp_path / "passes").read_text() == "run\n"


def test_nothing_is_run_again_where_all_pass(tmp_path: Path, root: Path) -> None:
    run = live_tests(tmp_path, root, "")
    assert (run.returncode, "run again" in run.stdout) == (0, False)


def test_the_fifth_failure_ends_the_run(tmp_path: Path, root: Path) -> None:
    spoilt = "@pytest.fixture\ndef spoilt():\n    yield\n    raise OSError\n"
    alike = "".join(BROKEN.replace("broken()", f"broken_{at}(spoilt)") for at in range(9))
    run = live_tests(tmp_path, root, spoilt + alike)
    assert (run.returncode, "run again" in run.stdout) == (1, False)
    assert "3 failed, 1 passed, 1 deselected, 3 errors" in run.stdout
