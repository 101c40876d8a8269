"""Commands whose process ends with the tests that start it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ipa.adapters.processes import PR_SET_PDEATHSIG, kill

# Becomes the given command, which ends with its parent. Without site-packages it starts in 20 ms.
LAUNCH = (
    f"import ctypes, os, signal, sys; ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, signal.SIGKILL); "
    "os.getppid() == int(sys.argv[1]) or sys.exit(1); os.execv(sys.argv[2], sys.argv[2:])"
)


def with_parent(command: Sequence[str]) -> list[str]:
    """Return the command wrapped so that the kernel kills it when the thread that starts it ends (Linux)."""
    return [sys.executable, "-ISc", LAUNCH, str(os.getpid()), *command]


def run_process(
    command: Sequence[str | Path], *, check: bool = False, **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, as `subprocess.run` with these options; its output is captured as text."""
    return subprocess.run(command, check=check, capture_output=True, text=True, **options)


def terminate(process: subprocess.Popen[bytes], within_s: float) -> None:
    """Send SIGTERM to the process, and kill its group if it does not exit within the time."""
    process.terminate()
    try:
        process.wait(within_s)
    except subprocess.TimeoutExpired:
        kill(process)
        process.wait()
