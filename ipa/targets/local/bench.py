"""Starts one model server at a time on this machine for `ipa profile`."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import httpx

from ipa.model.errors import UnavailableError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.targets.local.affinity import CpuMap
from ipa.targets.local.processes import ForkedProcesses
from ipa.targets.local.replica import launch, preloads
from ipa.targets.requests import MeasuredServer, machine

# For a replica to get ready, and for the answer to a batch.
TIMEOUT_S = 60.0
READY_POLL_S = 0.02
STOP_TIMEOUT_S = 10.0
GIB = 2**30
METHOD = (
    "One MLServer replica as the local runtime starts it: its own CPU, below one core the CPU quota of "
    "ipa.dataplane.quota. One client sends batches back to back over HTTP on loopback, JSON coding included; "
    "latency is the p99 of a batch, throughput the batch size over the mean."
)


def most_memory_gib(pid: int) -> float:
    """The most memory that the process has had so far. UnavailableError: it exited."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / GIB
    raise UnavailableError(f"the model server {pid} exited")


class Bench:
    """Starts replicas of a pipeline's variants as the local runtime does, one after the other."""

    method = METHOD

    def __init__(self, pipeline: Pipeline, folder: Path) -> None:
        self._pipeline = pipeline
        self._folder = folder
        self._numbers = count(1)
        self._exited: set[int] = set()
        self._exit = threading.Condition()
        self._processes = ForkedProcesses(folder, preloads(pipeline), self._on_exit)

    @property
    def hardware(self) -> str:
        """The cores of this process and the name of the processor."""
        return machine()

    def close(self) -> None:
        """End every process."""
        self._processes.close()

    @contextmanager
    def serve(
        self, stage: str, variant: str, cores: float, within_s: float = TIMEOUT_S
    ) -> Iterator[MeasuredServer]:
        """A replica that is ready and ends with the block.

        UnavailableError if it does not get ready, or does not answer a batch, `within_s`.
        """
        cpus = CpuMap()
        config = StageConfig(stage=stage, variant=variant, batch_size=1, cores=cores, replicas=1)
        started_s = time.monotonic()
        replica = launch(
            self._processes, cpus, self._folder, self._pipeline, config, next(self._numbers), started_s
        )
        try:
            with httpx.Client(timeout=within_s) as client:
                while not replica.is_ready(client):
                    late = time.monotonic() - started_s > within_s
                    if late or replica.pid in self._exited:
                        raise UnavailableError(
                            f"{stage}/{variant} did not become ready: {replica.last_words()}",
                            hint=f"See {replica.log}",
                        )
                    time.sleep(READY_POLL_S)
            readiness_s = time.monotonic() - started_s
            with httpx.Client(timeout=within_s) as client:
                url, memory = f"{replica.model_url(variant)}/infer", partial(most_memory_gib, replica.pid)
                yield MeasuredServer(client, url, readiness_s, memory)
        finally:
            self._stop(replica.pid)

    def _stop(self, pid: int) -> None:
        self._processes.kill(pid, signal.SIGKILL)
        with self._exit:
            if not self._exit.wait_for(lambda: pid in self._exited, timeout=STOP_TIMEOUT_S):
                raise UnavailableError(f"the model server {pid} did not exit")

    def _on_exit(self, pid: int, code: int) -> None:
        with self._exit:
            self._exited.add(pid)
            self._exit.notify_all()
