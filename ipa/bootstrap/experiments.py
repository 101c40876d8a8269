"""The queue of experiments, over processes of this machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from ipa.adapters.processes import JsonChild
from ipa.control.ports import Clock
from ipa.service.job_queue import JobQueue

WORKER = (sys.executable, "-m", "ipa.bootstrap.experiment_worker")


def experiment_jobs(clock: Clock, command: Sequence[str] = WORKER, **bounds: Any) -> JobQueue:
    """A queue of experiments, each in a process of the `command`; `bounds` are those of `JobQueue`."""
    return JobQueue(clock, partial(JsonChild, command), **bounds)
