"""The control loop of a pipeline: gather the inputs of a tick, run the engine, carry out its decision."""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from math import floor

from ipa.control.canonical import plain, salvaged
from ipa.control.counters import present_rps
from ipa.control.engine.actuation import ActuationPhase, accepted, resume
from ipa.control.engine.correction import UNCORRECTED
from ipa.control.engine.guards import GuardSettings, pins_of
from ipa.control.engine.observe import observe, unseen_by, with_earlier
from ipa.control.engine.state import (
    ChangeRequest,
    EngineState,
    PeakForecaster,
    PlannerProvenance,
    TickRequest,
)
from ipa.control.engine.tick import (
    DecisionInputs,
    on_tick,
    recalled_failures,
    standing_by,
    unrecorded,
    unwritten,
)
from ipa.control.loop.snapshot import Snapshot, after_tick
from ipa.control.loop.time_limit import COMPUTE_LOCK
from ipa.control.ports import (
    AlwaysLeading,
    Clock,
    ControlStore,
    DecisionLog,
    EventSink,
    Leadership,
    Metrics,
    NoEvents,
    PipelineControl,
    Rollout,
    Workload,
)
from ipa.model.decision import Change, Decision, Effects, Event, Mode, Notice, ReasonCode
from ipa.model.errors import BusyError, ConflictError, InputError, IpaError, StandbyError
from ipa.model.observation import NOT_ASKED, LoadHistory, Measured, MissingReason, Observation
from ipa.model.pipeline import Pipeline
from ipa.model.rounding import moment_to_ms, to_ms
from ipa.policies.base import Policy, Predictor, corrected, pinned
from ipa.profiling.measured_accuracy import Feedback

log = logging.getLogger("ipa.control")

# A restart reads this many decisions, so that the steps of the last change are among them.
RECALLED = 30
# Where the inputs of a decision have what is recalled of it.
RECALLED_PARTS = ("/state", "/observation/load")
# Judgements that wait for the next tick, and requests that are known to have been judged.
MOST_FEEDBACK = 10_000
# Clocks wait no more precisely than this.
ON_TIME_S = 1e-6
# The provenance of a loop whose caller does not give it.
NOT_SAID = PlannerProvenance()


Hook = Callable[[Decision, Snapshot], None]


@dataclass(frozen=True, slots=True)
class LoopPorts:
    """The ports of one loop."""

    clock: Clock
    metrics: Metrics
    workload: Workload
    decisions: DecisionLog
    controls: ControlStore
    leadership: Leadership = field(default_factory=AlwaysLeading)
    events: EventSink = field(default_factory=NoEvents)


class ControlLoop:
    """The control loop of one pipeline. Thread-safe: one tick at a time, snapshots at any time.

    A loop that `is_beside` another only shows what its policy would do. It has the pins of people, reads what
    the other reads, and goes on from its own decisions as if they had been carried out. Its record has the
    pipeline's name with the policy's after an @, which no pipeline's name contains.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        world: LoopPorts,
        *,
        policy: Policy,
        predict: Predictor,
        forecaster: PeakForecaster,
        settings: GuardSettings,
        window_s: float,
        run_id: str,
        made_of: PlannerProvenance = NOT_SAID,
        on_decision: Sequence[Hook] = (),
        waker: threading.Event | None = None,
        is_beside: bool = False,
    ) -> None:
        # As the ports know it, and as its record does.
        self._served, self._is_beside = pipeline, is_beside
        self.pipeline = replace(pipeline, name=f"{pipeline.name}@{policy.name}") if is_beside else pipeline
        # The clock waits on it, so that a tick can come early.
        self._waker = waker or threading.Event()
        self._call: Callable[[], None] = lambda: None
        # The time of the next tick; None before the first.
        self._due_s: float | None = None
        self._world = world
        self._policy, self._predict, self._forecaster = policy, predict, forecaster
        # The name of the policy that decides, and the time from one tick to the next.
        self.policy, self.tick_s = policy.name, settings.tick_s
        self._settings, self._window_s, self._run_id = settings, window_s, run_id
        self._made_of = made_of
        self._hooks = tuple(on_decision)
        self._ticking = threading.Lock()
        self._state = EngineState()
        self._recovered = False
        # The load that an earlier process saw.
        self._earlier: LoadHistory | None = None
        self._unread: IpaError | None = None
        # The parts of an earlier process's state that cannot be read, in words; the next decision has them.
        self._unread_state = ""
        # What the next tick is to learn, and the judged requests, oldest first: a repeated one counts once.
        self._feedback = deque[Feedback]()
        self._judged: dict[tuple[str, str, bool], None] = {}
        self._control = PipelineControl()
        self._snapshot = Snapshot(self.pipeline.name, 0, self._control, ActuationPhase.IDLE)

    def snapshot(self) -> Snapshot:
        """The state of the loop now; a value that no later tick changes."""
        return self._snapshot

    def succeed(self, earlier: ControlLoop) -> None:
        """Continue with the snapshot of an earlier loop of the same stages until the first tick."""
        snapshot = earlier.snapshot()
        if [it.name for it in self.pipeline.served] == [it.name for it in earlier.pipeline.served]:
            self._snapshot = replace(snapshot, correction=UNCORRECTED, next_tick_at=None)

    def tick_once(self, requested: ChangeRequest | None = None) -> Decision:
        """Run one tick: observe, decide, record, write. Errors are in the decision; none is raised.

        With a person's change `requested`, the tick applies that, or holds with the reason. One that restores
        the previous configuration may replace an unfinished change.
        """
        with self._ticking:
            started_s = self._world.clock.monotonic_s()
            leads = self._world.leadership.leading()
            if not leads:
                # A leader starts from the record and the workload, as this replica does once it leads again.
                self._state, self._recovered = EngineState(), False
            request = self._request(requested, recover=leads)
            taken = [self._feedback.popleft() for _ in range(len(self._feedback))]
            with COMPUTE_LOCK.turn():
                if leads:
                    known = self._state.correction.with_feedback(self.pipeline, taken)
                    self._state = replace(self._state, correction=known)
                    effects, self._state = on_tick(request, self._state)
                    detail = "; ".join(filter(None, (effects.decision.detail, self._unread_state)))
                    effects = replace(effects, decision=replace(effects.decision, detail=detail))
                    self._unread_state = ""
                    # Other loops compute while it is carried out.
                    with COMPUTE_LOCK.away():
                        decision = self._carry_out(effects)
                        self._tell(effects, decision)
                    effects = replace(effects, decision=decision)
                else:
                    decision = standing_by(request)
                    effects = Effects(decision)
                tick_s = self._world.clock.monotonic_s() - started_s
                self._snapshot = after_tick(self._snapshot, request, effects, self._state, tick_s)
                for hook in self._hooks:
                    hook(decision, self._snapshot)
        return decision

    def give_feedback(self, feedback: Sequence[Feedback]) -> int:
        """Take judgements for the next tick; return how many are not repeated.

        BusyError: too many wait already.
        """
        if len(self._feedback) + len(feedback) > MOST_FEEDBACK:
            hint = "Send it again after the next tick."
            raise BusyError(f"{len(self._feedback)} judgements wait for the next tick", hint=hint)
        keys = {(it.request, it.stage, it.correct is None): it for it in feedback}
        new = {key: it for key, it in keys.items() if key not in self._judged}
        self._judged |= dict.fromkeys(new)
        for key in list(self._judged)[:-MOST_FEEDBACK]:
            self._judged.pop(key, None)
        self._feedback.extend(new.values())
        return len(new)

    def idle(self, within_s: float) -> bool:
        """True if no tick is running; waits at most `within_s` for a running one."""
        if not self._ticking.acquire(timeout=within_s):
            return False
        self._ticking.release()
        return True

    def wake(self) -> None:
        """Tick now instead of when the next tick is due. Later ticks are timed from now."""
        self._waker.set()
        self._call()

    def on_wake(self, call: Callable[[], None]) -> None:
        """Set the function that `wake` calls, so that the scheduler runs this loop now."""
        self._call = call

    def step(self) -> float:
        """Tick if a tick is due or the load requires it. Return the time of the next call, by the clock.

        A tick that takes longer than `tick_s` skips the ticks it missed, and the next one if that is less
        than half a tick away: it would have the same observation.
        """
        now_s = self._world.clock.monotonic_s()
        due_s = now_s if self._due_s is None else self._due_s
        if self._waker.is_set() or (due_s - now_s > ON_TIME_S and self._is_overrun()):
            self._waker.clear()
            due_s = now_s
            self._snapshot = replace(self._snapshot, early_ticks=self._snapshot.early_ticks + 1)
        if due_s - now_s > ON_TIME_S:
            return self._look_s(due_s)
        try:
            self.tick_once()
        finally:
            # Also after a tick that raised, which a bug does: the next one starts afresh.
            self._due_s = self._next_due_s(due_s)
        return self._look_s(self._due_s)

    def _next_due_s(self, due_s: float) -> float:
        """The time of the tick after the one that was due at `due_s`."""
        clock, tick_s = self._world.clock, self._settings.tick_s
        due_s += tick_s
        late_s = clock.monotonic_s() - due_s
        if late_s > 0:
            missed = floor(late_s / tick_s + 0.5) + 1
            due_s += missed * tick_s
            skipped = self._snapshot.skipped_ticks + missed
            self._snapshot = replace(self._snapshot, skipped_ticks=skipped)
            log.warning("tick of %s took too long, %d skipped", self.pipeline.name, missed)
        wait_s = max(due_s - clock.monotonic_s(), 0.0)
        self._snapshot = replace(self._snapshot, next_tick_at=clock.now() + timedelta(seconds=wait_s))
        return due_s

    def _look_s(self, due_s: float) -> float:
        """The time of the next reading of the load if it comes before the tick at `due_s`, else `due_s`."""
        now_s, peek_s = self._world.clock.monotonic_s(), self._settings.peek_s
        return now_s + peek_s if 0 < peek_s < due_s - now_s else due_s

    def _is_overrun(self) -> bool:
        """True if the load has risen beyond what the running configuration carries in time.

        Also if the last tick could not decide for lack of a load, and there is one now. Not while a change is
        in flight that cannot be added to: a tick could not act before it ends.
        """
        decision = self._snapshot.decision
        may_act = not self._state.actuation.in_flight or self._world.workload.rolling.amends
        if decision is None or not may_act:
            return False
        forecast = decision.forecast
        if forecast is None and decision.reason is not ReasonCode.METRICS_MISSING:
            return False
        load = self._world.metrics.load(self._served, forecast.peak_s if forecast else self._settings.peek_s)
        if not isinstance(load, Measured) or load.age_s > self._settings.stale_after_s:
            return False
        if forecast is None:
            return bool(load.value.mean_rps(self._settings.peek_s))
        rate_rps = present_rps(load.value)
        if rate_rps <= (decision.observed_rate_rps or 0.0):
            return False
        predict = corrected(self._predict, self._state.correction.slowdowns(self.pipeline))
        prediction = predict(decision.configs, rate_rps)
        return prediction is None or not prediction.feasible

    def _request(self, requested: ChangeRequest | None, *, recover: bool) -> TickRequest:
        world = self._world
        try:
            # `_check_still` catches an override given a moment before a write.
            control = world.controls.control(self._served.name, may_lag=True)
            # What only shows decisions is never paused.
            beside = PipelineControl(mode=Mode.SHADOW, pins=control.pins)
            self._control = beside if self._is_beside else control
        except IpaError as error:
            # The last control read still counts; the default, before any, writes nothing.
            log.warning("control of %s cannot be read: %s", self.pipeline.name, error)
        signals = world.metrics.read(self._served, self._window_s)
        workload, problem, unseen = None, "", MissingReason.ABSENT
        try:
            workload = world.workload.read(self._pinned())
            # A rollout of the loop that controls does not matter to the one beside it.
            workload = replace(workload, settled=workload.settled or self._is_beside)
        except IpaError as error:
            problem, unseen = str(error), unseen_by(error)
        now_s = to_ms(world.clock.monotonic_s())
        observation = observe(self.pipeline, signals, workload, problem=problem, unseen=unseen, at_s=now_s)
        if recover and not self._recovered:
            self._recover(observation, now_s)
        observation = with_earlier(observation, self._earlier)
        at = moment_to_ms(world.clock.now())
        return TickRequest(
            pipeline=self.pipeline,
            control=self._control,
            observation=observation,
            forecaster=self._forecaster,
            policy=self._policy,
            predict=self._predict,
            settings=self._settings,
            now_s=now_s,
            at=at,
            run_id=self._run_id,
            rolling=world.workload.rolling.of(self.pipeline),
            made_of=self._made_of,
            rollout=self._rollout(),
            requested=requested,
        )

    def _pinned(self) -> Pipeline:
        """The pipeline with the pins of people, which a target's queues follow as well."""
        pins = pins_of(self._control)
        return pinned(self._served, pins) if pins else self._served

    def _rollout(self) -> Rollout | None:
        actuation = self._state.actuation
        if not actuation.asks_rollout or actuation.change is None:
            return None
        try:
            return self._world.workload.rollout(self.pipeline, actuation.change)
        except IpaError as error:
            log.warning("rollout of %s cannot be read: %s", self.pipeline.name, error)
            return None

    def _recover(self, observation: Observation, now_s: float) -> None:
        """Restore the state from record and workload: tick numbers, a change in flight, load, corrections.

        Retried at the next tick.
        """
        name = self.pipeline.name
        try:
            newest = self._world.decisions.decisions(name, limit=RECALLED)
            applied = self._world.decisions.decisions(name, limit=RECALLED, applied_only=True)
        except IpaError as error:
            self._unread = error
            return
        self._unread = None
        tick = max(self._state.tick, newest[0].tick if newest else 0)
        self._state = replace(self._state, tick=tick, planned=bool(applied))
        self._recall(newest, now_s)
        if observation.running() is not None:
            actuation = resume(applied, observation, self._settings.rollout_deadline_s, now_s)
            self._state = replace(self._state, actuation=actuation)
            self._recovered = True

    def _recall(self, newest: Sequence[Decision], now_s: float) -> None:
        """Restore an earlier process's load, its failed rollouts, and what it learned of the profiles."""
        read = [(it, *inputs) for it in newest if (inputs := self._read_inputs(it)) is not None]
        loads = (inputs.observation.load for _, inputs, _ in read)
        self._earlier = next((load.value for load in loads if isinstance(load, Measured)), None)
        if not read:
            return
        decision, last, unread = read[0]
        if unread:
            self._unread_state = f"parts of the state before the restart cannot be read: {'; '.join(unread)}"
            log.warning("%s: %s", self.pipeline.name, self._unread_state)
        age_s = (self._world.clock.now() - last.at).total_seconds()
        later_s = now_s - age_s - last.now_s
        failures = recalled_failures(decision, last, self._settings.quarantine_s, later_s)
        state = self._state = replace(self._state, failures=failures)
        if last.made_of.profiles != self._made_of.profiles:
            return
        before = last.state.correction
        # By the clock of this process.
        observed = tuple(replace(each, at_s=each.at_s + later_s) for each in before.observed)
        self._state = replace(state, correction=replace(before, observed=observed, since=()))

    def _read_inputs(self, decision: Decision) -> tuple[DecisionInputs, tuple[str, ...]] | None:
        """The inputs of a recorded decision, and why parts of its state cannot be read.

        What another version wrote in another form is left out; None if nothing can be read.
        """
        unseen = Observation(self.pipeline.name, 0.0, NOT_ASKED, NOT_ASKED, NOT_ASKED, ())
        otherwise = {
            "made_of": plain(NOT_SAID),
            "control": plain(self._control),
            "observation": plain(unseen),
            "rollout": None,
            "requested": None,
            "settings": plain(self._settings),
            "rolling": plain(self._world.workload.rolling.of(self.pipeline)),
            "state": {},
        }
        try:
            recorded = {**otherwise, **json.loads(decision.inputs)}
            inputs, faults = salvaged(DecisionInputs, recorded, otherwise)
        except (ValueError, InputError) as error:
            log.info("the inputs of %s are not taken up: %s", decision.decision_id, error)
            return None
        return inputs, tuple(fault for fault in faults if fault.startswith(RECALLED_PARTS))

    def _carry_out(self, effects: Effects) -> Decision:
        """Record, then write. Return the decision, or the decision that explains the failure."""
        decision, change = effects.decision, effects.change
        try:
            if self._unread is not None:
                # Tick numbers cannot be continued without the record.
                raise self._unread
            self._record(decision)
        except IpaError as error:
            now_s = self._world.clock.monotonic_s()
            decision, self._state = unrecorded(decision, self._state, error, now_s)
            return decision
        if change is None:
            return decision
        try:
            if not self._world.leadership.leading():
                raise StandbyError("this replica lost the lease during the tick, so nothing was written")
            if self._world.controls.control(self._served.name) != self._control:
                raise ConflictError(
                    "the pipeline's overrides changed during the tick; the next tick decides again"
                )
            self._world.workload.write(self._pinned(), change)
        except IpaError as error:
            return self._failed(decision, change, error)
        self._state = replace(self._state, actuation=accepted(self._state.actuation))
        return decision

    def _record(self, decision: Decision) -> None:
        """Record the decision without the time that its plan took, so that equal runs have equal records."""
        plan = decision.plan and replace(decision.plan, solve_s=0.0)
        self._world.decisions.record(replace(decision, plan=plan))

    def _failed(self, decision: Decision, change: Change, error: IpaError) -> Decision:
        now_s = self._world.clock.monotonic_s()
        outcome, self._state = unwritten(
            decision,
            change,
            self._state,
            error,
            control=self._control,
            settings=self._settings,
            now_s=now_s,
        )
        if outcome.reason is ReasonCode.NOT_LEADER:
            # Only the leader writes the record.
            return outcome
        try:
            self._record(outcome)
        except IpaError as unrecordable:
            log.error("%s: the outcome cannot be recorded: %s", self.pipeline.name, unrecordable)
        return outcome

    def _tell(self, effects: Effects, decision: Decision) -> None:
        """Emit the events of the tick, or one of the failure if the decision could not be carried out."""
        noticed = tuple(event for event in effects.events if isinstance(event.reason, Notice))
        for event in noticed:
            log.warning("%s: %s %s", self.pipeline.name, event.reason.value, event.message)
        if not decision.mode.writes:
            # Events are written to the cluster, and the role of a mode that does not write may not.
            return
        events = effects.events
        if decision is not effects.decision:
            events = (Event(decision.reason, decision.detail, is_warning=True), *noticed)
        for event in events:
            self._world.events.emit(self.pipeline, event)
