"""The most memory that this process has held."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
RESET = Path("/proc/self/clear_refs")


def reset_peak() -> None:
    """Forget the peak so far, where the system can (Linux)."""
    if RESET.exists():
        RESET.write_text("5")


def peak_mb() -> float:
    """The largest resident set of this process, in MB (2**20 bytes).

    VmHWM where there is one. `ru_maxrss` of a new process starts with the peak of the process that made it,
    so it is the second choice.
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
