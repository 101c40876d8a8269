"""The Workload port over processes of this machine, and the bench that measures variants on it."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import httpx

from ipa.control.ports import Rollout, RolloutPhase, WorkloadState
from ipa.metering import table
from ipa.metering.make import Figures, Values
from ipa.model.decision import Change
from ipa.model.errors import (
    ConflictError,
    NotFoundError,
    Problem,
    RolloutError,
    UnavailableError,
    UsageError,
)
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.resources import Resources
from ipa.model.rolling import PROCESSES
from ipa.targets.local.forkserver import ForkedProcesses
from ipa.targets.local.replica import launch, preloads
from ipa.targets.local.runner import PipelineRunner
from ipa.targets.requests import MeasuredServer, machine

# The first start imports every library and may train or unpack models.
START_TIMEOUT_S = 180.0
POLL_S = 0.05
# For a replica to get ready, and for the answer to a batch.
BENCH_TIMEOUT_S = 60.0
READY_POLL_S = 0.02
STOP_TIMEOUT_S = 10.0
GIB = 2**30
METHOD = (
    "One MLServer replica as the local runtime starts it: a thread a core, below one core the CPU quota of "
    "ipa.dataplane.quota. One client sends batches back to back over HTTP on loopback, JSON coding included; "
    "latency is the p99 of a batch, throughput the batch size over the mean."
)


class LocalWorkload:
    """The Workload port over local processes; `folder` takes logs and the servers' settings.

    Every process ends with `stop` or with this process, however that ends.
    """

    rolling = PROCESSES

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runners: dict[str, PipelineRunner] = {}
        self._lock = threading.Lock()

    def start(self, pipeline: Pipeline, configs: Sequence[StageConfig], port: int = 0) -> None:
        """Start the pipeline and return once it answers, on that port; 0: its last port, or a free one.

        Errors: UsageError (a variant needs accelerators, which local processes do not get), ConflictError (it
        runs already), UnavailableError (the port is in use), RolloutError (it did not start).
        """
        _check_accelerators(pipeline)
        with self._lock:
            if pipeline.name in self._runners:
                raise ConflictError(f"pipeline {pipeline.name} is already running")
            home = self._folder.resolve() / pipeline.name
            runner = PipelineRunner(pipeline, configs, home, port)
            self._runners[pipeline.name] = runner
        give_up_s = time.monotonic() + START_TIMEOUT_S
        while True:
            rollout = runner.progress()
            if rollout.phase is RolloutPhase.READY and runner.is_answering():
                return
            if rollout.phase is RolloutPhase.FAILED or time.monotonic() > give_up_s:
                self._stop_one(pipeline.name)
                raise RolloutError(
                    f"pipeline {pipeline.name} did not start: {rollout.detail}",
                    hint=f"The logs are in {self._folder / pipeline.name}",
                )
            time.sleep(POLL_S)

    def check(self, pipeline: Pipeline) -> None:
        """ConflictError if the pipeline needs a restart; UsageError if it needs accelerators."""
        _check_accelerators(pipeline)
        self.runner(pipeline.name).check(pipeline)

    def adopt(self, pipeline: Pipeline) -> None:
        """Take over the pipeline's changed file, with the running replicas."""
        self.runner(pipeline.name).adopt(pipeline)

    def stop(self) -> None:
        """End every process of every pipeline."""
        for name in list(self._runners):
            self._stop_one(name)

    def read(self, pipeline: Pipeline) -> WorkloadState:
        """The wanted configuration of each stage, and its ready replicas."""
        return self.runner(pipeline.name).read(pipeline)

    def write(self, pipeline: Pipeline, change: Change) -> str:
        """The new revision, at once; the change is carried out in the background."""
        return self.runner(pipeline.name).write(change)

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        """The state of the rollout of a written change."""
        runner = self.runner(pipeline.name)
        if runner.decision_id != change.decision_id:
            return Rollout(RolloutPhase.REPLACED, "another change was written after it")
        return runner.progress()

    def runner(self, pipeline: str) -> PipelineRunner:
        """The runner of the pipeline: its endpoint, processes and cost. NotFoundError: it does not run."""
        runner = self._runners.get(pipeline)
        if runner is None:
            raise NotFoundError(f"no pipeline {pipeline!r} runs on this machine")
        return runner

    def _stop_one(self, name: str) -> None:
        with self._lock:
            runner = self._runners.pop(name, None)
        if runner:
            runner.stop()


def _check_accelerators(pipeline: Pipeline) -> None:
    """UsageError lists the variants that need accelerators."""
    problems = [
        Problem(f"variant {variant!r} of stage {stage!r} needs {Resources(accelerators=kinds)}")
        for (stage, variant), measured in pipeline.bounds.measured.items()
        if (kinds := measured.beside.accelerators)
    ]
    if problems:
        raise UsageError(
            f"pipeline {pipeline.name!r} needs accelerators, which local processes do not get",
            hint="Run it with --target kubernetes, or remove these variants from its file.",
            problems=problems,
        )


def cost_figures(workload: LocalWorkload, pipelines: Sequence[str]) -> Figures:
    """Return the core-seconds allocated, the replicas replaced and the queues corrected, by pipeline."""

    def read(value: Callable[[PipelineRunner], float]) -> Callable[[], Values]:
        return lambda: [((name,), value(workload.runner(name))) for name in pipelines]

    return Figures(
        (table.ALLOCATED, read(lambda runner: runner.core_seconds)),
        (table.RESTARTS, read(lambda runner: runner.restarts)),
        (table.CORRECTIONS, read(lambda runner: runner.corrections)),
    )


def most_memory_gib(pid: int) -> float:
    """The peak memory of the process. UnavailableError: it exited."""
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
        self.hardware = machine()

    def close(self) -> None:
        """End every process."""
        self._processes.close()

    @contextmanager
    def serve(
        self, stage: str, variant: str, cores: float, within_s: float = BENCH_TIMEOUT_S
    ) -> Iterator[MeasuredServer]:
        """A replica that is ready, and ends with the block.

        UnavailableError if it does not become ready, or does not answer a batch, `within_s`.
        """
        config = StageConfig(stage=stage, variant=variant, batch_size=1, cores=cores, replicas=1)
        started_s = time.monotonic()
        replica = launch(
            self._processes, self._folder, self._pipeline, config, next(self._numbers), started_s
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
            self._processes.kill(replica.pid, signal.SIGKILL)
            with self._exit:
                if not self._exit.wait_for(lambda: replica.pid in self._exited, timeout=STOP_TIMEOUT_S):
                    raise UnavailableError(f"the model server {replica.pid} did not exit")

    def _on_exit(self, pid: int, code: int) -> None:
        with self._exit:
            self._exited.add(pid)
            self._exit.notify_all()
