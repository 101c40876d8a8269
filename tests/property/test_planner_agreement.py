"""The engines agree with each other on problems of every kind, and with enumeration on small ones.

`make agreement` does the same with thousands of instances.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import inf
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings

from ipa.model.errors import SolverError
from ipa.model.plan import Plan
from ipa.optimize.deadline import Deadline
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.solve import solve, verify_claim
from tests.amounts import many
from tests.fakes.planner_agreement import KINDS, examples, kinds_of, planned, randoms, small_chain
from tests.fakes.planner_brute import size
from tests.fakes.planner_graphs import random_graph_problem, random_resource_problem

INSTANCES = many(50)
# Instances with three limited resources that are enumerated, and the tests that share them.
ENUMERATED, PARTS = many(40), 2
# Configurations up to which all are tried.
MOST = 4_000


@pytest.mark.parametrize("kind", KINDS)
def test_the_engines_agree(kind: str) -> None:
    check = KINDS[kind][1]

    @settings(
        max_examples=examples(kind, INSTANCES),
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(randoms)
    def agree(random: Random) -> None:
        verdict = check(random, MOST)
        assert not verdict.faults, verdict.instance

    agree()


@pytest.mark.parametrize("part", range(PARTS))
def test_plans_are_exact_in_three_resources_at_once(part: int) -> None:
    counts: Counter[str] = Counter()
    seed = part * 10_000
    while counts["enumerated"] < ENUMERATED // PARTS:
        problem = random_resource_problem(Random(seed))
        seed += 1
        if size(problem) > MOST:
            continue
        verdict = planned(problem, MOST)
        assert verdict.enumerated and not verdict.faults, (seed - 1, verdict)
        free = replace(problem, bounds=replace(problem.bounds, memory_gib=None, accelerators={}))
        plan, best = (solve(each, "exact", explain=False) for each in (problem, free))
        verify_claim(problem, plan, Deadline(inf))
        if best.objective is not None and (plan.objective is None or best.objective > plan.objective + 1e-4):
            with pytest.raises(SolverError, match="the bound is wrong"):
                verify_claim(free, plan, Deadline(inf))
        counts += Counter(
            enumerated=1, feasible=int(verdict.feasible), binding=int(plan.configs != best.configs)
        )
    # Memory or accelerators decide often enough, and not by leaving nothing.
    assert counts["feasible"] >= counts["enumerated"] / 4 and counts["binding"] >= counts["enumerated"] / 5


def weighed(problem: PlanningProblem, alpha: float, beta: float) -> PlanningProblem:
    return replace(problem, objective=replace(problem.objective, alpha=alpha, beta=beta))


def test_a_disagreement_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [weighed(small_chain(Random(seed)), 1.0, 0.0) for seed in range(50)]
    problem = next(each for each in problems if solve(each).configs != solve(weighed(each, 0.0, 9.0)).configs)
    assert planned(problem, MOST).enumerated and not planned(problem, MOST).faults

    def cheapest(problem: PlanningProblem, engine: str, *limits: float, **named: bool) -> Plan:
        distorted = weighed(problem, 0.0, 9.0) if engine == "highs" else problem
        return solve(distorted, engine, *limits, **named)

    with monkeypatch.context() as patched:
        patched.setattr("tests.fakes.planner_agreement.solve", cheapest)
        faults = " ".join(planned(problem, 0).faults)
        assert "objective" in faults and "configuration" in faults and "termination" not in faults
    monkeypatch.setattr("tests.fakes.planner_agreement.brute_force", lambda problem: None)
    verdict = planned(problem, MOST)
    assert verdict.difference == inf and "enumeration" in verdict.faults[0]


def test_the_graphs_are_of_every_kind() -> None:
    counts = Counter(kind for seed in range(300) for kind in kinds_of(random_graph_problem(Random(seed))))
    graphs = {kind for kind in counts if kind.startswith("graph: ")}
    assert graphs == {
        f"graph: {name}" for name in ("chain", "fork", "router", "mean", "max", "diamond", "nested", "skip")
    }
    assert len(counts) == 8 + 3 + 5 + 11
    assert min(counts.values()) >= 15, counts
