"""Values restored from their canonical form, and what is said of decisions that do not come out the same."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum

import pytest

import ipa
from ipa.control.audit.replay import Replayer, ReplayOutcome, ReplayResult
from ipa.control.canonical import canonical_json, digest, plain, restored
from ipa.control.engine.tick import OUTCOME
from ipa.model.decision import Action, Decision, ReasonCode
from ipa.model.errors import InputError
from ipa.model.observation import Measured, Missing, MissingReason
from ipa.model.rounding import rounded_forecast
from tests.fakes.services import FakeWorld, a_pipeline
from tests.fakes.viewed import PROFILES, again, decided, taken


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Kinds:
    """One of each kind of value."""

    one: float
    many: tuple[int, ...]
    pair: tuple[str, float]
    named: frozenset[tuple[str, str]]
    either: Measured[float] | Missing
    maybe: Colour | None
    at: datetime
    anything: object = None
    flag: bool = False


KINDS = Kinds(
    2,
    (1, 2),
    ("a", 0.1),
    frozenset({("s", "v")}),
    Measured(3.5),
    Colour.RED,
    datetime(2026, 1, 1, tzinfo=UTC),
)


def test_what_was_restored_is_the_value_and_has_its_canonical_text() -> None:
    for value in (KINDS, replace(KINDS, either=Missing(MissingReason.STALE), maybe=None, flag=True, one=0.5)):
        text = canonical_json(value)
        decoded = restored(Kinds, json.loads(text))
        assert decoded == value
        assert json.loads(canonical_json(decoded)) == json.loads(text)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("one", None, "/one: Input should be a valid number"),
        ("one", True, "/one: Input should be a valid number"),
        ("many", [1, 2.5], "/many/1: Input should be a valid integer"),
        ("many", 4, "/many: Input should be a valid array"),
        ("pair", ["a"], "/pair/1: Field required"),
        ("either", {"value": 1.0, "of": 2}, "of: Unexpected keyword argument"),
        ("maybe", "blue", "/maybe: Input should be 'red'"),
        ("at", "noon", "/at: Input should be a valid datetime"),
        ("other", 1, "/other: Unexpected keyword argument"),
    ],
)
def test_what_is_none_says_where_and_why(name: str, value: object, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        restored(Kinds, {**plain(KINDS), name: value})


def test_what_older_versions_did_not_write_has_its_default_else_it_is_lacking() -> None:
    values = plain(KINDS)
    del values["anything"], values["flag"]
    assert restored(Kinds, values) == KINDS
    del values["one"]
    with pytest.raises(InputError, match="/one: Field required"):
        restored(Kinds, values)


def take(decision: Decision, policy: str | None = None) -> ReplayResult:
    """The decision taken again with what it was decided with."""
    return again(taken()).service.replayer(decision, a_pipeline(), PROFILES, policy)


def a_change() -> Decision:
    return next(it for it in reversed(decided()) if it.action is Action.APPLY and it.plan)


def rewritten(decision: Decision, **changed: object) -> Decision:
    """The decision as if its inputs had been others."""
    inputs = canonical_json({**json.loads(decision.inputs), **changed})
    return replace(decision, inputs=inputs, inputs_digest=digest(inputs))


def test_whatever_differs_but_times_and_rounding_is_named_with_both_values() -> None:
    decision = a_change()
    assert decision.plan is not None and decision.plan.objective is not None
    moved = replace(decision.plan.stages[0], replicas=7)
    plan = replace(decision.plan, stages=(moved, *decision.plan.stages[1:]), solve_s=9.0)
    plan = replace(plan, objective=decision.plan.objective + 1e-13)
    result = take(replace(decision, reason=ReasonCode.REBATCH, plan=plan))
    assert result.outcome is ReplayOutcome.DIFFERS
    assert [(each.what, each.recorded, each.again) for each in result.differences] == [
        ("reason", "apply.rebatch", decision.reason.value),
        (f"plan.stages.{moved.stage}.replicas", "7", str(decision.plan.stages[0].replicas)),
    ]


def test_inputs_that_were_not_restored_whole_are_a_difference() -> None:
    decision = a_change()
    # A number of the state that no decision of this tick looks at.
    state = {**json.loads(decision.inputs)["state"], "conflicts": 0}
    del state["conflicts"]
    result = take(rewritten(decision, state=state))
    assert [each.what for each in result.differences] == ["inputs_digest"]


def test_what_it_was_decided_with_must_be_the_same() -> None:
    decision, profiles = a_change(), dict(PROFILES)
    profiles["detect"] = replace(profiles["detect"], hardware="another")
    other = replace(a_pipeline(), description="another")
    result = again(taken()).service.replayer(decision, other, profiles)
    why = "the pipeline has changed since and the profiles were measured again since"
    assert (result.outcome, result.why, result.again) == (ReplayOutcome.STALE, why, None)


def test_what_no_tick_decided_has_nothing_to_take_again() -> None:
    decision = a_change()
    wrote = replace(decision, decision_id=f"{decision.decision_id}{OUTCOME}")
    by_hand = replace(decision, inputs=canonical_json({"at": decision.at}))
    by_hand = replace(by_hand, inputs_digest=digest(by_hand.inputs))
    for each, words in (
        (wrote, f"it is the outcome of the write of {decision.decision_id}, not the decision of a tick"),
        (replace(decision, inputs="", inputs_digest=""), "without its inputs"),
        (by_hand, f"ipa {ipa.__version__} cannot read its inputs (/control: Field required)"),
        (rewritten(decision, policy="by hand"), "policy 'by hand' decided it"),
    ):
        result = take(each)
        assert result.outcome is ReplayOutcome.NOTHING and words in result.why


def test_inputs_of_another_version_that_cannot_be_read_are_stale() -> None:
    result = take(rewritten(a_change(), version="0.0.1", removed_since=1))
    words = f"ipa 0.0.1 decided it, and ipa {ipa.__version__} cannot read its inputs (/removed_since: "
    assert (result.outcome, result.why.startswith(words)) == (ReplayOutcome.STALE, True)
    # Those of this version were changed by somebody.
    result = take(rewritten(a_change(), removed_since=1))
    assert result.outcome is ReplayOutcome.NOTHING


def test_another_version_says_so_and_its_inputs_are_not_compared() -> None:
    result = take(rewritten(a_change(), version="0.0.1"))
    assert (result.outcome, result.notes) == (
        ReplayOutcome.SAME,
        (f"it was decided by ipa 0.0.1, this is {ipa.__version__}",),
    )


def test_the_recorded_forecast_is_used() -> None:
    decision = a_change()
    assert decision.forecast is not None
    rates_rps = tuple(9 * rate for rate in decision.forecast.rates_rps)
    forecast = replace(decision.forecast, upper_rps=99.0, rates_rps=rates_rps)
    higher = replace(decision, forecast=forecast)
    result = take(higher)
    assert result.outcome is ReplayOutcome.DIFFERS and result.again is not None
    assert result.again.forecast == rounded_forecast(forecast)


def test_another_policy_parts_where_it_would_run_or_plan_something_else() -> None:
    decision = a_change()
    result = take(decision, "rim")
    assert result.outcome is ReplayOutcome.DIFFERS and result.policy == "rim" and result.again is not None
    assert result.again.plan is not None and decision.plan is not None
    assert result.again.plan.configs != decision.plan.configs
    whats = [each.what for each in result.differences]
    assert "plan" in whats and set(whats) <= {"reason", "action", "configs", "plan"}
    # The same plan for another objective is no other decision.
    assert take(decision, "ours").outcome is ReplayOutcome.SAME


def test_a_policy_that_remembers_decides_as_if_it_had_looked_on() -> None:
    """Shown what was seen before, the HPA waits with taking away; with nothing to remember it need not."""
    world, parted = taken(), 0
    looked_on, new = Replayer(world), Replayer(FakeWorld())
    for decision in world.recorded[14:22]:
        shown, alone = (each(decision, a_pipeline(), PROFILES, "hpa").again for each in (looked_on, new))
        assert shown is not None and alone is not None
        parted += shown.configs != alone.configs
    assert parted > 0
    note = "hpa keeps state, which was rebuilt from the decisions before this one"
    assert note in looked_on(a_change(), a_pipeline(), PROFILES, "hpa").notes
    # What it remembers itself is in the inputs of what it decided.
    decision = decided("hpa")[-1]
    assert '"recommended"' in decision.inputs
    assert new(decision, a_pipeline(), PROFILES).outcome is ReplayOutcome.SAME
