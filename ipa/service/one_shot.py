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
from ipa.control.engine.change_words import changes
from ipa.control.engine.guards import GuardSettings
from ipa.control.engine.observe import observe, unseen_by
from ipa.control.engine.overrides import stop_of
from ipa.control.engine.state import ChangeRequest, EngineState
from ipa.control.engine.write_outcome import unwritten
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
from ipa.model.external import with_replicas_of
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


@dataclass(frozen=True, slots=True)
class OneShotPorts:
    """The ports that a command changes a pipeline through; `say` tells the person who waits how far it is."""

    pipeline: Pipeline
    workload: CreatingWorkload
    store: OneShotStore
    clock: Clock
    settings: Settings
    say: Callable[[str], None]


class OneShotLoop:
    """The `Loop` of a command: it reads the workload, and carries out one change to its end."""

    policy = "by hand"

    def __init__(self, ports: OneShotPorts) -> None:
        self._ports, self._pipeline, self._workload = ports, ports.pipeline, ports.workload
        # The state of the last snapshot: a change that was decided on it is written onto it or not at all.
        self._state: WorkloadState | None = None

    def snapshot(self) -> Snapshot:
        """The configuration that the workload asks for, and how much of it is ready."""
        pipeline, at_s = self._pipeline, self._ports.clock.monotonic_s()
        self._state = None
        try:
            state = self._state = self._workload.read(pipeline)
        except NotFoundError as error:
            problem = f"nothing runs: {error.message}; `ipa apply` creates it"
            return _unseen(pipeline, error, problem, at_s, "not there")
        except DriftError as error:
            return _unseen(pipeline, error, str(error), at_s)
        observation = observe(pipeline, NO_SIGNALS, state, at_s=at_s)
        if observation.is_whole and not observation.problem:
            return _snapshot(observation, "all replicas run as requested")
        configs = tuple(stage.config for stage in state.stages)
        deadline_s = self._ports.settings.rollout_deadline_s
        asked = Change("", pipeline.name, state.revision, configs, configs, deadline_s)
        rollout = self._workload.rollout(pipeline, asked)
        seen = _snapshot(observation, rollout.detail)
        if rollout.phase is RolloutPhase.FAILED:
            problems = (f"the rollout failed: {rollout.detail}",)
            return replace(seen, phase=ActuationPhase.FAILED, problems=problems)
        return replace(seen, phase=ActuationPhase.WAITING_READY)

    def request(
        self, configs: tuple[StageConfig, ...], detail: str, by: str = "", plan_id: str = ""
    ) -> Decision:
        """Create or change the workload, and wait until it is ready. Errors: those of `OneShotApply`."""
        written = self._workload.as_written(self._pipeline, configs)
        wanted = ChangeRequest(written, detail, by=by, plan_id=plan_id)
        try:
            state = self._read()
        except NotFoundError:
            return OneShotApply(self._ports).create(wanted)
        return OneShotApply(self._ports, state).change(wanted)

    def restore(
        self, configs: tuple[StageConfig, ...], detail: str, by: str = "", undoes: str = ""
    ) -> Decision:
        """Request the restored configurations, also from a change that does not get ready."""
        written = self._workload.as_written(self._pipeline, configs)
        wanted = ChangeRequest(written, detail, by=by, restores=True, undoes=undoes)
        return OneShotApply(self._ports, replace(self._read(), settled=True)).change(wanted)

    def _read(self) -> WorkloadState:
        """The state of the last snapshot, once; else of the workload now."""
        state, self._state = self._state, None
        return state or self._workload.read(self._pipeline)


def _unseen(
    pipeline: Pipeline, error: IpaError, problem: str, at_s: float, detail: str = "changed by another writer"
) -> Snapshot:
    """The snapshot of a workload that is not there, or runs no configuration of the pipeline."""
    unseen = unseen_by(error)
    return _snapshot(observe(pipeline, NO_SIGNALS, None, problem=problem, unseen=unseen, at_s=at_s), detail)


def _snapshot(observation: Observation, detail: str) -> Snapshot:
    name, control = observation.pipeline, PipelineControl()
    return Snapshot(name, 0, control, ActuationPhase.IDLE, observation=observation, detail=detail)


class OneShotApply:
    """One change of one pipeline, carried out by the real loop, held back by its pauses and bounds.

    The mode does not matter: advisory holds back the loop, not people. The change is written onto `state`.
    """

    def __init__(self, ports: OneShotPorts, state: WorkloadState | None = None) -> None:
        self._pipeline, self._workload, self._clock = ports.pipeline, ports.workload, ports.clock
        self._store = _OneChange(ports.store, ports.pipeline.name)
        self._guards = GuardSettings(
            tick_s=POLL_S,
            rollout_deadline_s=ports.settings.rollout_deadline_s,
            quarantine_s=ports.settings.quarantine_s,
        )
        self._run_id = uuid.uuid4().hex[:8]
        self._tell, self._said = ports.say, ""
        nothing = _ByHand()
        self._loop = ControlLoop(
            self._pipeline,
            LoopPorts(self._clock, nothing, _Onto(self._workload, state), self._store, self._store),
            policy=nothing,
            predict=lambda *_: None,
            forecaster=nothing.forecast,
            settings=self._guards,
            window_s=0.0,
            run_id=self._run_id,
        )

    def change(self, wanted: ChangeRequest) -> Decision:
        """The decision once its change is ready, or a hold that says why nothing was written.

        RolloutError, DeadlineError: it did not get ready, and what ran before runs again (or the message
        says that it does not). ConflictError: another writer changed it meanwhile. UnavailableError: the
        write was not answered, and reading back shows that it did not happen.
        """
        loop = self._loop
        decision = loop.tick_once(wanted)
        if decision.action is Action.HOLD and loop.snapshot().phase is not ActuationPhase.UNKNOWN:
            return decision
        self._say(f"{decision.reason.value}: {decision.detail}")
        taken_back, last, is_late = self._follow(decision)
        if last.reason is ReasonCode.ROLLBACK_FAILED:
            raise RolloutError(last.detail, hint=f"`ipa status {self._pipeline.name}` shows what runs.")
        if taken_back is not None:
            kind = DeadlineError if is_late else RolloutError
            raise kind(f"{taken_back.detail}; the earlier configuration runs again")
        observation = loop.snapshot().observation
        running = observation.running() if observation else None
        # Another controller may have changed the replicas of external stages meanwhile.
        external = self._pipeline.external
        if running == with_replicas_of(external, wanted.configs, running or ()):
            return decision
        if running == with_replicas_of(external, decision.previous, running or ()):
            raise UnavailableError(f"nothing was changed: {decision.detail}", hint="Apply it again.")
        raise ConflictError("another writer changed it meanwhile; that change was kept")

    def create(self, wanted: ChangeRequest) -> Decision:
        """The decision once what was created is ready, or a hold where the pipeline is paused.

        Errors: those of `CreatingWorkload.create`; RolloutError, DeadlineError: it did not get ready and is
        left as it is, since nothing ran before.
        """
        decision = self._first(wanted)
        self._store.record(decision)
        if decision.action is Action.HOLD:
            return decision
        name, deadline_s = self._pipeline.name, self._guards.rollout_deadline_s
        change = Change(decision.decision_id, name, "", (), wanted.configs, deadline_s)
        started_s = self._clock.monotonic_s()
        try:
            revision = self._workload.create(self._pipeline, wanted.configs)
        except IpaError as error:
            state = EngineState(decision.tick, sent(begin(change, started_s)))
            control, settings = self._store.control(name), self._guards
            outcome, _ = unwritten(
                decision, change, state, error, control=control, settings=settings, now_s=started_s
            )
            try:
                self._store.record(outcome)
            except IpaError as unrecordable:
                log.error("%s: the outcome cannot be recorded: %s", name, unrecordable)
            raise
        self._say(f"{decision.reason.value}: {decision.detail}")
        self._wait(replace(change, revision=revision), started_s)
        return decision

    def _follow(self, first: Decision) -> tuple[Decision | None, Decision, bool]:
        """Wait for the change: the rollback if there was one, the last decision, and True if it was late."""
        loop, deadline_s = self._loop, self._guards.rollout_deadline_s
        started_s = since_s = self._clock.monotonic_s()
        taken_back, last, is_late = None, first, False
        self._store.is_waiting = True
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

    def _first(self, wanted: ChangeRequest) -> Decision:
        """The first decision of a pipeline that nothing runs of."""
        name, at, control = self._pipeline.name, self._clock.now(), self._store.control(self._pipeline.name)
        newest = self._store.decisions(name, limit=1)
        tick = newest[0].tick + 1 if newest else 1
        stop = stop_of(control, at)
        inputs = canonical_json({"requested": wanted, "control": control, "at": at})
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
                rollout = self._workload.rollout(self._pipeline, change)
            except UnavailableError as error:
                rollout = Rollout(RolloutPhase.PROGRESSING, f"its progress cannot be read: {error}")
            if rollout.phase in (RolloutPhase.READY, RolloutPhase.REPLACED):
                return
            if rollout.phase is RolloutPhase.FAILED:
                raise RolloutError(f"the rollout failed: {rollout.detail}", hint=left)
            if self._clock.monotonic_s() - started_s >= change.deadline_s:
                raise DeadlineError(f"not ready after {change.deadline_s:g} s: {rollout.detail}", hint=left)
            self._say(rollout.detail)
            self._clock.wait(POLL_S)

    def _say(self, words: str) -> None:
        """Tell the person who waits; the same words only once."""
        if words and words != self._said:
            self._tell(words)
            self._said = words


class _OneChange:
    """The store for one change: its overrides as they began, and no holds of a loop that only waits.

    A later pause does not leave the change half done.
    """

    def __init__(self, store: OneShotStore, pipeline: str) -> None:
        self._store = store
        self._control = replace(store.control(pipeline), mode=Mode.ACTIVE)
        self.is_waiting = False

    def record(self, decision: Decision) -> None:
        if not (self.is_waiting and decision.action is Action.HOLD and decision.reason in LOOKS):
            self._store.record(decision)

    def decisions(
        self, pipeline: str, *, limit: int = 50, before_tick: int | None = None, applied_only: bool = False
    ) -> Sequence[Decision]:
        return self._store.decisions(
            pipeline, limit=limit, before_tick=before_tick, applied_only=applied_only
        )

    def decision(self, decision_id: str) -> Decision:
        return self._store.decision(decision_id)

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

    def request(
        self, configs: tuple[StageConfig, ...], detail: str, by: str = "", plan_id: str = ""
    ) -> Decision:
        """Rewrite the manifest; all that no plan decides stays as it is."""
        text = self._read()
        manifest = self._manifest(text)
        before = manifest.configs()
        wanted = self._target.as_written(self._pipeline, configs)
        wanted = with_replicas_of(self._pipeline.external, wanted, before)
        after = manifest.changed(wanted)
        is_changed = after != text
        if is_changed:
            replace_text(Path(self._path), after)
        words = f"{self._path} rewritten: {changes(before, wanted)}; commit it to roll it out"
        return Decision(
            decision_id="",
            pipeline=self._pipeline.name,
            tick=0,
            at=self._clock.now().isoformat(),
            action=Action.APPLY if is_changed else Action.HOLD,
            reason=ReasonCode.REQUESTED if is_changed else ReasonCode.NO_CHANGE,
            detail=f"{detail}: " + (words if is_changed else f"{self._path} already has this configuration"),
            configs=wanted,
            previous=before,
            plan_id=plan_id,
            mode=Mode.ACTIVE,
            revision=_revision(after),
        )

    def restore(
        self, configs: tuple[StageConfig, ...], detail: str, by: str = "", undoes: str = ""
    ) -> Decision:
        """Request the restored configurations, as `request` does."""
        return self.request(configs, detail, by)

    def _manifest(self, text: str) -> PipelineManifest:
        return self._target.manifest(self._pipeline, text, self._path)

    def _read(self) -> str:
        return read_text(Path(self._path))


def _revision(text: str) -> str:
    return f"sha256:{digest(text)[:DIGITS]}"
