"""Runs the tests marked `live`, and once more those that failed: `make test-live`.

Those of Chromium and of model servers wait for what comes, so the two kinds run beside each other. The others
measure real time on this machine and run one after another; still another process may disturb one. The rule:
a test that failed is run once more, alone, after all others. It passes if it passes then, and is named; a
test that fails twice fails the run. No bound is loosened. What fails in many tests is no other process, and
tests that wait in vain take minutes each: the fifth failure of a kind ends the run.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

MOST_FAILURES = 5
# What each run picks, with its options: all tests of one kind are one group.
RUNS = (
    ("browser or local", ("-n", "2", "--dist", "loadgroup")),
    ("live and not browser and not local", ()),
)


@dataclass(eq=False)  # pluggy keeps plugins in sets: by identity
class Failures:
    """A pytest plugin that keeps the ids of the tests that failed, and whether too many did."""

    ids: dict[str, None] = field(default_factory=dict)
    ended_run: bool = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the id, whether the test failed itself or its fixtures did, without its group's name."""
        if report.failed:
            self.ids[re.sub(r"@[\w-]+$", "", report.nodeid)] = None

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Keep whether there were too many; a test can count twice, for itself and for what it leaves."""
        self.ended_run = bool(session.shouldfail)


def main(options: list[str]) -> int:
    """Run the live tests with these options of pytest and return an exit code."""
    failures = Failures()
    for marks, how in RUNS:
        code = pytest.main(["-m", marks, f"--maxfail={MOST_FAILURES}", *how, *options], plugins=[failures])
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED):
            return code
        if failures.ended_run:
            return pytest.ExitCode.TESTS_FAILED
    if not failures.ids:
        return 0
    print(f"failed at first, run again alone: {', '.join(failures.ids)}", flush=True)
    # In a process of its own: whatever the failed tests left in this one is not there.
    return subprocess.run([sys.executable, "-m", "pytest", *failures.ids], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
