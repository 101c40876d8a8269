"""Shortcuts of label setting: options that are left out untimed."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from random import Random
from statistics import median
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from ipa.model.pipeline import AccuracyRule, Bounds, Objective
from ipa.model.plan import Plan, Termination
from ipa.model.profile import OperatingPoint
from ipa.optimize import prefilter
from ipa.optimize.bounding import LagrangeBounds
from ipa.optimize.deadline import Deadline
from ipa.optimize.options import full_program
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem
from ipa.optimize.program import evaluate
from ipa.optimize.solve import solve
from tests.amounts import many
from tests.fakes.planner_graphs import random_graph_problem
from tests.fakes.planner_instances import build_program, chained, fits, random_problem

seeds = st.integers(0, 100_000)
ALL = 10**9
LIMIT_S = 10.0


def tail_problem(seed: int) -> PlanningProblem:
    random = Random(seed)
    problem = random.choice([random_problem, random_graph_problem])(random)
    # Replicas that batch for themselves are timed for each class of what leaves those before.
    in_replica = random.random() < 0.5
    stages = tuple(replace(stage, in_replica=in_replica, batch_timeout_s=0.05) for stage in problem.stages)
    # Quantiles are longer than the worst cases that the SLAs are drawn for.
    sla_s = problem.sla_s * random.choice([1.0, 4.0, 20.0])
    return replace(problem, sla_s=sla_s, stages=stages, compat=Compat.TAIL)


def best(problem: PlanningProblem, few: int = 0) -> Plan:
    with patch.object(prefilter, "FEW", few):
        plan = solve(problem, "exact", LIMIT_S, explain=False)
    # Some graphs take longer than is to be waited for here, and then any good plan may be the last.
    if plan.termination is Termination.FEASIBLE:
        reject()
    return plan


@settings(deadline=None, max_examples=many(6), derandomize=True)
@given(seeds, st.floats(0.5, 2.0))
def test_options_too_dear_are_in_no_best_plan(seed: int, ratio: float) -> None:
    problem = tail_problem(seed)
    whole = best(problem, few=ALL)
    changed = replace(problem, rate_rps=problem.rate_rps * ratio)
    assert best(problem).configs == whole.configs
    assert best(changed).configs == best(changed, few=ALL).configs
    running = replace(changed, running=whole.configs)
    assert best(running).configs == best(running, few=ALL).configs


def test_most_options_are_left_out_before_their_times_are_known() -> None:
    left = []
    for seed in range(16):
        problem = random_problem(Random(seed), stages=(2, 3))
        stages = tuple(replace(each, in_replica=seed % 2 > 0) for each in problem.stages)
        problem = replace(problem, sla_s=problem.sla_s * 10, stages=stages, compat=Compat.TAIL)
        whole = sum(len(stage) for stage in full_program(problem).stages)
        with patch.object(prefilter, "FEW", 0):
            narrow = prefilter.narrow_program(problem, Deadline(60.0))
        left.append(sum(len(stage) for stage in narrow.stages) / whole)
    assert median(left) < 0.5


@pytest.mark.parametrize("seed", [4, 6, 25])
def test_without_a_plan_of_the_usual_replicas_nothing_is_left_out(seed: int) -> None:
    problem = tail_problem(seed)
    assert best(problem).configs == best(problem, few=ALL).configs != ()


def chain_of_three(rule: AccuracyRule, variants: int, cores: float | None = None) -> PlanningProblem:
    """Stages whose variants cost the more the more accurate they are."""
    points = tuple(
        OperatingPoint(f"v{rank:02}", 0.5 + 0.4 * rank / variants, 1, 1.0 + 4 * rank / variants, 0.1, 100.0)
        for rank in range(variants)
    )
    stages = chained([StageProblem(name, points) for name in "abc"])
    objective = Objective(alpha=20.0, beta=0.5, accuracy_rule=rule)
    return PlanningProblem("p", 10.0, 5.0, stages, objective, Bounds(cores=cores))


@pytest.mark.parametrize("rule", [AccuracyRule.PRODUCT, AccuracyRule.SUM])
def test_a_scarce_limit_lowers_the_bound_on_all_plans(rule: AccuracyRule) -> None:
    free, scarce = chain_of_three(rule, 20), chain_of_three(rule, 20, cores=4.5)
    objectives = [solve(problem, "exact", explain=False).objective for problem in (scarce, free)]
    program = build_program(scarce)
    bounds = LagrangeBounds(program)
    (bound,) = bounds.upper(0, np.ones(1), np.zeros(1), np.zeros((len(bounds.rows.most), 1)))
    assert objectives[0] <= bound <= objectives[0] + 0.05 * (objectives[1] - objectives[0])


@pytest.mark.parametrize("rule", [AccuracyRule.PRODUCT, AccuracyRule.SUM])
@pytest.mark.parametrize(("cores", "above"), [(None, 1e-6), (6.5, 0.7)])
def test_no_plan_with_an_option_is_worth_more_than_the_options_bound(
    rule: AccuracyRule, cores: float | None, above: float
) -> None:
    """Without a limit the bound is the best plan with the option; under a scarce one it may be `above` it."""
    program = build_program(chain_of_three(rule, 5, cores))
    every = product(*(range(len(stage)) for stage in program.stages))
    worths = {each: evaluate(program, each).objective for each in every if fits(program, each)}
    bounds = LagrangeBounds(program)
    for at, stage in enumerate(program.stages):
        for option, bound in zip(range(len(stage)), bounds.option_bounds(at).tolist(), strict=True):
            best = max(worth for chosen, worth in worths.items() if chosen[at] == option)
            assert best - 1e-9 <= bound <= best + above


@pytest.mark.parametrize("seed", [0, 4])
def test_no_time_to_leave_options_out_is_no_error(seed: int) -> None:
    problem = random_problem(Random(seed), (6, 6), (8, 8))
    plan = solve(replace(problem, sla_s=problem.sla_s * 20, compat=Compat.TAIL), "exact", 0.0)
    assert plan.termination is Termination.NO_SOLUTION_FOUND
    assert "time ran out" in plan.note
