"""Replay of a recorded decision from its inputs, by the policy that made it or by another one.

The engine is a pure function of the recorded inputs: the same pipeline, profiles and policy give the same
decision. If they do not, the result lists the differences. If the pipeline or profiles changed, it is stale.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import isclose
from typing import Any

import ipa
from ipa.control.canonical import digest, digest_of, plain, restored
from ipa.control.engine.state import EngineState, PlannerProvenance, TickRequest
from ipa.control.engine.tick import (
    OUTCOME,
    DecisionInputs,
    is_outcome,
    on_tick,
    read_inputs,
    remembered,
    version_of,
)
from ipa.model.decision import Decision
from ipa.model.errors import InputError, RecordError
from ipa.model.observation import Forecast, LoadHistory
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StageConfig, in_words
from ipa.policies.base import Policy, Predictor, is_stateful

# Durations, which are no part of a result, and figures that follow from configurations and profiles.
NO_RESULT = frozenset({"solve_s", "beside", "cost_usd_per_hour", "prices"})
# The fields in which decisions of the same policy are compared.
COMPARED = ("action", "reason", "configs", "plan")
# Sums of floats in another order differ in their last digits, and predictions are rounded to five.
ROUNDING = 1e-4
# The most differences listed.
MOST = 20
# The most characters of each.
LONGEST = 200


class ReplayOutcome(StrEnum):
    """The outcome of a replay."""

    SAME = "same"
    DIFFERS = "differs"
    # The pipeline, its profiles, or what a version records have changed since.
    STALE = "stale"
    # It was not decided from recorded inputs.
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class ReplayDifference:
    """A field in which the replayed decision differs from the recorded one, both in words."""

    what: str
    recorded: str
    again: str


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """A decision replayed by `policy`.

    `why` is the cause if it could not be replayed, `notes` lists changes since then. `again` is the new
    decision without inputs, None if it could not be replayed. For the same policy, action, reason,
    configurations and plan are compared; for another one the configurations and the plan.
    """

    decision_id: str
    policy: str
    outcome: ReplayOutcome
    why: str = ""
    notes: tuple[str, ...] = ()
    differences: tuple[ReplayDifference, ...] = ()
    again: Decision | None = None


@dataclass(frozen=True, slots=True)
class ReplaySetup:
    """The pipeline, policy and predictor of a replay; the forecast is the recorded one."""

    pipeline: Pipeline
    policy: Policy
    predict: Predictor
    made_of: PlannerProvenance


def inputs_in(decision: Decision) -> DecisionInputs | ReplayResult:
    """The inputs of the decision, or why it cannot be replayed. RecordError: its inputs were changed."""
    if is_outcome(decision):
        wrote = decision.decision_id.removesuffix(OUTCOME)
        return nothing(decision, f"it is the outcome of the write of {wrote}, not the decision of a tick")
    if not decision.inputs:
        return nothing(decision, "it was recorded without its inputs")
    if digest(decision.inputs) != decision.inputs_digest:
        raise RecordError(
            f"the inputs of {decision.decision_id!r} do not match their digest",
            hint=f"`ipa history {decision.pipeline} --verify` names the changed entry.",
        )
    try:
        return read_inputs(decision.inputs)
    except InputError as error:
        why = f"ipa {ipa.__version__} cannot read its inputs ({error.message})"
        made_by = re.search(r'.*"version":"(.*?)"', decision.inputs)
        if made_by is None or made_by[1] == ipa.__version__:
            return nothing(decision, why)
        why = f"ipa {made_by[1]} decided it, and {why}"
        return ReplayResult(decision.decision_id, "", ReplayOutcome.STALE, why)


def nothing(decision: Decision, why: str) -> ReplayResult:
    """The result for a decision that cannot be replayed."""
    return ReplayResult(decision.decision_id, "", ReplayOutcome.NOTHING, why)


def stale(
    decision: Decision, inputs: DecisionInputs, pipeline: Pipeline, profiles: str, policy: str
) -> ReplayResult | None:
    """The result if pipeline or profiles (by their digest) changed since then; None if they did not."""
    moved = []
    # A shadow policy's decisions have the pipeline's name with an @.
    if digest_of(replace(pipeline, name=decision.pipeline)) != inputs.pipeline:
        moved.append("the pipeline has changed since")
    if profiles != inputs.made_of.profiles:
        moved.append("the profiles were measured again since")
    if not moved:
        return None
    return ReplayResult(
        decision.decision_id,
        policy,
        ReplayOutcome.STALE,
        " and ".join(moved),
        _versions(inputs, ipa.__version__),
    )


def replay(
    decision: Decision, inputs: DecisionInputs, deciding: ReplaySetup, earlier: Sequence[Decision] = ()
) -> ReplayResult:
    """Re-run the decision from these inputs, and compare.

    Another policy with a memory first receives the `earlier` decisions, oldest first.
    """
    policy = deciding.policy
    is_other = policy.name != inputs.policy
    notes = [*_versions(inputs, ipa.__version__ if is_other else version_of(policy))]
    memory: object = None
    if is_stateful(policy):
        if is_other:
            memory = _taught(policy, earlier)
            notes.append(f"{policy.name} keeps state, which was rebuilt from the decisions before this one")
        elif inputs.state.memory is not None:
            memory = restored(policy.memory_kind, inputs.state.memory)

    def forecast(load: LoadHistory) -> Forecast:
        # The recorded one: a forecaster that learns may give another one now.
        if decision.forecast is None:
            raise InputError("no forecast was recorded")
        return decision.forecast

    request = TickRequest(
        pipeline=replace(deciding.pipeline, name=decision.pipeline),
        control=inputs.control,
        observation=inputs.observation,
        forecaster=forecast,
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
    again = on_tick(request, replace(inputs.state, memory=memory))[0].decision
    if is_other:
        differences = _parting(decision, again)
    else:
        pairs = ((name, plain(getattr(decision, name)), plain(getattr(again, name))) for name in COMPARED)
        differences = [each for pair in pairs for each in _leaves(*pair)]
        is_same = json.loads(again.inputs) == json.loads(decision.inputs)
        if inputs.version == version_of(policy) and not is_same:
            differences.append(ReplayDifference("inputs_digest", decision.inputs_digest, again.inputs_digest))
    if len(differences) > MOST:
        notes.append(f"{len(differences) - MOST} more differences are not listed")
    return ReplayResult(
        decision.decision_id,
        policy.name,
        ReplayOutcome.DIFFERS if differences else ReplayOutcome.SAME,
        notes=tuple(notes),
        differences=tuple(differences[:MOST]),
        again=replace(again, inputs=""),
    )


def _versions(inputs: DecisionInputs, version: str) -> tuple[str, ...]:
    if inputs.version == version:
        return ()
    return (f"it was decided by ipa {inputs.version}, this is {version}",)


def _taught(policy: Policy, earlier: Sequence[Decision]) -> object:
    """The memory of a policy after these ticks; a restart of the service clears it."""
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


def _parting(decision: Decision, again: Decision) -> list[ReplayDifference]:
    """The differences in plan and configuration from another policy's decision, with both reasons."""
    pairs = [
        ("action", decision.action.value, again.action.value),
        ("configs", _configs(decision.configs), _configs(again.configs)),
        ("plan", _planned(decision.plan), _planned(again.plan)),
    ]
    differences = [ReplayDifference(*pair) for pair in pairs if pair[1] != pair[2]]
    if differences and decision.reason is not again.reason:
        differences.insert(0, ReplayDifference("reason", decision.reason.value, again.reason.value))
    return differences


def _configs(configs: Sequence[StageConfig]) -> str:
    return in_words(configs) or "nothing"


def _planned(plan: Plan | None) -> str:
    if plan is None:
        return "no plan"
    return _configs(plan.configs) if plan.stages else plan.termination.value


def _leaves(what: str, recorded: Any, again: Any) -> Iterator[ReplayDifference]:
    """The leaves in which two plain values differ, except for times and rounding."""
    if isinstance(recorded, dict) and isinstance(again, dict):
        for name in [*recorded, *(it for it in again if it not in recorded)]:
            if name not in NO_RESULT:
                yield from _leaves(f"{what}.{name}", recorded.get(name), again.get(name))
    elif isinstance(recorded, list) and isinstance(again, list) and len(recorded) == len(again):
        for at, pair in enumerate(zip(recorded, again, strict=True)):
            name = pair[0].get("stage", at) if isinstance(pair[0], dict) else at
            yield from _leaves(f"{what}.{name}", *pair)
    elif isinstance(recorded, float | int) and isinstance(again, float | int):
        if not isclose(recorded, again, rel_tol=ROUNDING, abs_tol=ROUNDING):
            yield ReplayDifference(what.strip("."), str(recorded), str(again))
    elif recorded != again:
        yield ReplayDifference(what.strip("."), _shortened(recorded), _shortened(again))


def _shortened(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
