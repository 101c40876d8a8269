"""Pipelines as processes of this machine, behind the same port as those on Kubernetes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from pathlib import Path

from ipa.control.ports import Rollout, RolloutPhase, StageState, WorkloadState
from ipa.model.decision import Change
from ipa.model.errors import ConflictError, NotFoundError, Problem, RolloutError, UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.resources import Resources
from ipa.model.rolling import SIDE_BY_SIDE
from ipa.targets.local.affinity import CpuMap
from ipa.targets.local.runner import PipelineRunner

# The first start imports every library and may train or unpack models.
START_TIMEOUT_S = 180.0
POLL_S = 0.05


class LocalWorkload:
    """The Workload port over local processes; `folder` takes logs and the servers' settings.

    Every process ends with `stop` or with this process, however that ends.
    """

    rolling = SIDE_BY_SIDE

    def __init__(self, folder: Path, *, cpus: Sequence[int] | None = None) -> None:
        self._folder = folder
        self._cpus = CpuMap(cpus)
        self._runners: dict[str, PipelineRunner] = {}
        self._lock = threading.Lock()

    def start(self, pipeline: Pipeline, configs: Sequence[StageConfig]) -> None:
        """Return once the pipeline answers.

        Errors: UsageError (a variant needs accelerators, which no process here is given), ConflictError (it
        runs already), RolloutError (it did not start).
        """
        _check_accelerators(pipeline)
        with self._lock:
            if pipeline.name in self._runners:
                raise ConflictError(f"pipeline {pipeline.name} is already running")
            runner = PipelineRunner(pipeline, configs, self._folder.resolve() / pipeline.name, self._cpus)
            self._runners[pipeline.name] = runner
        give_up_s = time.monotonic() + START_TIMEOUT_S
        while True:
            is_settled, failed, waits = runner.progress()
            if is_settled and runner.is_answering():
                return
            if failed or time.monotonic() > give_up_s:
                self._stop_one(pipeline.name)
                raise RolloutError(
                    f"pipeline {pipeline.name} did not start: {'; '.join(failed or waits)}",
                    hint=f"The logs are in {self._folder / pipeline.name}",
                )
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End every process of every pipeline."""
        for name in list(self._runners):
            self._stop_one(name)

    def read(self, pipeline: Pipeline) -> WorkloadState:
        """The wanted configuration of each stage, and its ready replicas."""
        revision, stages, is_settled = self._runner(pipeline.name).state()
        return WorkloadState(revision, tuple(StageState(*stage) for stage in stages), is_settled)

    def write(self, pipeline: Pipeline, change: Change) -> str:
        """The new revision, at once; the change is carried out in the background."""
        return self._runner(pipeline.name).set_desired(change.configs, change.revision, change.decision_id)

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        """The state of the rollout of a written change."""
        runner = self._runner(pipeline.name)
        if runner.decision_id != change.decision_id:
            return Rollout(RolloutPhase.FAILED, "another change was written after it")
        is_settled, failed, waits = runner.progress()
        if failed:
            return Rollout(RolloutPhase.FAILED, "; ".join(failed))
        return (
            Rollout(RolloutPhase.READY) if is_settled else Rollout(RolloutPhase.PROGRESSING, "; ".join(waits))
        )

    def endpoint(self, pipeline: str) -> str:
        """Base URL of the pipeline's router."""
        return self._runner(pipeline).endpoint

    def scrape_targets(self, pipeline: str) -> list[str]:
        """host:port of every process with metrics: the router, then the stages' queues."""
        return self._runner(pipeline).scrape_targets

    def allocated_core_seconds(self, pipeline: str) -> float:
        """Cores of all its replicas over time, in seconds; replicas that overlap in a change count twice."""
        return self._runner(pipeline).core_seconds

    def replica_pids(self, pipeline: str, stage: str) -> list[int]:
        """Process ids of the stage's replicas that serve."""
        return self._runner(pipeline).pids(stage)

    def front_pids(self, pipeline: str) -> dict[str, int]:
        """Process ids of its `router` and each `queue-STAGE`; 0 for one that is being started."""
        return self._runner(pipeline).front_pids()

    def restarts(self, pipeline: str) -> int:
        """The number of its processes that ended unasked and were replaced."""
        return self._runner(pipeline).restarts

    def corrections(self, pipeline: str) -> int:
        """The number of times that one of its queues had another configuration than it was told."""
        return self._runner(pipeline).corrections

    def _runner(self, name: str) -> PipelineRunner:
        runner = self._runners.get(name)
        if runner is None:
            raise NotFoundError(f"no pipeline {name!r} runs on this machine")
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
