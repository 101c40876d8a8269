"""Replay a recorded decision from its inputs, by the policy that made it or by another one.

The engine is a pure function of the recorded inputs: the same pipeline, profiles and policy give the same
decision. If they do not, the result lists the differences. If the pipeline or profiles changed, it is stale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import isclose
from typing import Any

import ipa
from ipa.control.canonical import digest, digest_of, plain
from ipa.control.decode import restored
from ipa.control.engine.decision_inputs import DecisionInputs, read_inputs
from ipa.control.engine.state import EngineState, PeakForecaster, PlannerProvenance, TickRequest
from ipa.control.engine.telemetry_loss import fallback_forecast
from ipa.control.engine.tick import on_tick, remembered
from ipa.control.engine.write_outcome import OUTCOME, is_outcome
from ipa.model.decision import Decision
from ipa.model.errors import InputError, IpaError, RecordError
from ipa.model.forecast import Forecast
from ipa.model.observation import LoadHistory
from ipa.model.pipeline import Fallback, Pipeline
from ipa.model.plan import Plan, StageConfig, in_words
from ipa.policies.base import Policy, Predictor, is_stateful

# Durations, which are no part of a result, and figures that follow from configurations and profiles.
NO_RESULT = frozenset({"solve_s", "beside", "cost_usd_per_hour"})
# Sums of floats in another order differ in their last digits, and predictions are kept in five.
ROUNDING = 1e-4
# The most differences listed.
MOST = 20
# The most characters of each.
LONGEST = 200


class ReplayOutcome(StrEnum):
    """The outcome of a replay."""

    SAME = "same"
    DIFFERS = "differs"
    # What it was decided with is another by now.
    STALE = "stale"
    # No tick decided it from inputs that are kept.
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Difference:
    """A field in which the replayed decision differs from the recorded one, both in words."""

    what: str
    recorded: str
    again: str


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """A decision replayed by `policy`.

    `why` says why it could not be replayed, `notes` what has changed since. `again` is without inputs, and
    None if it could not be replayed. For the same policy action, reason, configurations and plan are
    compared; for another one the configurations and the plan.
    """

    decision_id: str
    policy: str
    outcome: ReplayOutcome
    why: str = ""
    notes: tuple[str, ...] = ()
    differences: tuple[Difference, ...] = ()
    again: Decision | None = None


@dataclass(frozen=True, slots=True)
class ReplaySetup:
    """The pipeline, policy and predictor of a replay. Without a forecaster it uses the recorded forecast."""

    pipeline: Pipeline
    policy: Policy
    predict: Predictor
    made_of: PlannerProvenance
    forecaster: PeakForecaster | None = None


def inputs_in(decision: Decision) -> DecisionInputs | ReplayResult:
    """The inputs of the decision, or why it cannot be replayed. RecordError: its inputs were changed."""
    if is_outcome(decision):
        wrote = decision.decision_id.removesuffix(OUTCOME)
        return _none(decision, f"it says how the write of {wrote} went, which no tick decides")
    if not decision.inputs:
        return _none(decision, "it was recorded without its inputs")
    if digest(decision.inputs) != decision.inputs_digest:
        raise RecordError(
            f"the inputs of {decision.decision_id!r} are not those of its digest",
            hint=f"`ipa history {decision.pipeline} --verify` names what was changed.",
        )
    try:
        return read_inputs(decision.inputs)
    except InputError as error:
        words = "its inputs are not those of a tick as this version records them"
        return _none(decision, f"{words} ({error.message})")


def made_by_hand(decision: Decision, inputs: DecisionInputs) -> ReplayResult:
    """The result for a decision that no policy made."""
    return _none(decision, f"it was decided by {inputs.policy!r}, which is no policy")


def stale(
    decision: Decision, inputs: DecisionInputs, pipeline: Pipeline, profiles: str, policy: str
) -> ReplayResult | None:
    """The result if pipeline or profiles (by their digest) changed since; None if they did not."""
    moved = []
    if digest_of(_named(pipeline, decision)) != inputs.pipeline:
        moved.append("the pipeline was changed since")
    if profiles != inputs.made_of.profiles:
        moved.append("the profiles were measured anew since")
    if not moved:
        return None
    return ReplayResult(
        decision.decision_id, policy, ReplayOutcome.STALE, " and ".join(moved), _versions(inputs)
    )


def replay(
    decision: Decision, inputs: DecisionInputs, deciding: ReplaySetup, earlier: Sequence[Decision] = ()
) -> ReplayResult:
    """Decide again from these inputs of the decision, and compare.

    A policy other than the recorded one that remembers is shown the `earlier` decisions first, oldest first.
    """
    policy, notes = deciding.policy, [*_versions(inputs)]
    is_other = policy.name != inputs.policy
    memory: object = None
    if is_stateful(policy):
        if is_other:
            memory = _taught(policy, earlier)
            notes.append(f"{policy.name} remembers, and was shown the decisions before it first")
        elif inputs.state.memory is not None:
            memory = restored(policy.memory_kind, inputs.state.memory)
    pipeline = _named(deciding.pipeline, decision)
    forecasting = _Forecasting(decision.forecast, deciding.forecaster, pipeline.fallback)
    request = TickRequest(
        pipeline=pipeline,
        control=inputs.control,
        observation=inputs.observation,
        forecaster=forecasting,
        policy=policy,
        predict=deciding.predict,
        settings=inputs.settings,
        now_s=inputs.now_s,
        at=inputs.at,
        run_id=decision.decision_id.removeprefix(f"{decision.pipeline}-{decision.tick}-"),
        rolling=inputs.rolling,
        made_of=deciding.made_of,
        rollout=inputs.rollout,
        requested=inputs.requested,
    )
    effects, _ = on_tick(request, replace(inputs.state, memory=memory))
    again = effects.decision
    found = list(_parting(decision, again) if is_other else _differing(decision, again))
    if not is_other and inputs.version == ipa.__version__ and again.inputs != decision.inputs:
        found.append(Difference("inputs_digest", decision.inputs_digest, again.inputs_digest))
    if len(found) > MOST:
        notes.append(f"{len(found) - MOST} more differences are not listed")
    return ReplayResult(
        decision.decision_id,
        policy.name,
        ReplayOutcome.DIFFERS if found else ReplayOutcome.SAME,
        notes=(*notes, *forecasting.notes),
        differences=tuple(found[:MOST]),
        again=replace(again, inputs=""),
    )


def _none(decision: Decision, why: str) -> ReplayResult:
    return ReplayResult(decision.decision_id, "", ReplayOutcome.NOTHING, why)


def _named(pipeline: Pipeline, decision: Decision) -> Pipeline:
    """The pipeline under the name it is recorded by: that of a policy beside it has an @."""
    return pipeline if pipeline.name == decision.pipeline else replace(pipeline, name=decision.pipeline)


def _versions(inputs: DecisionInputs) -> tuple[str, ...]:
    if inputs.version == ipa.__version__:
        return ()
    return (f"it was decided by ipa {inputs.version}, this is {ipa.__version__}",)


def _taught(policy: Policy, earlier: Sequence[Decision]) -> object:
    """The memory of a policy after those ticks; empty after a restart of the service."""
    memory: object = None
    before_s = 0.0
    for decision in earlier:
        inputs = inputs_in(decision)
        if isinstance(inputs, ReplayResult):
            continue
        if inputs.now_s < before_s:
            memory = None
        memory = remembered(policy, inputs.observation, EngineState(memory=memory), inputs.now_s)
        before_s = inputs.now_s
    return memory


class _Forecasting:
    """The forecaster, or the recorded forecast where there is none or it says something else by now.

    A forecaster learns, and so need not say again what it said. `notes` tells which was taken.
    """

    def __init__(
        self, recorded: Forecast | None, forecaster: PeakForecaster | None, fallback: Fallback | None
    ) -> None:
        self._recorded, self._forecaster, self._fallback = recorded, forecaster, fallback
        self.notes: tuple[str, ...] = ()

    def __call__(self, load: LoadHistory) -> Forecast:
        """The peak expected. InputError where there was none then, and is none now."""
        recorded = self._recorded
        now, words = self._now(load)
        if recorded is None:
            if now is None:
                raise InputError(words)
            self.notes = ("there was no forecast then; that of now is taken",)
            return now
        if now is None or not self._agrees(now, recorded):
            self.notes = (f"the recorded forecast is taken: {words}",)
            return recorded
        return now

    def _now(self, load: LoadHistory) -> tuple[Forecast | None, str]:
        if self._forecaster is None:
            return None, "there is no forecaster here"
        try:
            now = self._forecaster(load)
        except IpaError as error:
            return None, error.message
        return now, f"of the same load {now.upper_rps:.4g} rps are expected now ({now.rung})"

    def _agrees(self, now: Forecast, recorded: Forecast) -> bool:
        """True if both are one forecast; the recorded one may have been raised to the fall-back's rate."""
        either = [now] if self._fallback is None else [now, fallback_forecast(self._fallback, now)]
        return any(not list(_leaves("", plain(recorded), plain(each))) for each in either)


def _differing(decision: Decision, again: Decision) -> Iterator[Difference]:
    """The differences if the same policy decided."""
    for name in ("action", "reason", "configs", "plan"):
        yield from _leaves(name, plain(getattr(decision, name)), plain(getattr(again, name)))


def _parting(decision: Decision, again: Decision) -> tuple[Difference, ...]:
    """The differences in plan and configuration if another policy decided, with the reason of each."""
    pairs = [
        ("action", decision.action.value, again.action.value),
        ("configs", _configs(decision.configs), _configs(again.configs)),
        ("plan", _planned(decision.plan), _planned(again.plan)),
    ]
    found = [Difference(*pair) for pair in pairs if pair[1] != pair[2]]
    if found and decision.reason is not again.reason:
        found.insert(0, Difference("reason", decision.reason.value, again.reason.value))
    return tuple(found)


def _configs(configs: Sequence[StageConfig]) -> str:
    return in_words(configs) or "nothing"


def _planned(plan: Plan | None) -> str:
    if plan is None:
        return "no plan"
    return _configs(plan.configs) if plan.stages else plan.termination.value


def _leaves(what: str, recorded: Any, again: Any) -> Iterator[Difference]:
    """Every value in which two plain ones differ, times and rounding aside."""
    if isinstance(recorded, dict) and isinstance(again, dict):
        for name in [*recorded, *(it for it in again if it not in recorded)]:
            if name not in NO_RESULT:
                yield from _leaves(f"{what}.{name}", recorded.get(name), again.get(name))
    elif isinstance(recorded, list) and isinstance(again, list) and len(recorded) == len(again):
        for at, pair in enumerate(zip(recorded, again, strict=True)):
            yield from _leaves(f"{what}.{_name_of(pair[0], at)}", *pair)
    elif not _equal(recorded, again):
        yield Difference(what.strip("."), _said(recorded), _said(again))


def _name_of(value: Any, at: int) -> str:
    return str(value["stage"]) if isinstance(value, dict) and "stage" in value else str(at)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float | int) and isinstance(other, float | int):
        return isclose(one, other, rel_tol=ROUNDING, abs_tol=ROUNDING)
    return bool(one == other)


def _said(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
