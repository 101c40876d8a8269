"""Runs the tests marked `live`, and once more those that failed: `make test-live`.

They measure real time on this machine, so another process may disturb one. The rule: a test that failed is
run once more, alone, after all others. It passes if it passes then, and is named; a test that fails twice
fails the run. No bound is loosened.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field

import pytest


@dataclass(eq=False)  # pluggy keeps plugins in sets: by identity
class Failures:
    """A pytest plugin that keeps the ids of the tests that failed."""

    ids: dict[str, None] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the id, whether the test failed itself or its fixtures did."""
        if report.failed:
            self.ids[report.nodeid] = None


def main(options: list[str]) -> int:
    """Run the live tests with these options of pytest and return the exit code of the last run."""
    failures = Failures()
    code = pytest.main(["-m", "live", *options], plugins=[failures])
    if code != pytest.ExitCode.TESTS_FAILED:
        return code
    print(f"failed at first, run again alone: {', '.join(failures.ids)}", flush=True)
    # In a process of its own: whatever the failed tests left in this one is not there.
    return subprocess.run([sys.executable, "-m", "pytest", *failures.ids], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
