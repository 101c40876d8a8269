"""Commands: pauses, modes, pins and freezes that people set; applying a configuration, undoing a change."""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ipa.control.engine.actuation import IN_FLIGHT, ActuationPhase
from ipa.control.engine.guards import WEEK
from ipa.control.engine.lateness import lateness
from ipa.control.engine.state import ChangeRequest
from ipa.control.ports import Attribution, DecisionLog, Freeze, PipelineControl, StagePin
from ipa.files.document import unknown
from ipa.model.decision import Decision, Mode, ReasonCode
from ipa.model.errors import ConflictError, InProgressError, InputError, NotFoundError, Problem
from ipa.model.observation import known
from ipa.model.parts import Configs, stage_pairs
from ipa.model.pipeline import Pin, Pipeline
from ipa.model.plan import StageConfig, cores_of
from ipa.profiling.measured_accuracy import Feedback
from ipa.service.checks import checked_configs, pin_problems
from ipa.service.service import ChangeOrder, Precondition, Service
from ipa.service.status import ControlView, control_view, freeze_id, live_of, loop_of

# The steps of one change, the oldest first.
Steps = list[Decision]
# The newest changes that are looked through; with its inputs one is some tens of kilobytes.
LOOK_BACK = 50


@dataclass(frozen=True, slots=True)
class RevisionView:
    """A change with all its steps. `revision` is the last step's tick, `by` is empty for the service."""

    revision: int
    decision_id: str
    at: str
    reason: ReasonCode
    detail: str
    by: str


@dataclass(frozen=True, slots=True)
class UndoView:
    """The effect of a rollback now: `configs` replace the running `previous`; `words` give the reason.

    `takes_back` are the changes that it takes back, the newest first; empty if it restores a revision by its
    number. `unconfirmed` names the capacity that it would remove while requests are late, which needs a
    confirmation; empty if it removes none.
    """

    words: str
    takes_back: tuple[RevisionView, ...]
    previous: Configs
    configs: Configs
    unconfirmed: str = ""

    @property
    def undoes(self) -> str:
        """The oldest decision whose change is taken back; empty for a return to a revision."""
        return self.takes_back[-1].decision_id if self.takes_back else ""


def undo_of(
    pipeline: Pipeline,
    log: DecisionLog,
    to: str | None,
    whose: str | None,
    running: Configs,
    phase: ActuationPhase,
) -> UndoView:
    """The undo of that person's last change (None: of anybody's), or the return to the revision `to`.

    `to` is a number of `ipa history`, or the id of a decision. Errors: ConflictError (nothing is left to take
    back), InProgressError (another change rolls out), NotFoundError (no such revision).
    """
    applied = log.decisions(pipeline.name, limit=LOOK_BACK, applied_only=True)
    # While a change rolls out, the running configuration may be a read from before its write.
    settled = () if phase in IN_FLIGHT else running
    acts = _standing(_in_force(applied, settled))
    if to is not None:
        decision = _revision(pipeline, log, to)
        steps = next((each for each in acts if decision.decision_id in _ids(each)), [decision])
        return UndoView(f"restores revision {decision.tick}", (), running, steps[-1].configs)
    at = _last_of(pipeline, acts, whose, settled)
    if phase in IN_FLIGHT and applied and (at is None or applied[0].decision_id not in _ids(acts[at])):
        newest = applied[0]
        raise InProgressError(
            f"a change is in progress: revision {newest.tick}, {newest.reason.value}: {newest.detail}",
            hint=f"`ipa watch {pipeline.name} --until settled` waits for that; `--to REVISION` replaces it.",
        )
    if at is None:
        raise _nothing_left(pipeline, acts, whose)
    undone = tuple(_view(each) for each in reversed(acts[at:]))
    words = f"takes back revision {undone[-1].revision}"
    if len(undone) > 1:
        words += f" and {len(undone) - 1} later change{'s' if len(undone) > 2 else ''}"
    return UndoView(words, undone, running, _configs_before(pipeline, acts, at))


def _nothing_left(pipeline: Pipeline, acts: Sequence[Steps], whose: str | None) -> ConflictError:
    others = [it for it in acts if it[0].reason is ReasonCode.REQUESTED and whose not in (None, it[0].by)]
    last = f"The last change of another person is revision {others[-1][-1].tick} by " if others else ""
    last += f"{others[-1][0].by or 'someone'}. " if others else ""
    none = f"{whose} has no change" if whose else "no change by a person is"
    return ConflictError(
        f"{none} left to take back among the newest {LOOK_BACK} of pipeline {pipeline.name!r}",
        hint=f"{last}`ipa history {pipeline.name}` lists the revisions; "
        f"`ipa rollback {pipeline.name} --to REVISION` restores one.",
    )


def _revision(pipeline: Pipeline, log: DecisionLog, to: str) -> Decision:
    """The change of that number or id; NotFoundError if there is none."""
    if not to.isdecimal():
        decision = log.decision(to)
        if decision.pipeline != pipeline.name:
            raise NotFoundError(
                f"decision {to!r} is of pipeline {decision.pipeline!r}, not {pipeline.name!r}"
            )
        return decision
    newest = log.decisions(pipeline.name, limit=1, before_tick=int(to) + 1, applied_only=True)
    if not newest or newest[0].tick != int(to):
        raise NotFoundError(
            f"pipeline {pipeline.name!r} has no revision {to}",
            hint=f"`ipa history {pipeline.name}` lists them.",
        )
    return newest[0]


def _in_force(applied: Sequence[Decision], after: Configs) -> list[Decision]:
    """The decisions that took effect, the oldest first; `applied` is newest first, `after` runs if known.

    A decision was not written if its successor starts from the same configuration.
    """
    decisions: list[Decision] = []
    for decision in applied:
        is_unwritten = decision.previous == after
        if not is_unwritten or decision.configs == after:
            decisions.insert(0, decision)
            after = decision.previous
    return decisions


def _standing(decisions: Sequence[Decision]) -> list[Steps]:
    """The changes that were not taken back, the oldest first, each with its steps."""
    acts: list[Steps] = []
    # The changes that the newest undo took back: in force again if it fails.
    undone: list[Steps] = []
    rollback, is_of_undo = "", False
    for decision in decisions:
        if decision.reason is ReasonCode.ROLLBACK:
            rollback, is_of_undo = decision.decision_id, bool(undone)
            acts, undone = acts + undone, []
        if rollback and rollback in (decision.decision_id, decision.step_of):
            if acts and not is_of_undo:
                _cut(acts, decision)
        elif decision.undoes:
            at = next((at for at, it in enumerate(acts) if decision.undoes in _ids(it)), len(acts))
            acts, undone = acts[:at], acts[at:] or undone
        elif acts and _continues(decision, acts[-1][-1]):
            acts[-1].append(decision)
        else:
            acts, undone = [*acts, [decision]], []
    return acts


def _cut(acts: list[Steps], rollback: Decision) -> None:
    """Remove the newest steps that the rollback took back: one, or all up to its configuration."""
    steps = acts[-1]
    starts = [at for at, step in enumerate(steps) if step.previous == rollback.configs]
    del steps[starts[-1] if starts else 0 :]
    if not steps:
        acts.pop()


def _last_of(pipeline: Pipeline, acts: Sequence[Steps], whose: str | None, running: Configs) -> int | None:
    """The index of that person's last change; one whose undo would change nothing is skipped."""
    for at in reversed(range(len(acts))):
        first, before = acts[at][0], _configs_before(pipeline, acts, at)
        is_theirs = first.reason is ReasonCode.REQUESTED and whose in (None, first.by)
        # The change that created the pipeline has no configuration before it.
        if is_theirs and before and before != running:
            return at
    return None


def _configs_before(pipeline: Pipeline, acts: Sequence[Steps], at: int) -> Configs:
    """The configurations before that change.

    An intermediate step of a plan may be above the budget, since old and new replicas run together. If the
    change started from such a step, the configurations before the plan's first step count.
    """
    configs = acts[at][0].previous
    while at > 0 and _is_partial(acts[at - 1][-1]) and pipeline.bounds.exceeded(configs):
        at -= 1
        configs = acts[at][0].previous
    return configs


def _is_partial(decision: Decision) -> bool:
    """True if its plan takes further steps."""
    return decision.plan is not None and decision.plan.configs != decision.configs


def _continues(step: Decision, last: Decision) -> bool:
    """True if it is a further step of the decision behind the step `last`, or adds to it."""
    if step.reason is ReasonCode.AMENDED:
        return True
    if step.step_of:
        return step.step_of == (last.step_of or last.decision_id)
    if step.plan is None or last.plan is None or step.previous != last.configs:
        return False
    # A plan that takes several steps is made anew before each of them.
    return _is_partial(last) and step.plan.configs == last.plan.configs


def _ids(steps: Steps) -> list[str]:
    return [step.decision_id for step in steps]


def _view(steps: Steps) -> RevisionView:
    first = steps[0]
    return RevisionView(steps[-1].tick, first.decision_id, first.at, first.reason, first.detail, first.by)


LOG = logging.getLogger(__name__)
# More than anyone needs, few enough to be looked through every tick.
MOST_FREEZES = 100
# The overrides of a pipeline are read, changed and kept as one; two requests at once must not undo each
# other.
_one_at_a_time = threading.Lock()


def pause(
    service: Service,
    pipeline: Pipeline,
    attribution: Attribution,
    *,
    until: datetime | None = None,
    for_s: float | None = None,
) -> ControlView:
    """Hold everything until a moment, for a while, or (with neither) until resumed.

    InputError if the end is in the past or given twice.
    """
    now, end = service.clock.now(), until
    if until is not None and for_s is not None:
        problem = Problem("give until or for_s, not both", pointer="/for_s")
        raise InputError("the pause has two end times", problems=[problem])
    if for_s is not None:
        end = now + timedelta(seconds=for_s)
    elif until is not None and until <= now:
        problem = Problem(f"{until.isoformat()} is in the past", pointer="/until")
        raise InputError("the pause would already be over", problems=[problem])
    by, why = attribution.by, attribution.why
    paused = {"paused": True, "paused_until": end, "paused_reason": why, "paused_by": by}
    return _set(service, pipeline, attribution, **paused)


def resume(service: Service, pipeline: Pipeline, attribution: Attribution) -> ControlView:
    """End the pause, and a block that waits for a person."""
    unpaused = {"paused": False, "paused_until": None, "paused_reason": "", "paused_by": ""}
    return _set(service, pipeline, attribution, **unpaused, resumed_at=service.clock.now())


def set_mode(service: Service, pipeline: Pipeline, attribution: Attribution, mode: Mode) -> ControlView:
    """Set the mode; one that writes logs doubts about the profiles. UsageError: the target only advises."""
    if mode.writes:
        service.check_acts(pipeline)
    by, why = attribution.by, attribution.why
    view = _set(service, pipeline, attribution, mode=mode, mode_by=by, mode_reason=why)
    if mode.writes:
        for doubt in view.profile_doubts:
            LOG.warning("%s is %s with plans that may be wrong: %s", pipeline.name, mode.value, doubt)
    return view


def set_pin(
    service: Service, pipeline: Pipeline, attribution: Attribution, stage: str, pin: Pin
) -> ControlView:
    """Pin a part of the configuration of a stage, in place of the stage's earlier pin.

    NotFoundError for an unknown stage; InputError lists all other faults of the pin.
    """
    problems = pin_problems(pipeline, stage, pin)
    if problems:
        raise InputError(f"stage {stage!r} cannot be pinned like this", problems=problems)
    wanted = StagePin(stage, pin, attribution.why, attribution.by)

    def pinned(control: PipelineControl) -> PipelineControl:
        return replace(control, pins=(*(other for other in control.pins if other.stage != stage), wanted))

    return _changed(service, pipeline, attribution, pinned)


def remove_pin(service: Service, pipeline: Pipeline, attribution: Attribution, stage: str) -> ControlView:
    """Leave the stage to the planner again; NotFoundError if it is not pinned."""

    def without(control: PipelineControl) -> PipelineControl:
        pins = tuple(pin for pin in control.pins if pin.stage != stage)
        if pins == control.pins:
            known = ", ".join(pin.stage for pin in control.pins) or "none"
            raise NotFoundError(
                f"stage {stage!r} of pipeline {pipeline.name!r} is not pinned", hint=f"Pinned are: {known}"
            )
        return replace(control, pins=pins)

    return _changed(service, pipeline, attribution, without)


def add_freeze(
    service: Service,
    pipeline: Pipeline,
    attribution: Attribution,
    end: datetime,
    *,
    start: datetime | None = None,
    weekly: bool = False,
) -> ControlView:
    """Forbid writes from `start` (None: now) to `end`; a `weekly` freeze repeats every seven days.

    InputError if the end is not after the start, or past, or if there are too many freezes.
    """
    now = service.clock.now()
    start, end = (start or now).astimezone(UTC), end.astimezone(UTC)
    message = ""
    if end <= start:
        message = f"{end.isoformat()} is not after the start, {start.isoformat()}"
    elif weekly and end - start >= WEEK:
        message = "a weekly freeze of a week or longer never ends; give a shorter one, or pause"
    elif not weekly and end <= now:
        message = f"{end.isoformat()} is in the past"
    if message:
        raise InputError("the freeze would have no effect", problems=[Problem(message, pointer="/end")])
    freeze = Freeze(start, end, attribution.why, attribution.by, weekly)

    def added(control: PipelineControl) -> PipelineControl:
        # A freeze that is over is of no use to anyone; the same window again replaces its reason.
        freezes = [
            other
            for other in control.freezes
            if (other.weekly or now < other.end) and freeze_id(other) != freeze_id(freeze)
        ]
        if len(freezes) >= MOST_FREEZES:
            problem = Problem(f"there are {len(freezes)} already", pointer="/start")
            raise InputError("there are too many freezes; remove some first", problems=[problem])
        return replace(control, freezes=(*freezes, freeze))

    return _changed(service, pipeline, attribution, added)


def remove_freezes(service: Service, pipeline: Pipeline, attribution: Attribution) -> ControlView:
    """End every freeze, including future ones."""
    return _set(service, pipeline, attribution, freezes=())


def remove_freeze(service: Service, pipeline: Pipeline, attribution: Attribution, freeze: str) -> ControlView:
    """End one freeze, or remove it before it begins; NotFoundError for an unknown id."""

    def without(control: PipelineControl) -> PipelineControl:
        freezes = tuple(each for each in control.freezes if freeze_id(each) != freeze)
        if freezes == control.freezes:
            known = ", ".join(freeze_id(each) for each in control.freezes) or "none"
            raise NotFoundError(
                f"pipeline {pipeline.name!r} has no freeze {freeze!r}", hint=f"There are: {known}"
            )
        return replace(control, freezes=freezes)

    return _changed(service, pipeline, attribution, without)


def _set(service: Service, pipeline: Pipeline, attribution: Attribution, **fields: Any) -> ControlView:
    return _changed(service, pipeline, attribution, lambda control: replace(control, **fields))


def _changed(
    service: Service,
    pipeline: Pipeline,
    attribution: Attribution,
    change: Callable[[PipelineControl], PipelineControl],
) -> ControlView:
    """Change the overrides of the pipeline; the record names who changed them."""
    with _one_at_a_time:
        control = change(service.controls.control(pipeline.name))
        service.controls.set_control(pipeline.name, control, attribution)
    author = attribution.by or "someone"
    LOG.info("%s of %s by %s: %s", attribution.deed.value, pipeline.name, author, attribution.why)
    view = control_view(control, service.clock.now())
    return replace(view, profile_doubts=service.profile_doubts(pipeline))


@dataclass(frozen=True, slots=True)
class FeedbackTaken:
    """The number of judgements that the next tick counts, and of those that repeat earlier ones."""

    counted: int
    repeated: int


def give_feedback(service: Service, pipeline: Pipeline, feedback: Sequence[Feedback]) -> FeedbackTaken:
    """Give the judgements to the pipeline's loop; one without a variant is of the stage's only one.

    Errors: InputError (lists all faults), ConflictError (no loop controls the pipeline), BusyError.
    """
    loop = loop_of(service, pipeline.name)
    observation, served = loop.snapshot().observation, {stage.name: stage for stage in pipeline.served}
    answering: defaultdict[str, set[str]] = defaultdict(set)
    for seen in observation.stages if observation else ():
        config = known(seen.running)
        answering[seen.stage] |= {config.variant if config else "", *(variant for variant, _ in seen.served)}
    problems, complete = list[Problem](), list[Feedback]()
    for at, each in enumerate(feedback):
        stage, alone = served.get(each.stage), answering[each.stage]
        variant = each.variant or ("" if len(alone) != 1 else next(iter(alone)))
        complete.append(replace(each, variant=variant))
        names = [it.name for it in stage.variants] if stage else []
        key, message = "", ""
        if each.correct is None and each.agrees is None:
            message = "give correct, agrees, or both"
        elif stage is None:
            key, message = "/stage", f"no stage {each.stage!r}; {unknown(each.stage, served)}"
        elif not variant:
            key, message = "/variant", f"name the variant that answered: {', '.join(names)}"
        elif variant not in names:
            key, message = "/variant", f"no variant {variant!r}; {unknown(variant, names)}"
        if message:
            problems.append(Problem(message, pointer=f"/items/{at}{key}"))
    if problems:
        raise InputError("the feedback cannot be counted", problems=problems)
    counted = loop.give_feedback(complete)
    return FeedbackTaken(counted, len(feedback) - counted)


def apply(
    service: Service, pipeline: Pipeline, configs: Sequence[StageConfig], order: ChangeOrder
) -> Decision:
    """Apply the configurations if the pipeline is at the expected revision.

    The decision may be a hold with the cause. Errors: PreconditionError, InputError (lists all faults of the
    configurations), ConflictError (no loop controls the pipeline, or removing capacity while requests are
    late is not `confirmed`).
    """
    order.expected.check(live_of(service, pipeline.name).revision, f"pipeline {pipeline.name}")
    checked = checked_configs(pipeline, configs)
    check_confirmed(service, pipeline, checked, confirmed=order.confirmed)
    wanted = ChangeRequest(checked, order.words("requested"), by=order.by)
    return loop_of(service, pipeline.name).tick_once(wanted)


def roll_back(
    service: Service, pipeline: Pipeline, to: str | None, whose: str | None, order: ChangeOrder
) -> Decision:
    """Take back that person's last change (None: anybody's), or restore the revision `to`.

    Errors: those of `apply` and of `undo_of`.
    """
    undo = preview_undo(service, pipeline, to, whose, order.expected)
    check_confirmed(service, pipeline, undo.configs, confirmed=order.confirmed)
    detail = f"{order.words('rollback')}: {undo.words}"
    wanted = ChangeRequest(undo.configs, detail, by=order.by, restores=True, undoes=undo.undoes)
    return loop_of(service, pipeline.name).tick_once(wanted)


def preview_undo(
    service: Service,
    pipeline: Pipeline,
    to: str | None,
    whose: str | None,
    expected: Precondition | None = None,
) -> UndoView:
    """The effect that `roll_back` would have now. Errors: those of `roll_back`; `expected` may be None."""
    live = live_of(service, pipeline.name)
    if expected is not None:
        expected.check(live.revision, f"pipeline {pipeline.name}")
    running = tuple(stage.config for stage in live.stages if stage.config)
    undo = undo_of(pipeline, service.log, to, whose, running, ActuationPhase(live.phase))
    return replace(undo, unconfirmed=_capacity_taken(service, pipeline, undo.configs))


def check_confirmed(
    service: Service, pipeline: Pipeline, configs: Sequence[StageConfig], *, confirmed: bool
) -> None:
    """ConflictError if requests are late, and the configurations take replicas or cores from a stage.

    Nothing is checked if it is `confirmed`, or if no loop has seen the requests.
    """
    taken = "" if confirmed else _capacity_taken(service, pipeline, configs)
    if taken:
        raise ConflictError(
            taken,
            hint='Confirm it with `"confirmed": true` (`--confirm`) to make the change all the same.',
        )


def _capacity_taken(service: Service, pipeline: Pipeline, configs: Sequence[StageConfig]) -> str:
    """The replicas or cores that the configurations take while requests are late, in words; else empty."""
    loop = service.registry.loops.get(pipeline.name)
    snapshot = None if loop is None else loop.snapshot()
    if snapshot is None or snapshot.observation is None or not snapshot.is_late:
        return ""
    losses = [
        f"takes {new.stage} from {old.replicas}×{old.cores:g} to {new.replicas}×{cores_of(new.cores)}"
        for old, new in stage_pairs(snapshot.observation.running() or (), configs)
        if old is not None and old.variant == new.variant and new.total_cores < old.total_cores
    ]
    return f"{lateness(snapshot.observation, pipeline)}, and the change {', '.join(losses)}" if losses else ""
