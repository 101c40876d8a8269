"""Explains a plan: why it is the best, its binding limits, and its alternatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ipa.model.errors import DeadlineError, InputError
from ipa.model.plan import Plan, PlanSummary, StageConfig, Termination, in_words
from ipa.optimize.backends import label_setting
from ipa.optimize.deadline import Deadline
from ipa.optimize.describe import describe
from ipa.optimize.dominance import reduce_program, without_hopeless
from ipa.optimize.options import full_program
from ipa.optimize.plans import plan_of
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import EQUAL
from ipa.optimize.relaxations import limit_name, limits_of, relaxations
from ipa.optimize.solve import proved_plan
from ipa.optimize.solver_selection import PROVED

# Number of alternatives shown.
ALTERNATIVES = 3
# The share of the time for the alternatives; the limits have what remains.
FOR_ALTERNATIVES = 0.4

# A limit is named in the first sentence if the objective would gain this without it, relative above 1.
NOTABLE = 1e-3


@dataclass(frozen=True, slots=True)
class Binding:
    """A limit without which a better plan exists: the gain, and that plan."""

    kind: str
    where: str
    gain: float
    without: PlanSummary
    text: str


@dataclass(frozen=True, slots=True)
class Alternative:
    """The best plan with other variants; differences are its value minus the explained plan's."""

    outcome: PlanSummary
    objective_change: float
    pas_change: float
    cost_cores_change: float
    latency_change_s: float
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Remedy:
    """The smallest change of one limit that makes an infeasible problem feasible, and the best plan then.

    `outcome` is None if the time ran out before it was found.
    """

    kind: str
    value: float
    text: str
    outcome: PlanSummary | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """The explanation of a plan; `unfinished` lists the parts for which the time ran out."""

    plan: Plan
    summary: str
    binding: tuple[Binding, ...] = ()
    alternatives: tuple[Alternative, ...] = ()
    remedies: tuple[Remedy, ...] = ()
    unfinished: tuple[str, ...] = ()
    binding_complete: bool = False
    alternatives_complete: bool = False

    def to_json(self) -> dict[str, Any]:
        """The explanation as plain JSON values."""
        return {**asdict(self), "plan": self.plan.to_json()}


def explain(problem: PlanningProblem, plan: Plan, deadline_s: float = 10.0) -> Explanation:
    """Explain `plan` as the answer to `problem`, as far as time allows; `unfinished` lists missing parts.

    For a plan with a configuration: the limits without which a better plan exists, and the best plans with
    other variants. For an infeasible one: the smallest changes of one limit that make it feasible. All of it
    is found by solving, exactly.

    Errors: InputError if the plan does not belong to the problem.
    """
    deadline = Deadline(deadline_s)
    if plan.termination is Termination.INFEASIBLE:
        return _infeasible(problem, plan, deadline)
    if not plan.stages:
        return Explanation(plan, "no plan was found in time", unfinished=("all of it",))
    if plan.rate_rps != problem.rate_rps or describe(problem, plan.configs) is None:
        words = f"{in_words(plan.configs)} at {plan.rate_rps:g} rps"
        raise InputError(f"the plan runs {words}, which the problem does not allow")
    others, complete = _alternatives(problem, plan, Deadline(deadline_s * FOR_ALTERNATIVES))
    unfinished = [] if complete else [f"the {ALTERNATIVES} best alternatives of other variants"]
    binding, unsettled = _binding(problem, plan, deadline)
    return Explanation(
        plan,
        _summary(plan, binding, others),
        tuple(binding),
        tuple(others),
        unfinished=(*unfinished, *unsettled),
        binding_complete=not unsettled,
        alternatives_complete=complete,
    )


def _infeasible(problem: PlanningProblem, plan: Plan, deadline: Deadline) -> Explanation:
    moves = relaxations(problem, deadline)
    remedies, unfinished = [], []
    for move in moves:
        outcome: PlanSummary | None = None
        try:
            outcome = proved_plan(move.problem, deadline).summary
        except DeadlineError:
            unfinished.append(f"the best plan with {move.text}")
        remedies.append(Remedy(move.kind, move.value, move.text, outcome))
    if deadline.passed:
        unfinished.append("perhaps more that would make it feasible")
    summary = "no plan meets the limits; " + (
        f"the least that would help, each alone: {'; '.join(move.text for move in moves)}"
        if moves
        else "no change of a single limit makes it feasible"
    )
    return Explanation(plan, summary, remedies=tuple(remedies), unfinished=tuple(unfinished))


def _summary(plan: Plan, binding: Sequence[Binding], others: Sequence[Alternative]) -> str:
    assert plan.objective is not None
    chosen = in_words(plan.configs)
    if plan.termination is Termination.OPTIMAL:
        text = f"{chosen} has the highest objective ({plan.objective:.6g}) of all plans within the limits"
    else:
        text = f"{chosen} is the best plan that was found in time"
    notable = [each for each in binding if each.gain >= NOTABLE * max(1.0, abs(plan.objective))]
    if notable:
        held = dict.fromkeys(limit_name(each.kind, each.where) for each in notable)
        text += f"; {listed(list(held))} {'hold' if len(held) > 1 else 'holds'} it back"
    if others:
        behind = -others[0].objective_change
        distance = f"{behind:.3g} behind" if behind > 1e-9 else "as good in that"
        text += f"; the best of other variants is {distance}"
    return text


def _alternatives(problem: PlanningProblem, plan: Plan, deadline: Deadline) -> tuple[list[Alternative], bool]:
    """The best plans with another variant at a stage; False if the time ran out before all were known.

    There is one for each variant that the best plan does not run; the first of them is the best plan of all
    other combinations of variants.
    """
    fitting = without_hopeless(full_program(problem))
    by_variants: dict[tuple[str, ...], PlanSummary] = {}
    running = {stage.stage: stage.variant for stage in plan.stages}
    for at, (stage, options) in enumerate(zip(problem.stages, fitting.stages, strict=True)):
        names = () if stage.is_free else stage.columns.variants
        for number, name in enumerate(names):
            own = np.flatnonzero(stage.columns.variant[options.point] == number)
            if name == running[stage.name] or not len(own):
                continue
            stages = (*fitting.stages[:at], options.take(own), *fitting.stages[at + 1 :])
            reduced = reduce_program(replace(fitting, stages=stages))
            answer = label_setting.solve(reduced, deadline)
            if deadline.passed or answer.termination not in PROVED:
                return [], False
            if answer.chosen:
                second = plan_of(problem, reduced, "exact", answer)
                key = tuple(planned.variant for planned in second.stages)
                assert second.summary is not None
                by_variants.setdefault(key, second.summary)
    mine = plan.summary
    assert mine is not None
    alternatives = [
        Alternative(
            outcome,
            outcome.objective - mine.objective,
            outcome.pas - mine.pas,
            outcome.cost_cores - mine.cost_cores,
            outcome.latency_s - mine.latency_s,
            differences(plan.configs, outcome.configs),
        )
        for outcome in by_variants.values()
    ]
    return sorted(alternatives, key=lambda it: -round(it.objective_change, 9))[:ALTERNATIVES], True


def _binding(problem: PlanningProblem, plan: Plan, deadline: Deadline) -> tuple[list[Binding], list[str]]:
    """The limits without which a better plan exists, largest gain first, and those not settled in time.

    Each limit is removed alone and the problem solved again.
    """
    binding, unsettled = [], []
    for limit in limits_of(problem):
        name = limit_name(limit.kind, limit.where)
        try:
            better = proved_plan(limit.free, deadline)
        except DeadlineError:
            unsettled.append(f"what the plan would be without {name}")
            continue
        outcome = better.summary
        if outcome is None or plan.objective is None:
            continue
        gain = outcome.objective - plan.objective
        if gain <= 10 * EQUAL * max(1.0, abs(plan.objective)):
            continue
        changes = "; ".join(differences(plan.configs, outcome.configs))
        text = f"without {name}: objective {gain:+.4g} ({changes})"
        binding.append(Binding(limit.kind, limit.where, gain, outcome, text))
    return sorted(binding, key=lambda each: -each.gain), unsettled


def differences(before: Sequence[StageConfig], after: Sequence[StageConfig]) -> tuple[str, ...]:
    """The differences of each stage that changes, in words, stages in order."""
    changes = []
    for old, new in zip(before, after, strict=True):
        words = []
        if new.variant != old.variant:
            words.append(f"{old.variant} → {new.variant}")
        if new.batch_size != old.batch_size:
            words.append(f"batch {old.batch_size} → {new.batch_size}")
        if new.cores != old.cores:
            words.append(f"cores of a replica {old.cores:g} → {new.cores:g}")
        if new.replicas != old.replicas:
            words.append(f"replicas {old.replicas} → {new.replicas}")
        if words:
            changes.append(f"{old.stage}: {', '.join(words)}")
    return tuple(changes)


def listed(parts: Sequence[str]) -> str:
    """The parts as an enumeration: a; a and b; a, b and c."""
    *others, last = parts
    return f"{', '.join(others)} and {last}" if others else last
