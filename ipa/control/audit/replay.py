"""Replay of a recorded decision from its inputs, by the policy that made it or by another one.

The engine is a pure function of the recorded inputs: the same pipeline, profiles and policy give the same
decision. If they do not, the result lists the differences. If the pipeline or profiles changed, it is stale.

A certificate is a decision with all that a replay of it needs. To verify it, the claimed plans answer for the
solver, after their figures, limits and bounds were checked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import chain
from math import isclose
from typing import Any, Literal

import ipa
from ipa.control.audit.record import Verifies
from ipa.control.canonical import canonical_json, digest, digest_of, plain, restored
from ipa.control.engine.state import EngineState, TickRequest
from ipa.control.engine.tick import (
    OUTCOME,
    DecisionInputs,
    is_outcome,
    on_tick,
    read_inputs,
    remembered,
    version_of,
)
from ipa.control.ports import DecisionLog
from ipa.files import pipeline_from_mapping, pipeline_to_mapping
from ipa.model.decision import Decision
from ipa.model.errors import DeadlineError, InputError, IpaError, RecordError, SolverError
from ipa.model.measured import with_profiles
from ipa.model.observation import Forecast, LoadHistory
from ipa.model.pipeline import Bounds, Pipeline, Stage
from ipa.model.plan import Plan, StageConfig, in_words
from ipa.model.profile import StageProfile
from ipa.model.recording import recorded_as
from ipa.optimize.deadline import Deadline
from ipa.optimize.linear_program import Solvers
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.solve import SolveCache, verify_claim
from ipa.optimize.solver_selection import PROVED
from ipa.policies.base import Policy, Predictor, is_stateful
from ipa.policies.registry import POLICIES
from ipa.policies.table import PolicyInputs, Runner, at_once, make_policy

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
# Seconds for all plans of one decision together; it mostly takes a tenth of one.
REPLAY_S = 10.0
# Decisions that a policy with memory is shown first: one each 5 s, they are the 300 s that the HPA looks
# back.
EARLIER = 60
# The fields of a certificate that are not signed.
SEAL = ("key_id", "signature")
UNSIGNED = "signature: there is none, so that anybody may have made up the decision and its inputs"
# The fields of a decision that `replay` compares, or that it reads.
REPLAYED = ("inputs", "inputs_digest", *COMPARED)


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
    configurations and plan are compared; for another one the configurations and the plan. `certificate` is
    that of the decision if it was requested and the replay is the same.
    """

    decision_id: str
    policy: str
    outcome: ReplayOutcome
    why: str = ""
    notes: tuple[str, ...] = ()
    differences: tuple[ReplayDifference, ...] = ()
    again: Decision | None = None
    certificate: Mapping[str, Any] | None = None


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


def replay(
    decision: Decision,
    inputs: DecisionInputs,
    pipeline: Pipeline,
    policy: Policy,
    predict: Predictor,
    earlier: Sequence[Decision] = (),
) -> ReplayResult:
    """Re-run the decision from these inputs and its recorded forecast, and compare.

    Another policy with a memory first receives the `earlier` decisions, oldest first.
    """
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
        pipeline=replace(pipeline, name=decision.pipeline),
        forecaster=forecast,
        policy=policy,
        predict=predict,
        run_id=decision.decision_id.removeprefix(f"{decision.pipeline}-{decision.tick}-"),
        **inputs.recorded,
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


class ClaimedPlans(SolveCache):
    """Answers for the solver with a claimed plan of the same rate and SLA that is true, else makes the plan.

    `unchecked` are claims whose bound could not be checked in time, `added` the plans that were made.
    """

    def __init__(self, claimed: Sequence[Plan] = ()) -> None:
        super().__init__(0)
        self._deadline, self._left, self.added = Deadline(REPLAY_S), dict(enumerate(claimed)), list[Plan]()
        self._false, self.unchecked = dict[int, list[str]](), list[str]()

    def solve(self, problem: PlanningProblem, *args: Any, **options: Any) -> Plan:
        """The claimed plan; without a true one as `SolveCache.solve`."""
        for at, plan in self._left.items():
            if (plan.rate_rps, plan.sla_s) != (problem.rate_rps, problem.sla_s):
                continue
            try:
                verify_claim(problem, plan, self._deadline)
            except SolverError as error:
                self._false.setdefault(at, [f"plans.{at}: {fault}" for fault in error.problems])
                continue
            except DeadlineError as error:
                self.unchecked.append(f"plans.{at}.bound: {error.message}")
            if plan.termination not in PROVED and plan.bound is None:
                self.unchecked.append(f"plans.{at}.bound: none is claimed; a better plan may exist")
            del self._left[at]
            return plan
        self.added.append(super().solve(problem, *args, **options))
        return self.added[-1]

    @property
    def faults(self) -> list[str]:
        """The claims that were not used, with what is false; if there are none, the claims that lack."""
        unused = [self._false.get(at, [f"plans.{at}: the decision does not weigh it"]) for at in self._left]
        wanted = (f"{plan.rate_rps:g} rps within {plan.sla_s:g} s" for plan in self.added)
        lacking = [f"plans: there is none for {words}, which the decision weighs" for words in wanted]
        return [*chain.from_iterable(unused)] or lacking


@dataclass(frozen=True, slots=True)
class Certificate:
    """A decision, and what it follows from: the pipeline, its profiles, and the `plans` that were weighed.

    `file` has the keys of the pipeline's file; `bounds` and `stages`, without variants, are those on its
    target (`Target.shape`). `signature` is by the store's key `key_id`; both are empty if it has none.
    """

    kind: Literal["ipa.certificate/1"]
    version: str
    file: object = field(metadata=recorded_as("pipeline"))
    bounds: Bounds
    stages: tuple[Stage, ...]
    profiles: Mapping[str, StageProfile]
    decision: Decision
    plans: tuple[Plan, ...]
    key_id: str = ""
    signature: str = ""

    @property
    def pipeline(self) -> Pipeline:
        """The pipeline on its target. InputError: its file is wrong, or contradicts other fields."""
        read = pipeline_from_mapping(self.file)
        pairs = zip(self.stages, read.stages, strict=False)
        stages = tuple(replace(shaped, variants=own.variants) for shaped, own in pairs)
        pipeline = replace(read, bounds=self.bounds, stages=stages)
        if plain(pipeline_to_mapping(pipeline)) != self.file:
            raise InputError("/pipeline contradicts /bounds or /stages")
        if missing := [stage.name for stage in pipeline.served if stage.name not in self.profiles]:
            raise InputError(f"/profiles has none of {', '.join(missing)}")
        return with_profiles(pipeline, self.profiles)


@dataclass(frozen=True, slots=True)
class Replayer:
    """Replays recorded decisions with their recorded forecasts.

    `log` has the decisions for another policy with a memory. `limited` gives the runner of a policy by name,
    and `sign` the id of a key with its signature of a text.
    """

    log: DecisionLog | None = None
    within_s: float = REPLAY_S
    solvers: Solvers | None = None
    limited: Callable[[str], Runner] = lambda _: at_once
    sign: Callable[[str], tuple[str, str]] = lambda _: ("", "")

    def __call__(
        self,
        decision: Decision,
        pipeline: Pipeline,
        profiles: Mapping[str, StageProfile],
        policy: str | None = None,
        certifies: bool = False,
        *,
        plans: SolveCache | None = None,
    ) -> ReplayResult:
        """The result of the replay, by `policy` or the recorded one, with a certificate if it `certifies`.

        `plans` answers for the solver. Errors: UsageError (no such policy, or not for this pipeline),
        RecordError, DeadlineError.
        """
        inputs = inputs_in(decision)
        if isinstance(inputs, ReplayResult):
            return inputs
        if not POLICIES.is_known(inputs.policy):
            return nothing(decision, f"policy {inputs.policy!r} decided it, which is not installed here")
        name, was = policy or inputs.policy, inputs.made_of
        moved = []
        # A shadow policy's decisions have the pipeline's name with an @.
        if digest_of(replace(pipeline, name=decision.pipeline)) != inputs.pipeline:
            moved.append("the pipeline has changed since")
        if digest_of(profiles) != was.profiles:
            moved.append("the profiles were measured again since")
        if moved:
            why, notes = " and ".join(moved), _versions(inputs, ipa.__version__)
            return ReplayResult(decision.decision_id, name, ReplayOutcome.STALE, why, notes)
        until, solved = Deadline(self.within_s), ClaimedPlans()
        policy_inputs = PolicyInputs(
            pipeline,
            profiles,
            was.objective,
            was.solver,
            was.deadline_s,
            self.solvers,
            inputs.rolling,
            until=until,
            plans=plans or solved,
        )
        decides = make_policy(name, policy_inputs, self.limited(name))
        earlier: Sequence[Decision] = ()
        if self.log is not None and name != inputs.policy and is_stateful(decides):
            earlier = self.log.decisions(decision.pipeline, limit=EARLIER, before_tick=decision.tick)
        predict, oldest_first = policy_inputs.predictor(), tuple(reversed(earlier))
        result = replay(decision, inputs, pipeline, decides, predict, oldest_first)
        if until.passed:
            raise DeadlineError(
                f"{decision.decision_id} was not replayed within {self.within_s:g} s",
                hint="A replay plans again with the same solver and limits.",
            )
        if not certifies or result.outcome is not ReplayOutcome.SAME:
            return result
        stages = tuple(replace(stage, variants=()) for stage in pipeline.stages)
        known = (pipeline_to_mapping(pipeline), pipeline.bounds, stages, profiles, decision)
        values = plain(Certificate("ipa.certificate/1", ipa.__version__, *known, tuple(solved.added)))
        sealed = dict(zip(SEAL, self.sign(signed_text(values)), strict=True))
        return replace(result, certificate=values | sealed)


def signed_text(values: Mapping[str, Any]) -> str:
    """The text of a certificate's values that is signed."""
    return canonical_json({name: each for name, each in values.items() if name not in SEAL})


@dataclass(frozen=True, slots=True)
class Verification:
    """The outcome in words: `faults` refute a certificate, each with the claimed and the computed value."""

    faults: tuple[str, ...]
    verified: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


def verify_certificate(values: Any, where: str, verifies: Verifies | None = None) -> Verification:
    """Check all that the certificate in the values claims; `verifies` checks its signature, if given.

    InputError: it is none, or lacks something; it names the field, and `where` the certificate.
    """
    try:
        certificate = restored(Certificate, values)
        decision, claims = certificate.decision, ClaimedPlans(certificate.plans)
        result = Replayer()(decision, certificate.pipeline, certificate.profiles, plans=claims)
        if result.again is None and not result.policy:
            raise InputError(result.why)
    except RecordError as error:
        return Verification((f"decision.inputs: {error.message}",))
    except (IpaError, ArithmeticError, LookupError, ValueError) as error:
        hint = "`ipa replay PIPELINE ID --certificate > FILE` writes one."
        raise InputError(f"{where} is no certificate that can be verified: {error}", hint=hint) from error
    if result.again is None:
        return Verification((f"decision: it does not follow from what the file holds: {result.why}",))
    faults, unchecked = claims.faults, [*claims.unchecked, *result.notes]
    claimed, again = (
        {name: each for name, each in plain(it).items() if name not in REPLAYED}
        for it in (decision, result.again)
    )
    for each in (*result.differences, *_leaves("", claimed, again)):
        faults.append(f"decision.{each.what} is claimed as {each.recorded}, its inputs give {each.again}")
    verified = [
        f"decision: {decision.reason} follows from its inputs, the profiles and the plans",
        "plans: all as the profiles give them; no plan within the limits beats their bounds",
    ]
    by = f"the key {certificate.key_id!r}"
    if not certificate.key_id:
        (unchecked if verifies is None else faults).append(UNSIGNED)
    elif verifies is None:
        unchecked.append(f"signature: by {by}; --key FILE checks it")
    elif verifies(certificate.key_id, certificate.signature, signed_text(values)):
        verified.append(f"signature: {by} signed it")
    else:
        faults.append(f"signature: claimed is one by {by}, and no such key of the file signed this text")
    return Verification(tuple(faults), () if faults else tuple(verified), tuple(unchecked))
