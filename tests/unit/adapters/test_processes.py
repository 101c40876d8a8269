"""Child processes: limits of time, and what a child started ends with it."""

from __future__ import annotations

import sys

import pytest

from ipa.adapters.processes import child_environment, run

# Starts a grandchild that holds the pipes open, says its number, and waits for it.
FAMILY = (
    "import subprocess, sys; each = subprocess.Popen(['sleep', '6000']); "
    "print(each.pid, flush=True); each.wait()"
)
# More than the children take to start, far less than they would run.
WAIT_S = 300.0


def test_a_command_that_is_late_ends_with_what_it_started() -> None:
    with pytest.raises(TimeoutError):
        run([sys.executable, "-c", FAMILY], given=None, env=child_environment(), limit_s=1.0)


def test_a_command_is_given_its_input_and_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    done = run(["cat"], given=b"words", env=child_environment(), limit_s=WAIT_S)
    assert (done.returncode, done.stdout) == (0, b"words")
    assert b"canary" not in run(["env"], given=None, env=child_environment(), limit_s=WAIT_S).stdout
