"""One model server at a time, alone on this machine: what `ipa profile` measures."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import httpx

from ipa.model.errors import UnavailableError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.targets.local.affinity import CpuMap
from ipa.targets.local.processes import ForkedProcesses
from ipa.targets.local.replica import launch, preloads

READY_TIMEOUT_S = 60.0
READY_POLL_S = 0.02
STOP_TIMEOUT_S = 10.0
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Served:
    """A model server that answers: where, and how long after its start it did."""

    url: str
    pid: int
    readiness_s: float

    def memory_gib(self) -> float:
        """The most memory it has had so far."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / GIB
        raise UnavailableError(f"the model server {self.pid} has ended")


class Bench:
    """Starts replicas of a pipeline's variants as the local runtime does, one after the other."""

    def __init__(self, pipeline: Pipeline, folder: Path) -> None:
        self._pipeline = pipeline
        self._folder = folder
        self._numbers = count(1)
        self._exited: set[int] = set()
        self._exit = threading.Condition()
        self._processes = ForkedProcesses(folder, preloads(pipeline), self._on_exit)

    def close(self) -> None:
        """End every process."""
        self._processes.close()

    @contextmanager
    def serve(self, stage: str, variant: str, cores: float) -> Iterator[Served]:
        """A replica that is ready; it has ended afterwards. UnavailableError where it does not get ready."""
        cpus = CpuMap()
        config = StageConfig(stage=stage, variant=variant, batch_size=1, cores=cores, replicas=1)
        started_s = time.monotonic()
        replica = launch(
            self._processes, cpus, self._folder, self._pipeline, config, next(self._numbers), started_s
        )
        try:
            with httpx.Client(timeout=READY_TIMEOUT_S) as client:
                while not replica.is_ready(client):
                    late = time.monotonic() - started_s > READY_TIMEOUT_S
                    if late or replica.pid in self._exited:
                        raise UnavailableError(
                            f"{stage}/{variant} did not get ready: {replica.last_words()}",
                            hint=f"See {replica.log}",
                        )
                    time.sleep(READY_POLL_S)
            yield Served(replica.url, replica.pid, time.monotonic() - started_s)
        finally:
            self._stop(replica.pid)

    def _stop(self, pid: int) -> None:
        self._processes.kill(pid, signal.SIGKILL)
        with self._exit:
            if not self._exit.wait_for(lambda: pid in self._exited, timeout=STOP_TIMEOUT_S):
                raise UnavailableError(f"the model server {pid} does not end")

    def _on_exit(self, pid: int, code: int) -> None:
        with self._exit:
            self._exited.add(pid)
            self._exit.notify_all()
