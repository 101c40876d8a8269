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
from ipa.control.engine.state import EngineState
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
from ipa.model.external import Configs, with_replicas_of
from ipa.model.forecast import Forecast
from ipa.model.observation import LoadHistory, Missing, MissingReason, Observation
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StageConfig
from ipa.model.slowdown import AS_MEASURED, Slowdowns
from ipa.policies.base import PolicyState, Prediction
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
            unseen = unseen_by(error)
            nothing = observe(pipeline, NO_SIGNALS, None, problem=problem, unseen=unseen, at_s=at_s)
            return _snapshot(nothing, "not there")
        except DriftError as error:
            return drifted(pipeline, error, at_s)
        observation = observe(pipeline, NO_SIGNALS, state, at_s=at_s)
        if observation.is_whole and not observation.problem:
            return _snapshot(observation, "all replicas run as requested")
        configs = tuple(stage.config for stage in state.stages)
        deadline_s = self._ports.settings.rollout_deadline_s
        asked = Change("", pipeline.name, state.revision, configs, configs, deadline_s)
        rollout = self._workload.rollout(pipeline, asked)
        if rollout.phase is RolloutPhase.FAILED:
            problems = (f"the rollout failed: {rollout.detail}",)
            return _snapshot(observation, rollout.detail, ActuationPhase.FAILED, problems)
        return _snapshot(observation, rollout.detail, ActuationPhase.WAITING_READY)

    def request(
        self, configs: tuple[StageConfig, ...], detail: str, by: str = "", plan_id: str = ""
    ) -> Decision:
        """Create or change the workload, and wait until it is ready. Errors: those of `OneShotApply`."""
        wanted = RequestedConfigs(self._workload.as_written(self._pipeline, configs), detail, by, plan_id)
        try:
            state = self._state or self._workload.read(self._pipeline)
        except NotFoundError:
            return self._apply().create(wanted)
        return self._apply(state).change(wanted)

    def restore(
        self, configs: tuple[StageConfig, ...], detail: str, by: str = "", undoes: str = ""
    ) -> Decision:
        """Request the restored configurations, also from a change that does not get ready."""
        written = self._workload.as_written(self._pipeline, configs)
        wanted = RequestedConfigs(written, detail, by, restores=True, undoes=undoes)
        state = replace(self._state or self._workload.read(self._pipeline), settled=True)
        return self._apply(state).change(wanted)

    def _apply(self, state: WorkloadState | None = None) -> OneShotApply:
        self._state = None
        return OneShotApply(self._ports, state)


def drifted(pipeline: Pipeline, error: DriftError, at_s: float) -> Snapshot:
    """The snapshot of a workload that runs no configuration of the pipeline."""
    unseen = unseen_by(error)
    observation = observe(pipeline, NO_SIGNALS, None, problem=str(error), unseen=unseen, at_s=at_s)
    return _snapshot(observation, "changed by another writer")


def _snapshot(
    observation: Observation,
    detail: str,
    phase: ActuationPhase = ActuationPhase.IDLE,
    problems: tuple[str, ...] = (),
) -> Snapshot:
    return Snapshot(
        observation.pipeline,
        0,
        PipelineControl(),
        phase,
        observation=observation,
        detail=detail,
        problems=problems,
    )


@dataclass(frozen=True, slots=True)
class RequestedConfigs:
    """The configurations that a person (`by`) asked for; `detail` says who and why.

    `plan_id` is the stored plan that they come from, `undoes` the decision whose change they take back, if
    any; `restores`: they ran before.
    """

    configs: tuple[StageConfig, ...]
    detail: str
    by: str = ""
    plan_id: str = ""
    restores: bool = False
    undoes: str = ""


class OneShotApply:
    """One change of one pipeline, recorded as the service does and held back by its pauses and bounds.

    The mode does not matter: advisory holds back the loop, not people. The change is written onto `state`.
    """

    def __init__(self, ports: OneShotPorts, state: WorkloadState | None = None) -> None:
        self._pipeline, self._workload, self._clock = ports.pipeline, ports.workload, ports.clock
        self._control = replace(ports.store.control(ports.pipeline.name), mode=Mode.ACTIVE)
        self._decisions = _WithoutLooks(ports.store)
        self._guards = GuardSettings(
            tick_s=POLL_S,
            rollout_deadline_s=ports.settings.rollout_deadline_s,
            quarantine_s=ports.settings.quarantine_s,
        )
        self._state = state
        self._run_id = uuid.uuid4().hex[:8]
        self._tell, self._said = ports.say, ""

    def change(self, wanted: RequestedConfigs) -> Decision:
        """The decision once its change is ready, or a hold that says why nothing was written.

        RolloutError, DeadlineError: it did not get ready, and what ran before runs again (or the message
        says that it does not). ConflictError: another writer changed it meanwhile. UnavailableError: the
        write was not answered, and reading back shows that it did not happen.
        """
        loop = self._loop()
        if wanted.restores:
            decision = loop.restore(wanted.configs, wanted.detail, wanted.by, wanted.undoes)
        else:
            decision = loop.request(wanted.configs, wanted.detail, wanted.by, wanted.plan_id)
        if decision.action is Action.HOLD and loop.snapshot().phase is not ActuationPhase.UNKNOWN:
            return decision
        self._say(f"{decision.reason.value}: {decision.detail}")
        taken_back, last, is_late = self._follow(loop, decision)
        if last.reason is ReasonCode.ROLLBACK_FAILED:
            raise RolloutError(last.detail, hint=f"`ipa status {self._pipeline.name}` shows what runs.")
        if taken_back is not None:
            kind = DeadlineError if is_late else RolloutError
            raise kind(f"{taken_back.detail}; the earlier configuration runs again")
        observation = loop.snapshot().observation
        running = observation.running() if observation else None
        if running == self._now(wanted.configs, running):
            return decision
        if running == self._now(decision.previous, running):
            raise UnavailableError(f"nothing was changed: {decision.detail}", hint="Apply it again.")
        raise ConflictError("another writer changed it meanwhile; that change was kept")

    def _now(self, configs: Sequence[StageConfig], running: Sequence[StageConfig] | None) -> Configs:
        """The configurations with the running replicas of stages whose number another controller decides."""
        return with_replicas_of(self._pipeline.external, configs, running or ())

    def create(self, wanted: RequestedConfigs) -> Decision:
        """The decision once what was created is ready, or a hold where the pipeline is paused.

        Errors: those of `CreatingWorkload.create`; RolloutError, DeadlineError: it did not get ready and is
        left as it is, since nothing ran before.
        """
        decision = self._first(wanted)
        self._decisions.record(decision)
        if decision.action is Action.HOLD:
            return decision
        change = Change(
            decision.decision_id, self._pipeline.name, "", (), wanted.configs, self._guards.rollout_deadline_s
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
        """Wait for the change: the rollback if there was one, the last decision, and True if it was late."""
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
            plan_id=wanted.plan_id,
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
        left = "nothing ran before, so the change is left as it is; apply another plan or delete it"
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
            return Rollout(RolloutPhase.PROGRESSING, f"its progress cannot be read: {error}")

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
        """Tell the person who waits; the same words only once."""
        if words and words != self._said:
            self._tell(words)
            self._said = words


class _WithoutLooks:
    """The record without the holds of a loop that only waits."""

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
    """The workload, whose first read is the state that the change was checked on: it guards the write."""

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
    """The overrides when the change began; a later pause does not leave it half done."""

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
    """A policy that is never asked: the load is missing."""

    name = "by hand"

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        raise InfeasibleError("a command plans nothing")


def _no_forecast(load: LoadHistory) -> Forecast:
    raise InfeasibleError("a command forecasts nothing")


def _no_prediction(
    configs: Sequence[StageConfig], rate_rps: float, slowdowns: Slowdowns = AS_MEASURED
) -> Prediction | None:
    return None


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
            return drifted(pipeline, error, at_s)
        state = WorkloadState(_revision(text), tuple(StageState(config, 0) for config in configs), True)
        observation = observe(pipeline, NO_SIGNALS, state, at_s=at_s)
        stages = tuple(replace(stage, ready_replicas=_UNSEEN) for stage in observation.stages)
        return Snapshot(
            pipeline.name,
            0,
            PipelineControl(),
            ActuationPhase.IDLE,
            observation=replace(observation, stages=stages),
            detail=f"as {self._path} asks for",
        )

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
