"""Commands: pauses, modes, pins and freezes that people set; apply a configuration, and roll back to one."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from ipa.control.engine.actuation import ActuationPhase
from ipa.control.engine.feedback import lateness
from ipa.control.engine.guards import WEEK
from ipa.control.engine.state import ChangeRequest
from ipa.control.ports import Attribution, Freeze, PipelineControl, StagePin
from ipa.model.decision import Decision, Mode
from ipa.model.errors import ConflictError, InputError, NotFoundError, Problem
from ipa.model.parts import stage_pairs
from ipa.model.pipeline import Pin, Pipeline
from ipa.model.plan import StageConfig, cores_of
from ipa.service.checks import checked_configs, pin_problems
from ipa.service.preconditions import ChangeOrder, Precondition
from ipa.service.service import Service
from ipa.service.status import ControlView, control_view, freeze_id, live_of, loop_of
from ipa.service.undo import UndoView, undo_of

LOG = logging.getLogger(__name__)
# More than anyone needs, few enough to be looked through every tick.
MOST_FREEZES = 100
# The overrides of a pipeline are read, changed and kept as one; two requests at once must not undo each
# other.
_one_at_a_time = threading.Lock()


def pause(
    service: Service,
    pipeline: Pipeline,
    said: Attribution,
    *,
    until: datetime | None = None,
    for_s: float | None = None,
) -> ControlView:
    """Hold everything until a moment, for a while, or (with neither) until resumed.

    InputError if the end is past or given twice.
    """
    now, end = service.clock.now(), until
    if until is not None and for_s is not None:
        problem = Problem("give until or for_s, not both", pointer="/for_s")
        raise InputError("the pause has two end times", problems=[problem])
    if for_s is not None:
        end = now + timedelta(seconds=for_s)
    elif until is not None and until <= now:
        problem = Problem(f"{until.isoformat()} is past", pointer="/until")
        raise InputError("the pause would already be over", problems=[problem])
    paused = {"paused": True, "paused_until": end, "paused_reason": said.why, "paused_by": said.by}
    return _set(service, pipeline, said, paused)


def resume(service: Service, pipeline: Pipeline, said: Attribution) -> ControlView:
    """End the pause, and a block that waits for a person."""
    unpaused = {"paused": False, "paused_until": None, "paused_reason": "", "paused_by": ""}
    return _set(service, pipeline, said, {**unpaused, "resumed_at": service.clock.now()})


def set_mode(service: Service, pipeline: Pipeline, said: Attribution, mode: Mode) -> ControlView:
    """Set the mode of the pipeline. A mode that writes is logged with the doubts of the profiles, if any."""
    view = _set(service, pipeline, said, {"mode": mode, "mode_by": said.by, "mode_reason": said.why})
    if mode.writes:
        for doubt in view.profile_doubts:
            LOG.warning("%s is %s with plans that may be wrong: %s", pipeline.name, mode.value, doubt)
    return view


def set_pin(service: Service, pipeline: Pipeline, said: Attribution, stage: str, pin: Pin) -> ControlView:
    """Fix a part of the configuration of a stage, in place of the stage's earlier pin.

    NotFoundError for an unknown stage; InputError lists all else that is wrong with the pin.
    """
    problems = pin_problems(pipeline, stage, pin)
    if problems:
        raise InputError(f"stage {stage!r} cannot be pinned like this", problems=problems)
    wanted = StagePin(stage, pin, said.why, said.by)

    def pinned(control: PipelineControl) -> PipelineControl:
        return replace(control, pins=(*(other for other in control.pins if other.stage != stage), wanted))

    return _changed(service, pipeline, said, pinned)


def remove_pin(service: Service, pipeline: Pipeline, said: Attribution, stage: str) -> ControlView:
    """Leave the stage to the planner again; NotFoundError if it is not pinned."""

    def without(control: PipelineControl) -> PipelineControl:
        kept = tuple(pin for pin in control.pins if pin.stage != stage)
        if kept == control.pins:
            known = ", ".join(pin.stage for pin in control.pins) or "none"
            raise NotFoundError(
                f"no stage {stage!r} of pipeline {pipeline.name!r} is pinned", hint=f"Pinned are: {known}"
            )
        return replace(control, pins=kept)

    return _changed(service, pipeline, said, without)


def add_freeze(
    service: Service,
    pipeline: Pipeline,
    said: Attribution,
    end: datetime,
    *,
    start: datetime | None = None,
    weekly: bool = False,
) -> ControlView:
    """Write nothing from `start` (None: now) to `end`, in `weekly` ones every seven days again.

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
        message = f"{end.isoformat()} is past"
    if message:
        raise InputError("the freeze would have no effect", problems=[Problem(message, pointer="/end")])
    freeze = Freeze(start, end, said.why, said.by, weekly)

    def added(control: PipelineControl) -> PipelineControl:
        # A freeze that is over is of no use to anyone; the same window again replaces its reason.
        kept = [
            other
            for other in control.freezes
            if (other.weekly or now < other.end) and freeze_id(other) != freeze_id(freeze)
        ]
        if len(kept) >= MOST_FREEZES:
            problem = Problem(f"there are {len(kept)} already", pointer="/start")
            raise InputError("there are too many freezes; remove some first", problems=[problem])
        return replace(control, freezes=(*kept, freeze))

    return _changed(service, pipeline, said, added)


def remove_freezes(service: Service, pipeline: Pipeline, said: Attribution) -> ControlView:
    """End every freeze, also those to come."""
    return _set(service, pipeline, said, {"freezes": ()})


def remove_freeze(service: Service, pipeline: Pipeline, said: Attribution, freeze: str) -> ControlView:
    """End one freeze, or remove it before it begins; NotFoundError for an unknown id."""

    def without(control: PipelineControl) -> PipelineControl:
        kept = tuple(each for each in control.freezes if freeze_id(each) != freeze)
        if kept == control.freezes:
            known = ", ".join(freeze_id(each) for each in control.freezes) or "none"
            raise NotFoundError(
                f"pipeline {pipeline.name!r} has no freeze {freeze!r}", hint=f"There are: {known}"
            )
        return replace(control, freezes=kept)

    return _changed(service, pipeline, said, without)


def _set(service: Service, pipeline: Pipeline, said: Attribution, fields: Mapping[str, Any]) -> ControlView:
    return _changed(service, pipeline, said, lambda control: replace(control, **fields))


def _changed(
    service: Service,
    pipeline: Pipeline,
    said: Attribution,
    change: Callable[[PipelineControl], PipelineControl],
) -> ControlView:
    """Change the overrides of the pipeline; the record names who changed them."""
    with _one_at_a_time:
        control = change(service.controls.control(pipeline.name))
        service.controls.set_control(pipeline.name, control, said)
    LOG.info("%s of %s by %s: %s", said.deed.value, pipeline.name, said.by or "someone", said.why)
    view = control_view(control, service.clock.now())
    return replace(view, profile_doubts=service.profile_doubts(pipeline))


def apply(
    service: Service, pipeline: Pipeline, configs: Sequence[StageConfig], order: ChangeOrder
) -> Decision:
    """Apply the configurations if the pipeline is at the expected revision.

    The decision may be a hold with the cause. Errors: PreconditionError, InputError (lists all faults of the
    configurations), ConflictError (no loop controls the pipeline, or it is not `confirmed` that capacity goes
    while requests are late).
    """
    order.expected.check(live_of(service, pipeline.name).revision, f"pipeline {pipeline.name}")
    checked = checked_configs(pipeline, configs)
    check_confirmed(service, pipeline, checked, confirmed=order.confirmed)
    wanted = ChangeRequest(checked, order.words("requested"), by=order.by)
    return loop_of(service, pipeline.name).request(wanted)


def roll_back(
    service: Service, pipeline: Pipeline, to: str | None, whose: str | None, order: ChangeOrder
) -> Decision:
    """Take back that person's last change (None: anybody's), or restore the revision `to`.

    Errors: those of `apply` and of `undo_of`.
    """
    found = preview_undo(service, pipeline, to, whose, order.expected)
    _require_confirmation("" if order.confirmed else found.unconfirmed)
    detail = f"{order.words('rollback')}: {found.words}"
    wanted = ChangeRequest(found.configs, detail, by=order.by, restores=True, undoes=found.undoes)
    return loop_of(service, pipeline.name).request(wanted)


def preview_undo(
    service: Service,
    pipeline: Pipeline,
    to: str | None,
    whose: str | None,
    expected: Precondition | None = None,
) -> UndoView:
    """The effect that `roll_back` has now. Errors: as there, of what is `expected` only if that is given."""
    live = live_of(service, pipeline.name)
    if expected is not None:
        expected.check(live.revision, f"pipeline {pipeline.name}")
    running = tuple(stage.config for stage in live.stages if stage.config)
    found = undo_of(pipeline, service.log, to, whose, running, ActuationPhase(live.phase))
    return replace(found, unconfirmed=_capacity_taken(service, pipeline, found.configs))


def check_confirmed(
    service: Service, pipeline: Pipeline, configs: Sequence[StageConfig], *, confirmed: bool
) -> None:
    """ConflictError if requests are late, and the configurations take replicas or cores from a stage.

    Nothing is checked if it is `confirmed`, or if no loop has seen the requests.
    """
    _require_confirmation("" if confirmed else _capacity_taken(service, pipeline, configs))


def _require_confirmation(capacity_taken: str) -> None:
    if capacity_taken:
        raise ConflictError(
            capacity_taken,
            hint='Confirm it with `"confirmed": true` (`--confirm`) to make the change all the same.',
        )


def _capacity_taken(service: Service, pipeline: Pipeline, configs: Sequence[StageConfig]) -> str:
    """The replicas or cores that the configurations take while requests are late, in words; else empty."""
    loop = service.registry.loops.get(pipeline.name)
    seen = None if loop is None else loop.snapshot()
    if seen is None or seen.observation is None or not seen.feedback.is_broken:
        return ""
    losses = [
        f"takes {new.stage} from {old.replicas}×{old.cores:g} to {new.replicas}×{cores_of(new.cores)}"
        for old, new in stage_pairs(seen.observation.running() or (), configs)
        if old is not None and old.variant == new.variant and new.total_cores < old.total_cores
    ]
    return f"{lateness(seen.observation, pipeline)}, and the change {', '.join(losses)}" if losses else ""
