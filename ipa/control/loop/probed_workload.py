"""A workload whose changes are ready once a smoke request is answered, if the pipeline asks for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ipa.control.ports import CreatingWorkload, Rollout, RolloutPhase, Workload, WorkloadState
from ipa.model.decision import Change
from ipa.model.errors import IpaError, UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.probe import AfterRollout, PipelineProbe, ProbeResult
from ipa.model.rolling import Rolling

log = logging.getLogger("ipa.control")

# A connection may break while the parts before the pods learn of them; three ticks are enough for that.
ATTEMPTS = 3

Send = Callable[[Pipeline, PipelineProbe], ProbeResult]


@dataclass(frozen=True, slots=True)
class _Probed:
    """The requests after one change: how many failed, and the last fault; empty if one was answered.

    `is_unsent`: none can be sent from here, which says nothing of the change.
    """

    decision_id: str
    failed: int = 0
    fault: str = ""
    is_unsent: bool = False

    @property
    def is_over(self) -> bool:
        return not self.fault or self.is_unsent or self.failed >= ATTEMPTS

    @property
    def words(self) -> str:
        if self.is_unsent:
            return f"the smoke request cannot be sent: {self.fault}"
        return f"the smoke request failed ({self.failed} of {ATTEMPTS}): {self.fault}"


class ProbedWorkload:
    """A workload that sends the smoke request of a pipeline once a change of it is ready.

    The change stays in progress until the request is answered. After `ATTEMPTS` failures its rollout has
    failed, or it is ready and the state has the problem, as `after_rollout` says; a rollback never fails by
    it. Nothing is sent for a pipeline without `after_rollout`, nor after what was not changed here.
    """

    def __init__(self, workload: Workload, send: Send) -> None:
        self._workload, self._send = workload, send
        # By pipeline, of its last change; each is read and written by the one loop of its pipeline.
        self._probed: dict[str, _Probed] = {}

    @property
    def rolling(self) -> Rolling:
        """The way in which the workload replaces replicas."""
        return self._workload.rolling

    def read(self, pipeline: Pipeline) -> WorkloadState:
        """The state of the workload, with the problem if the request after its last change failed."""
        state = self._workload.read(pipeline)
        found = self._probed.get(pipeline.name)
        if found is None or not found.fault or pipeline.probe is None:
            return state
        return replace(state, problem=state.problem or found.words)

    def write(self, pipeline: Pipeline, change: Change) -> str:
        """Write the change, as the workload does."""
        return self._workload.write(pipeline, change)

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        """The state of the rollout, which is READY once the smoke request was answered as well."""
        found = self._workload.rollout(pipeline, change)
        probe = pipeline.probe
        # With words it is another writer's change that is ready.
        is_ready = found.phase is RolloutPhase.READY and not found.detail
        if not is_ready or probe is None or probe.after_rollout is None or not change.decision_id:
            return found
        before = self._probed.get(pipeline.name)
        probed = before if before and before.decision_id == change.decision_id else None
        if probed is None or not probed.is_over:
            probed = self._probe(pipeline, probe, probed or _Probed(change.decision_id))
            self._probed[pipeline.name] = probed
        if not probed.fault:
            return found
        if not probed.is_over:
            return Rollout(RolloutPhase.PROGRESSING, probed.words)
        takes_back = probe.after_rollout is AfterRollout.ROLL_BACK and not change.is_rollback
        return Rollout(RolloutPhase.FAILED, probed.words) if takes_back and not probed.is_unsent else found

    def _probe(self, pipeline: Pipeline, probe: PipelineProbe, before: _Probed) -> _Probed:
        is_unsent = False
        try:
            fault = self._send(pipeline, probe).fault
        except IpaError as error:
            fault, is_unsent = str(error), isinstance(error, UsageError)
        if not fault:
            log.info("%s: the smoke request after %s was answered", pipeline.name, before.decision_id)
            return _Probed(before.decision_id)
        probed = _Probed(before.decision_id, before.failed + 1, fault, is_unsent)
        log.warning("%s: after %s %s", pipeline.name, before.decision_id, probed.words)
        return probed


class ProbedCreating(ProbedWorkload):
    """As `ProbedWorkload`, over a workload that also creates what is not there yet."""

    def __init__(self, workload: CreatingWorkload, send: Send) -> None:
        super().__init__(workload, send)
        self._creating = workload

    def create(self, pipeline: Pipeline, configs: Sequence[StageConfig]) -> str:
        """Create the workload; its revision."""
        return self._creating.create(pipeline, configs)

    def as_written(self, pipeline: Pipeline, configs: Sequence[StageConfig]) -> tuple[StageConfig, ...]:
        """The configurations as they read back once written; InputError lists what must not be written."""
        return self._creating.as_written(pipeline, configs)
