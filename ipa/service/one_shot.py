"""Changes without a running service: record, write, wait until ready, else take it back.

A command builds a service over these for as long as it runs (`ipa.bootstrap.one_shot`).
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from ipa.control.canonical import canonical_json, digest
from ipa.control.engine.actuation import IN_FLIGHT, ActuationPhase, begin, sent
from ipa.control.engine.guards import GuardSettings, stop_of
from ipa.control.engine.observe import observe, unseen_by
from ipa.control.engine.state import ChangeRequest, EngineState
from ipa.control.engine.tick import unwritten
from ipa.control.engine.transition import changes
from ipa.control.loop.control_loop import ControlLoop, LoopPorts
from ipa.control.loop.snapshot import Snapshot
from ipa.control.ports import (
    Attribution,
    Clock,
    ControlStore,
    CreatingWorkload,
    DecisionLog,
    Load,
    PipelineControl,
    PipelineManifest,
    Rollout,
    RolloutPhase,
    Signals,
    StageState,
    WorkloadState,
)
from ipa.files.reading import read_text, replace_text
from ipa.model.decision import Action, Change, Decision, Mode, ReasonCode
from ipa.model.errors import (
    ConflictError,
    DeadlineError,
    DriftError,
    InfeasibleError,
    IpaError,
    NotFoundError,
    RolloutError,
    UnavailableError,
)
from ipa.model.forecast import Forecast
from ipa.model.observation import LoadHistory, Missing, MissingReason, Observation
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StageConfig
from ipa.policies.base import PolicyState
from ipa.settings import Settings

log = logging.getLogger("ipa.cli")

# Seconds between two reads of a change that is waited for.
POLL_S = 2.0
# Seconds past the deadline for which a cluster that does not answer is waited for.
GRACE_S = 30.0
# The holds of a loop that only waits; they are not recorded.
LOOKS = frozenset({ReasonCode.IN_PROGRESS, ReasonCode.METRICS_MISSING})
_NOT_ASKED = Missing(MissingReason.NOT_ASKED, "this command reads no metrics")
NO_SIGNALS = Signals(_NOT_ASKED, _NOT_ASKED, _NOT_ASKED)
# Enough to tell two texts of one file apart.
DIGITS = 12
_UNSEEN = Missing(MissingReason.NOT_ASKED, "a file holds the wanted configuration, not what runs")


class OneShotStore(DecisionLog, ControlStore, Protocol):
    """The record of decisions and the overrides of people."""


@dataclass(slots=True)
class OneShotLoop:
    """The `Loop` of a command: it reads the workload, and carries out one change to its end.

    The real loop carries the change out, held back by pauses and bounds. The mode does not matter: advisory
    holds back the loop, not people. `say` tells the person who waits how far it is.
    """

    pipeline: Pipeline
    workload: CreatingWorkload
    store: OneShotStore
    clock: Clock
    settings: Settings
    say: Callable[[str], None]
    policy: str = "by hand"
    # The state of the last snapshot: a change that was decided on it is written onto it or not at all.
    _state: WorkloadState | None = None
    _said: str = ""

    def snapshot(self) -> Snapshot:
        """The configuration that the workload asks for, and how much of it is ready."""
        pipeline, at_s = self.pipeline, self.clock.monotonic_s()
        self._state = None
        try:
            state = self._state = self.workload.read(pipeline)
        except NotFoundError as error:
            problem = f"nothing runs: {error.message}; `ipa apply` creates it"
            return _unseen(pipeline, error, problem, at_s, "not there")
        except DriftError as error:
            return _unseen(pipeline, error, str(error), at_s)
        observation = observe(pipeline, NO_SIGNALS, state, at_s=at_s)
        if observation.is_whole and not observation.problem:
            return _snapshot(observation, "all replicas run as requested")
        configs = tuple(stage.config for stage in state.stages)
        deadline_s = self.settings.rollout_deadline_s
        asked = Change("", pipeline.name, state.revision, configs, configs, deadline_s)
        rollout = self.workload.rollout(pipeline, asked)
        seen = _snapshot(observation, rollout.detail)
        if rollout.phase is RolloutPhase.FAILED:
            problems = (f"the rollout failed: {rollout.detail}",)
            return replace(seen, phase=ActuationPhase.FAILED, problems=problems)
        return replace(seen, phase=ActuationPhase.WAITING_READY)

    def request(self, wanted: ChangeRequest) -> Decision:
        """Create or change the workload, and wait until it is ready.

        Errors: those of `CreatingWorkload`. RolloutError, DeadlineError: it did not get ready, and what ran
        before runs again (or the message says that it does not). ConflictError: another writer changed it
        meanwhile. UnavailableError: the write was not answered, and was not made, as reading back shows.
        """
        wanted = replace(wanted, configs=self.workload.as_written(self.pipeline, wanted.configs))
        try:
            state = self._read()
        except NotFoundError:
            if wanted.restores:
                raise
            return self._create(wanted)
        # What ran before is restored also from a change that does not get ready.
        return self._change(wanted, replace(state, settled=True) if wanted.restores else state)

    def _read(self) -> WorkloadState:
        """The state of the last snapshot, once; else of the workload now."""
        state, self._state = self._state, None
        return state or self.workload.read(self.pipeline)

    @property
    def _guards(self) -> GuardSettings:
        deadline_s, quarantine_s = self.settings.rollout_deadline_s, self.settings.quarantine_s
        return GuardSettings(tick_s=POLL_S, rollout_deadline_s=deadline_s, quarantine_s=quarantine_s)

    def _change(self, wanted: ChangeRequest, state: WorkloadState) -> Decision:
        """The decision once its change of the state is ready, or a hold that says why nothing was written."""
        nothing, store = _ByHand(), _OneChange(self.store, self._control())
        loop = ControlLoop(
            self.pipeline,
            LoopPorts(self.clock, nothing, _Onto(self.workload, state), store, store),
            policy=nothing,
            predict=lambda *_: None,
            forecaster=nothing.forecast,
            settings=self._guards,
            window_s=0.0,
            run_id=_run_id(),
        )
        decision = loop.tick_once(wanted)
        if decision.action is Action.HOLD and loop.snapshot().phase is not ActuationPhase.UNKNOWN:
            return decision
        self._say(f"{decision.reason.value}: {decision.detail}")
        store.is_waiting = True
        taken_back, last, is_late = self._follow(loop, decision)
        if last.reason is ReasonCode.ROLLBACK_FAILED:
            raise RolloutError(last.detail, hint=f"`ipa status {self.pipeline.name}` shows what runs.")
        if taken_back is not None:
            kind = DeadlineError if is_late else RolloutError
            raise kind(f"{taken_back.detail}; the earlier configuration runs again")
        observation = loop.snapshot().observation
        running = observation.running() if observation else None
        if running == wanted.configs:
            return decision
        if running == decision.previous:
            raise UnavailableError(f"nothing was changed: {decision.detail}", hint="Apply it again.")
        raise ConflictError("another writer changed it meanwhile; that change was kept")

    def _create(self, wanted: ChangeRequest) -> Decision:
        """The decision once what was created is ready, or a hold where the pipeline is paused.

        What does not get ready is left as it is, since nothing ran before.
        """
        decision = self._first(wanted)
        self.store.record(decision)
        if decision.action is Action.HOLD:
            return decision
        name, deadline_s = self.pipeline.name, self._guards.rollout_deadline_s
        change = Change(decision.decision_id, name, "", (), wanted.configs, deadline_s)
        started_s = self.clock.monotonic_s()
        try:
            revision = self.workload.create(self.pipeline, wanted.configs)
        except IpaError as error:
            state = EngineState(decision.tick, sent(begin(change, started_s)))
            control, settings = self._control(), self._guards
            outcome, _ = unwritten(
                decision, change, state, error, control=control, settings=settings, now_s=started_s
            )
            try:
                self.store.record(outcome)
            except IpaError as unrecordable:
                log.error("%s: the outcome cannot be recorded: %s", name, unrecordable)
            raise
        self._say(f"{decision.reason.value}: {decision.detail}")
        self._wait(replace(change, revision=revision), started_s)
        return decision

    def _follow(self, loop: ControlLoop, first: Decision) -> tuple[Decision | None, Decision, bool]:
        """Wait for the change: the rollback if there was one, the last decision, and True if it was late."""
        deadline_s = self.settings.rollout_deadline_s
        started_s = since_s = self.clock.monotonic_s()
        taken_back, last, is_late = None, first, False
        while loop.snapshot().phase in IN_FLIGHT:
            if self.clock.monotonic_s() - since_s > deadline_s + GRACE_S:
                raise DeadlineError(
                    f"how the change ended is not known: {last.detail}",
                    hint=f"`ipa status {self.pipeline.name}` shows what runs.",
                )
            self.clock.wait(POLL_S)
            last = loop.tick_once()
            self._say(f"{last.reason.value}: {last.detail}" if loop.snapshot().phase in IN_FLIGHT else "")
            if last.action is Action.APPLY:
                # The next step of several, or a rollback, has its own time.
                since_s = self.clock.monotonic_s()
            if last.reason is ReasonCode.ROLLBACK:
                is_late = is_late if taken_back else since_s - started_s >= deadline_s
                taken_back = last
        return taken_back, last, is_late

    def _first(self, wanted: ChangeRequest) -> Decision:
        """The first decision of a pipeline that nothing runs of."""
        name, at, control = self.pipeline.name, self.clock.now(), self._control()
        newest = self.store.decisions(name, limit=1)
        tick = newest[0].tick + 1 if newest else 1
        stop = stop_of(control, at)
        inputs = canonical_json({"requested": wanted, "control": control, "at": at})
        return Decision(
            decision_id=f"{name}-{tick}-{_run_id()}",
            pipeline=name,
            tick=tick,
            at=at.isoformat(),
            action=Action.HOLD if stop else Action.APPLY,
            reason=stop[0] if stop else ReasonCode.REQUESTED,
            detail=stop[1] if stop else f"{wanted.detail}: created",
            configs=() if stop else wanted.configs,
            previous=(),
            mode=control.mode,
            inputs_digest=digest(inputs),
            inputs=inputs,
            by=wanted.by,
            plan_id=wanted.plan_id,
        )

    def _wait(self, change: Change, started_s: float) -> None:
        """Return once what was created is ready."""
        left = "nothing ran before, so the change is left as it is; apply another plan or delete it"
        while True:
            try:
                rollout = self.workload.rollout(self.pipeline, change)
            except UnavailableError as error:
                rollout = Rollout(RolloutPhase.PROGRESSING, f"its progress cannot be read: {error}")
            if rollout.phase in (RolloutPhase.READY, RolloutPhase.REPLACED):
                return
            if rollout.phase is RolloutPhase.FAILED:
                raise RolloutError(f"the rollout failed: {rollout.detail}", hint=left)
            if self.clock.monotonic_s() - started_s >= change.deadline_s:
                raise DeadlineError(f"not ready after {change.deadline_s:g} s: {rollout.detail}", hint=left)
            self._say(rollout.detail)
            self.clock.wait(POLL_S)

    def _control(self) -> PipelineControl:
        return replace(self.store.control(self.pipeline.name), mode=Mode.ACTIVE)

    def _say(self, words: str) -> None:
        """Tell the person who waits; the same words only once."""
        if words and words != self._said:
            self.say(words)
            self._said = words


def _unseen(
    pipeline: Pipeline, error: IpaError, problem: str, at_s: float, detail: str = "changed by another writer"
) -> Snapshot:
    """The snapshot of a workload that is not there, or runs no configuration of the pipeline."""
    unseen = unseen_by(error)
    return _snapshot(observe(pipeline, NO_SIGNALS, None, problem=problem, unseen=unseen, at_s=at_s), detail)


def _snapshot(observation: Observation, detail: str) -> Snapshot:
    name, control = observation.pipeline, PipelineControl()
    return Snapshot(name, 0, control, ActuationPhase.IDLE, observation=observation, detail=detail)


def _run_id() -> str:
    return uuid.uuid4().hex[:8]


class _OneChange:
    """The store for one change: its overrides as they began, and no holds of a loop that only waits.

    A later pause does not leave the change half done.
    """

    def __init__(self, store: OneShotStore, control: PipelineControl) -> None:
        self._store, self._control = store, control
        self.decisions, self.decision = store.decisions, store.decision
        self.is_waiting = False

    def record(self, decision: Decision) -> None:
        if not (self.is_waiting and decision.action is Action.HOLD and decision.reason in LOOKS):
            self._store.record(decision)

    def control(self, pipeline: str, *, may_lag: bool = False) -> PipelineControl:
        return self._control

    def set_control(self, pipeline: str, control: PipelineControl, said: Attribution) -> None:
        self._control = control


class _Onto:
    """The workload, whose first read is the state that the change was checked on: it guards the write."""

    def __init__(self, workload: CreatingWorkload, first: WorkloadState | None) -> None:
        self._workload, self._first = workload, first
        self.rolling, self.write, self.rollout = workload.rolling, workload.write, workload.rollout

    def read(self, pipeline: Pipeline) -> WorkloadState:
        first, self._first = self._first, None
        return first or self._workload.read(pipeline)


class _ByHand:
    """Metrics without a load, and the policy and forecaster that are therefore never asked."""

    name = "by hand"

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        return NO_SIGNALS

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        return NO_SIGNALS.load

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        raise InfeasibleError("a command plans nothing")

    def forecast(self, load: LoadHistory) -> Forecast:
        raise InfeasibleError("a command forecasts nothing")


class ManifestTarget(Protocol):
    """Reads the manifests of a target."""

    def manifest(self, pipeline: Pipeline, text: str, path: str) -> PipelineManifest:
        """The pipeline's manifest in the text; NotFoundError if there is none."""

    def as_written(self, pipeline: Pipeline, configs: Sequence[StageConfig]) -> tuple[StageConfig, ...]:
        """The configurations as they read back once written; InputError lists what must not be written."""


class ManifestLoop:
    """The `Loop` of a command over a file: a change rewrites it at once or not at all."""

    policy = "by hand"

    def __init__(self, pipeline: Pipeline, path: str, target: ManifestTarget, clock: Clock) -> None:
        self._pipeline, self._path, self._target, self._clock = pipeline, path, target, clock

    def snapshot(self) -> Snapshot:
        """The configuration that the manifest asks for."""
        text, pipeline = self._read(), self._pipeline
        at_s = self._clock.monotonic_s()
        try:
            configs = self._manifest(text).configs()
        except DriftError as error:
            return _unseen(pipeline, error, str(error), at_s)
        state = WorkloadState(_revision(text), tuple(StageState(config, 0) for config in configs), True)
        observation = observe(pipeline, NO_SIGNALS, state, at_s=at_s)
        stages = tuple(replace(stage, ready_replicas=_UNSEEN) for stage in observation.stages)
        return _snapshot(replace(observation, stages=stages), f"as {self._path} asks for")

    def request(self, wanted: ChangeRequest) -> Decision:
        """Rewrite the manifest; all that no plan decides stays as it is."""
        text = self._read()
        manifest = self._manifest(text)
        before = manifest.configs()
        configs = self._target.as_written(self._pipeline, wanted.configs)
        after = manifest.changed(configs)
        is_changed = after != text
        if is_changed:
            replace_text(Path(self._path), after)
        words = f"{self._path} already has this configuration"
        if is_changed:
            words = f"{self._path} rewritten: {changes(before, configs)}; commit it to roll it out"
        return Decision(
            decision_id="",
            pipeline=self._pipeline.name,
            tick=0,
            at=self._clock.now().isoformat(),
            action=Action.APPLY if is_changed else Action.HOLD,
            reason=ReasonCode.REQUESTED if is_changed else ReasonCode.NO_CHANGE,
            detail=f"{wanted.detail}: {words}",
            configs=configs,
            previous=before,
            plan_id=wanted.plan_id,
            mode=Mode.ACTIVE,
            revision=_revision(after),
        )

    def _manifest(self, text: str) -> PipelineManifest:
        return self._target.manifest(self._pipeline, text, self._path)

    def _read(self) -> str:
        return read_text(Path(self._path))


def _revision(text: str) -> str:
    return f"sha256:{digest(text)[:DIGITS]}"
