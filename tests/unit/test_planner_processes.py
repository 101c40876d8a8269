"""What-ifs in processes of their own: the same plans, the same errors, and a service that goes on."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from ipa.adapters.solvers import planner
from ipa.adapters.solvers.planner import PlannerProcesses
from ipa.model.errors import DeadlineError, SolverError, UsageError
from ipa.model.plan import Plan, Termination
from ipa.optimize.problem import Problem
from ipa.optimize.solve import solve
from ipa.policies.planning import planning_problem
from tests.fakes.world import PIPELINE, PROFILES
from tests.faults.solvers import DYING, IGNORING, command


@pytest.fixture
def apart() -> Iterator[PlannerProcesses]:
    made = PlannerProcesses()
    yield made
    made.close()


def asked(rate_rps: float) -> Problem:
    return planning_problem(PIPELINE, PROFILES, rate_rps)


def timeless(plan: Plan) -> Plan:
    return replace(plan, solve_s=0.0)


def test_plans_are_those_that_are_made_here(apart: PlannerProcesses) -> None:
    rates = [5.0 + number for number in range(12)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda rate_rps: apart.solve(asked(rate_rps), "exact", 30.0), rates))
    assert [timeless(plan) for plan in found] == [timeless(solve(asked(rate), "exact")) for rate in rates]
    assert 1 <= len(apart._processes._idle) <= 2


def test_a_stage_is_sent_once_and_another_in_its_place_is_sent_too(apart: PlannerProcesses) -> None:
    apart.solve(asked(5.0), "exact", 30.0)
    (worker,) = apart._processes._idle
    problem = asked(6.0)
    forget, new, body = planner._question(worker, problem, "exact")
    assert not forget and len(new) < 10 < len(body) < 3000
    halved = replace(problem.stages[0], points=problem.stages[0].points[:4])
    other = replace(problem, stages=(halved, *problem.stages[1:]))
    assert timeless(apart.solve(other, "exact", 30.0)) == timeless(solve(other, "exact"))


def test_more_stages_than_are_kept_are_forgotten_on_both_ends(
    apart: PlannerProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "MOST_STAGES", 4)
    for _ in range(5):
        profiles = {name: replace(profile) for name, profile in PROFILES.items()}
        plan = apart.solve(planning_problem(PIPELINE, profiles, 5.0), "exact", 30.0)
        assert plan.termination is Termination.OPTIMAL
    (worker,) = apart._processes._idle
    assert len(worker.known) <= 4


def test_an_error_is_the_planner_s_own_and_the_process_goes_on(apart: PlannerProcesses) -> None:
    with pytest.raises(UsageError, match="no solver 'nothing'"):
        apart.solve(asked(5.0), "nothing", 30.0)
    first = list(apart._processes._idle)
    assert apart.solve(asked(5.0), "exact", 30.0).stages
    assert apart._processes._idle == first


@pytest.mark.parametrize("how", ["killed for its memory (137)", "no pickle", "another type"])
def test_a_process_that_dies_is_an_error_and_the_next_is_asked(how: str) -> None:
    commands = [command(DYING[how])("")]
    apart = PlannerProcesses(lambda: commands.pop() if commands else planner.command_of())
    with pytest.raises(SolverError):
        apart.solve(asked(5.0), "exact", 30.0)
    assert apart.solve(asked(5.0), "exact", 30.0).stages
    apart.close()


def test_one_that_does_not_end_is_stopped() -> None:
    apart = PlannerProcesses(lambda: command(IGNORING["spins"])(""), grace_s=0.1)
    with pytest.raises(DeadlineError, match="the planner did not keep to its limit"):
        apart.solve(asked(5.0), "exact", 0.1)
    assert apart._processes._idle == []
