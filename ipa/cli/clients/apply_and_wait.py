"""Carries out on a cluster what a person asked for: record, write, wait until ready, else take it back."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from dataclasses import replace

import typer

from ipa.bootstrap.targets import CreatingWorkload
from ipa.cli.clients.direct import NO_SIGNALS, RequestedConfigs
from ipa.control.canonical import canonical_json, digest
from ipa.control.engine.actuation import IN_FLIGHT, ActuationPhase, begin, sent
from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.overrides import stop_of
from ipa.control.engine.state import EngineState
from ipa.control.engine.write_outcome import unwritten
from ipa.control.loop.control_loop import ControlLoop, LoopPorts
from ipa.control.ports import (
    Attribution,
    Clock,
    ControlStore,
    DecisionLog,
    Load,
    PipelineControl,
    Rollout,
    RolloutPhase,
    Signals,
    WorkloadState,
)
from ipa.model.decision import Action, Change, Decision, Mode, ReasonCode
from ipa.model.errors import (
    ConflictError,
    DeadlineError,
    InfeasibleError,
    IpaError,
    RolloutError,
    UnavailableError,
)
from ipa.model.forecast import Forecast
from ipa.model.observation import LoadHistory, Observation
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StageConfig
from ipa.model.slowdown import AS_MEASURED, Slowdowns
from ipa.policies.base import PolicyState, Prediction
from ipa.settings import Settings

log = logging.getLogger("ipa.cli")

# How often it is looked whether a change is ready.
POLL_S = 2.0
# A cluster that does not answer is not waited for longer than this past the deadline.
GRACE_S = 30.0
# What a look while waiting comes to; not decisions, so not kept.
LOOKS = frozenset({ReasonCode.IN_PROGRESS, ReasonCode.METRICS_MISSING})


class OneShotApply:
    """A person's hand on one pipeline. It records as the service does, and keeps its pause and its bounds.

    The mode is no matter: advisory holds the loop back, not people. `state` is what the change is made onto.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        workload: CreatingWorkload,
        decisions: DecisionLog,
        controls: ControlStore,
        clock: Clock,
        settings: Settings,
        state: WorkloadState | None = None,
    ) -> None:
        self._pipeline, self._workload, self._clock = pipeline, workload, clock
        self._control = replace(controls.control(pipeline.name), mode=Mode.ACTIVE)
        self._decisions = _Decisions(decisions)
        self._guards = GuardSettings(
            tick_s=POLL_S,
            rollout_deadline_s=settings.rollout_deadline_s,
            quarantine_s=settings.quarantine_s,
        )
        self._state = state
        self._run_id = uuid.uuid4().hex[:8]
        self._said = ""

    def change(self, wanted: RequestedConfigs) -> Decision:
        """The decision once its change is ready, or a hold that says why nothing was written.

        RolloutError, DeadlineError: it did not get ready, and what ran before runs again (or the message
        says that it does not). ConflictError: another hand changed it meanwhile. UnavailableError: the
        write was not answered, and reading back shows that it did not happen.
        """
        loop = self._loop()
        decision = loop.request(wanted.configs, wanted.detail, wanted.by)
        if decision.action is Action.HOLD and loop.snapshot().phase is not ActuationPhase.UNKNOWN:
            return decision
        self._say(f"{decision.reason.value}: {decision.detail}")
        taken_back, last, is_late = self._follow(loop, decision)
        if last.reason is ReasonCode.ROLLBACK_FAILED:
            raise RolloutError(last.detail, hint=f"`ipa status {self._pipeline.name}` shows what runs.")
        if taken_back is not None:
            kind = DeadlineError if is_late else RolloutError
            raise kind(f"{taken_back.detail}; that runs again")
        observation = loop.snapshot().observation
        running = observation.running() if observation else None
        if running == wanted.configs:
            return decision
        if running == decision.previous:
            raise UnavailableError(f"nothing was changed: {decision.detail}", hint="Apply it again.")
        raise ConflictError("another hand changed it meanwhile; what it wrote was left as it is")

    def create(self, wanted: RequestedConfigs) -> Decision:
        """The decision once what is created is ready, or a hold where the pipeline is paused.

        Errors: those of the workload; RolloutError, DeadlineError: it did not get ready and is
        left as it is, since nothing ran before.
        """
        decision = self._first(wanted)
        self._decisions.record(decision)
        if decision.action is Action.HOLD:
            return decision
        change = Change(
            decision.decision_id,
            self._pipeline.name,
            "",
            (),
            wanted.configs,
            self._guards.rollout_deadline_s,
        )
        started_s = self._clock.monotonic_s()
        try:
            revision = self._workload.create(self._pipeline, wanted.configs)
        except IpaError as error:
            self._not_created(decision, change, error, started_s)
            raise
        self._say(f"{decision.reason.value}: {decision.detail}")
        self._wait(replace(change, revision=revision), started_s)
        return decision

    def _follow(self, loop: ControlLoop, first: Decision) -> tuple[Decision | None, Decision, bool]:
        """Wait while a change is in flight: what took it back, the last decision, and whether it was late."""
        deadline_s = self._guards.rollout_deadline_s
        started_s = since_s = self._clock.monotonic_s()
        taken_back, last, is_late = None, first, False
        self._decisions.is_waiting = True
        while loop.snapshot().phase in IN_FLIGHT:
            if self._clock.monotonic_s() - since_s > deadline_s + GRACE_S:
                raise DeadlineError(
                    f"how the change ended is not known: {last.detail}",
                    hint=f"`ipa status {self._pipeline.name}` shows what runs.",
                )
            self._clock.wait(POLL_S)
            last = loop.tick_once()
            self._say(f"{last.reason.value}: {last.detail}" if loop.snapshot().phase in IN_FLIGHT else "")
            if last.action is Action.APPLY:
                # The next step of several, or a rollback, has its own time.
                since_s = self._clock.monotonic_s()
            if last.reason is ReasonCode.ROLLBACK:
                is_late = is_late if taken_back else since_s - started_s >= deadline_s
                taken_back = last
        return taken_back, last, is_late

    def _first(self, wanted: RequestedConfigs) -> Decision:
        name, at = self._pipeline.name, self._clock.now()
        newest = self._decisions.decisions(name, limit=1)
        tick = newest[0].tick + 1 if newest else 1
        stop = stop_of(self._control, at)
        inputs = canonical_json({"requested": wanted, "control": self._control, "at": at})
        return Decision(
            decision_id=f"{name}-{tick}-{self._run_id}",
            pipeline=name,
            tick=tick,
            at=at.isoformat(),
            action=Action.HOLD if stop else Action.APPLY,
            reason=stop[0] if stop else ReasonCode.REQUESTED,
            detail=stop[1] if stop else f"{wanted.detail}: created",
            configs=() if stop else wanted.configs,
            previous=(),
            mode=self._control.mode,
            inputs_digest=digest(inputs),
            inputs=inputs,
            by=wanted.by,
        )

    def _not_created(self, decision: Decision, change: Change, error: IpaError, now_s: float) -> None:
        """Record why it could not be created."""
        state = EngineState(decision.tick, sent(begin(change, now_s)))
        outcome, _ = unwritten(
            decision, change, state, error, control=self._control, settings=self._guards, now_s=now_s
        )
        try:
            self._decisions.record(outcome)
        except IpaError as unrecordable:
            log.error("%s: the outcome cannot be recorded: %s", self._pipeline.name, unrecordable)

    def _wait(self, change: Change, started_s: float) -> None:
        """Return once what was created is ready."""
        left = "nothing ran before, so it is left as it is; apply another plan or delete it"
        while True:
            rollout = self._rollout(change)
            if rollout.phase in (RolloutPhase.READY, RolloutPhase.REPLACED):
                return
            if rollout.phase is RolloutPhase.FAILED:
                raise RolloutError(f"the rollout failed: {rollout.detail}", hint=left)
            if self._clock.monotonic_s() - started_s >= change.deadline_s:
                raise DeadlineError(f"not ready after {change.deadline_s:g} s: {rollout.detail}", hint=left)
            self._say(rollout.detail)
            self._clock.wait(POLL_S)

    def _rollout(self, change: Change) -> Rollout:
        try:
            return self._workload.rollout(self._pipeline, change)
        except UnavailableError as error:
            return Rollout(RolloutPhase.PROGRESSING, f"how far it is cannot be read: {error}")

    def _loop(self) -> ControlLoop:
        world = LoopPorts(
            self._clock,
            _NoMetrics(),
            _Onto(self._workload, self._state),
            self._decisions,
            _Control(self._control),
        )
        return ControlLoop(
            self._pipeline,
            world,
            policy=_NoPolicy(),
            predict=_no_prediction,
            forecaster=_no_forecast,
            settings=self._guards,
            window_s=0.0,
            run_id=self._run_id,
        )

    def _say(self, words: str) -> None:
        """Tell who waits, on standard error; the same words only once."""
        if words and words != self._said:
            typer.echo(words, err=True)
            self._said = words


class _Decisions:
    """The record, without the looks while waiting."""

    def __init__(self, kept: DecisionLog) -> None:
        self._kept = kept
        self.is_waiting = False

    def record(self, decision: Decision) -> None:
        if not (self.is_waiting and decision.action is Action.HOLD and decision.reason in LOOKS):
            self._kept.record(decision)

    def decisions(
        self, pipeline: str, *, limit: int = 50, before_tick: int | None = None, applied_only: bool = False
    ) -> Sequence[Decision]:
        return self._kept.decisions(pipeline, limit=limit, before_tick=before_tick, applied_only=applied_only)

    def decision(self, decision_id: str) -> Decision:
        return self._kept.decision(decision_id)


class _Onto:
    """The workload, read first as it was when the change was checked: its write is guarded by that."""

    def __init__(self, workload: CreatingWorkload, first: WorkloadState | None) -> None:
        self._workload, self._first = workload, first
        self.rolling = workload.rolling

    def read(self, pipeline: Pipeline) -> WorkloadState:
        first, self._first = self._first, None
        return first or self._workload.read(pipeline)

    def write(self, pipeline: Pipeline, change: Change) -> str:
        return self._workload.write(pipeline, change)

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        return self._workload.rollout(pipeline, change)


class _Control:
    """What was said when the change began; a pause meanwhile does not leave it half done."""

    def __init__(self, control: PipelineControl) -> None:
        self._control = control

    def control(self, pipeline: str, *, may_lag: bool = False) -> PipelineControl:
        return self._control

    def set_control(self, pipeline: str, control: PipelineControl, said: Attribution) -> None:
        self._control = control


class _NoMetrics:
    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        return NO_SIGNALS

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        return NO_SIGNALS.load


class _NoPolicy:
    """Decides nothing: without load the loop does not ask."""

    name = "by hand"

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        raise InfeasibleError("nothing is planned by hand")


def _no_forecast(load: LoadHistory) -> Forecast:
    raise InfeasibleError("nothing is forecast by hand")


def _no_prediction(
    configs: Sequence[StageConfig], rate_rps: float, slowdowns: Slowdowns = AS_MEASURED
) -> Prediction | None:
    return None
