"""A change of several objects of which only some were written."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.control.engine.actuation import ActuationPhase, accepted, advance, begin, resume, unanswered
from ipa.control.engine.observe import observe
from ipa.control.ports import Rollout, RolloutPhase, Signals, StageState, WorkloadState
from ipa.model.decision import Action, Change, Decision, Mode, ReasonCode
from ipa.model.observation import Missing, MissingReason, Observation
from ipa.model.plan import StageConfig
from tests.fakes.world import PIPELINE, SMALLEST

UNSEEN = Missing(MissingReason.NOT_ASKED)
Configs = tuple[StageConfig, ...]
WANTED = tuple(replace(config, variant="big", batch_size=4, replicas=3) for config in SMALLEST)
CHANGE = Change("pages-1-run", "pages", "1", SMALLEST, WANTED, deadline_s=30.0)
READY = Rollout(RolloutPhase.READY)
# The model of a stage, its queue, a whole stage; and what no write of ours leaves.
IN_PART = {
    "a model": (replace(WANTED[0], batch_size=1), SMALLEST[1]),
    "a queue": (SMALLEST[0], replace(SMALLEST[1], batch_size=4)),
    "a stage and a queue": (WANTED[0], replace(SMALLEST[1], batch_size=4)),
}
FOREIGN = {
    "other replicas": (replace(WANTED[0], replicas=2), SMALLEST[1]),
    "half of a model": (replace(SMALLEST[0], variant="big"), SMALLEST[1]),
    "another batch size": (WANTED[0], replace(SMALLEST[1], batch_size=2)),
}


def observed(configs: Configs, *, settled: bool = True) -> Observation:
    stages = tuple(StageState(config, config.replicas) for config in configs)
    state = WorkloadState("2", stages, settled=settled)
    return observe(PIPELINE, Signals(UNSEEN, UNSEEN, UNSEEN), state, at_s=0.0)


@pytest.mark.parametrize("part", IN_PART)
def test_the_part_is_waited_for_and_then_is_what_runs(part: str) -> None:
    lost = unanswered(begin(CHANGE, 0.0), "no answer")
    actuation = advance(lost, observed(IN_PART[part]), None, 5.0)
    assert actuation.phase is ActuationPhase.WAITING_READY
    assert actuation.change is not None
    assert (actuation.change.previous, actuation.change.configs) == (SMALLEST, IN_PART[part])
    assert advance(actuation, observed(IN_PART[part]), READY, 10.0).phase is ActuationPhase.SETTLED
    assert (
        advance(actuation, observed(IN_PART[part]), Rollout(RolloutPhase.PROGRESSING), 31.0).phase
        is ActuationPhase.FAILED
    )


@pytest.mark.parametrize("what", FOREIGN)
def test_what_no_write_of_ours_leaves_is_another_hands(what: str) -> None:
    lost = unanswered(begin(CHANGE, 0.0), "no answer")
    assert advance(lost, observed(FOREIGN[what]), None, 5.0).phase is ActuationPhase.MOVED


def test_a_change_that_was_answered_is_not_taken_for_a_part() -> None:
    whole = accepted(begin(CHANGE, 0.0))
    assert advance(whole, observed(IN_PART["a model"]), READY, 5.0).phase is ActuationPhase.MOVED


LAST = Decision(
    decision_id="pages-1-run",
    pipeline="pages",
    tick=1,
    at="",
    action=Action.APPLY,
    reason=ReasonCode.SCALE_UP,
    detail="",
    configs=WANTED,
    previous=SMALLEST,
    mode=Mode.ACTIVE,
)


@pytest.mark.parametrize("part", IN_PART)
def test_a_new_process_goes_on_with_the_part(part: str) -> None:
    actuation = resume((LAST,), observed(IN_PART[part], settled=False), 30.0, 5.0)
    assert (actuation.phase, actuation.change and actuation.change.configs) == (
        ActuationPhase.WAITING_READY,
        IN_PART[part],
    )
    assert resume((LAST,), observed(FOREIGN["half of a model"], settled=False), 30.0, 5.0).change is None


def test_a_new_process_undoes_again_only_what_a_rollback_that_was_not_written_left() -> None:
    last = replace(LAST, reason=ReasonCode.ROLLBACK, configs=SMALLEST, previous=WANTED)
    change = resume((last,), observed(WANTED, settled=False), 30.0, 5.0).change
    assert change is not None
    assert (change.previous, change.configs, change.is_rollback) == (SMALLEST, WANTED, False)
    assert resume((LAST,), observed(SMALLEST, settled=False), 30.0, 5.0).change is None
    assert resume((last,), observed(FOREIGN["other replicas"], settled=False), 30.0, 5.0).change is None
