"""Planners and solvers in processes of their own: the same plans and errors, and a service that goes on."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from random import Random
from types import MappingProxyType
from typing import Any

import pytest

from ipa.adapters.solvers import planner, process
from ipa.adapters.solvers.planner import PlannerProcesses
from ipa.adapters.solvers.supervised import Supervised, solver_command
from ipa.model.errors import DeadlineError, InputError, LicenceError, NotFoundError, SolverError, UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, Termination
from ipa.optimize import solver_selection
from ipa.optimize.deadline import Deadline
from ipa.optimize.explain import explain
from ipa.optimize.frontier import frontier
from ipa.optimize.linear_program import build_milp, whole_ranges
from ipa.optimize.program import Program
from ipa.optimize.solve import solve
from ipa.policies.planning import PlanQuestion, planning_problem
from tests.fakes.planner_instances import build_program, random_problem
from tests.fakes.world import PIPELINE, PROFILES
from tests.faults.solvers import DYING, IGNORING, command


@pytest.fixture
def apart() -> Iterator[PlannerProcesses]:
    made = PlannerProcesses()
    yield made
    made.close()


def asking(
    apart: PlannerProcesses,
    rate_rps: float = 5.0,
    pipeline: Pipeline = PIPELINE,
    solver: str = "exact",
    deadline_s: float = 30.0,
    **options: Any,
) -> Coroutine[Any, Any, Plan]:
    return apart.plan(PlanQuestion(pipeline, PROFILES, rate_rps, **options), solver, deadline_s)


def ask(apart: PlannerProcesses, *arguments: Any, **options: Any) -> Plan:
    return asyncio.run(asking(apart, *arguments, **options))


def here(rate_rps: float, pipeline: Pipeline = PIPELINE, **options: Any) -> Plan:
    return timeless(solve(planning_problem(pipeline, PROFILES, rate_rps, **options), "exact"))


def timeless(plan: Plan) -> Plan:
    return replace(plan, solve_s=0.0)


def test_plans_are_those_that_are_made_here(apart: PlannerProcesses) -> None:
    async def two_at_a_time() -> list[Plan]:
        gate = asyncio.Semaphore(2)

        async def one(rate_rps: float) -> Plan:
            async with gate:
                return await asking(apart, rate_rps)

        return await asyncio.gather(*(one(5.0 + number) for number in range(12)))

    plans = asyncio.run(two_at_a_time())
    assert [timeless(plan) for plan in plans] == [here(5.0 + number) for number in range(12)]
    assert 1 <= len(apart._processes._idle) <= 2


def test_another_stage_in_the_place_of_one_is_planned_with(apart: PlannerProcesses) -> None:
    first = replace(PIPELINE.stages[0], variants=PIPELINE.stages[0].variants[:1])
    other = replace(PIPELINE, stages=(first, *PIPELINE.stages[1:]))
    for pipeline in (PIPELINE, other, PIPELINE):
        assert timeless(ask(apart, 5.0, pipeline)) == here(5.0, pipeline)


def test_mappings_that_can_only_be_read_are_sent_too(apart: PlannerProcesses) -> None:
    frozen = replace(PIPELINE, objectives=MappingProxyType(dict(PIPELINE.objectives)))
    assert timeless(ask(apart, 5.0, frozen)) == here(5.0)


def test_a_plan_that_was_made_is_not_made_again(apart: PlannerProcesses) -> None:
    assert ask(apart, 5.0) == ask(apart, 5.0)
    # Another made of the same parts, as every request makes it.
    assert ask(apart, 5.0) == ask(apart, 5.0, replace(PIPELINE))


def test_explanations_and_frontiers_are_those_that_are_made_here(apart: PlannerProcesses) -> None:
    plan, question = here(5.0), PlanQuestion(PIPELINE, PROFILES, 5.0, PIPELINE.default_objective)
    problem = question.problem()
    why = asyncio.run(apart.explain(question, plan, 30.0))
    assert why == explain(problem, plan, 30.0) and why.alternatives
    points = asyncio.run(apart.frontier(question, 30.0))
    assert points == frontier(problem, 30.0) and len(points) > 1
    with pytest.raises(InputError, match="which the problem does not allow"):
        asyncio.run(apart.explain(replace(question, rate_rps=50.0), plan, 30.0))


def test_an_error_is_the_planner_s_own_and_the_process_goes_on(apart: PlannerProcesses) -> None:
    with pytest.raises(UsageError, match="no solver 'nothing'"):
        ask(apart, 5.0, solver="nothing")
    first = list(apart._processes._idle)
    with pytest.raises(NotFoundError, match="no objective 'nothing'"):
        ask(apart, 5.0, objective="nothing")
    assert ask(apart, 5.0).stages
    assert apart._processes._idle == first


@pytest.mark.parametrize("how", ["killed for its memory (137)", "no pickle", "another type"])
def test_a_process_that_dies_is_an_error_and_the_next_is_asked(how: str) -> None:
    commands = [command(DYING[how])("")]
    apart = PlannerProcesses(lambda: commands.pop() if commands else planner.planner_command())
    with pytest.raises(SolverError):
        ask(apart, 5.0)
    assert ask(apart, 5.0).stages
    apart.close()


def test_one_that_does_not_end_is_stopped() -> None:
    apart = PlannerProcesses(lambda: command(IGNORING["spins"])(""), grace_s=0.1)
    with pytest.raises(DeadlineError, match="the planner exceeded its limit"):
        ask(apart, 5.0, deadline_s=0.1)
    assert apart._processes._idle == []


async def given_up(apart: PlannerProcesses, after: Callable[[], bool]) -> None:
    """Ask what may take longer than a test, cancel it as soon as it is so, and wait until it has ended."""
    question = asyncio.ensure_future(asking(apart, deadline_s=6000.0))
    while not after():
        await asyncio.sleep(0.0)
    question.cancel()
    with pytest.raises(asyncio.CancelledError):
        await question


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list[process.Worker]:
    """Those that were asked, in order."""
    workers_asked: list[process.Worker] = []
    started = process.Worker.ask

    async def record(worker: process.Worker, *arguments: Any) -> Any:
        workers_asked.append(worker)
        return await started(worker, *arguments)

    monkeypatch.setattr(process.Worker, "ask", record)
    return workers_asked


def test_one_whose_answer_nobody_wants_is_asked_again(
    apart: PlannerProcesses, workers: list[process.Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    # However busy the machine is.
    monkeypatch.setattr(process, "UNWANTED_S", 60.0)
    ask(apart, 4.0)
    (worker,) = apart._processes._idle
    asyncio.run(given_up(apart, lambda: len(workers) == 2))
    assert apart._processes._idle == [worker]
    assert timeless(ask(apart, 6.0)) == here(6.0)


def test_one_that_computes_on_for_nobody_is_stopped(
    workers: list[process.Worker], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "UNWANTED_S", 0.05)
    apart = PlannerProcesses(lambda: command(IGNORING["spins"])(""))
    asyncio.run(given_up(apart, lambda: bool(workers)))
    assert workers[0]._process.returncode is not None and apart._processes._idle == []


def test_one_that_starts_for_nobody_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "UNWANTED_S", 0.0)
    apart = PlannerProcesses()
    starting: list[int] = []

    async def scenario() -> None:
        await given_up(apart, lambda: bool(starting))
        while not apart._processes._idle:
            await asyncio.sleep(0.001)
        assert (await asking(apart)).stages

    solver_command = apart._processes._command
    monkeypatch.setattr(apart._processes, "_command", lambda: starting.append(1) or solver_command())
    asyncio.run(scenario())
    assert len(apart._processes._idle) == len(starting) == 1
    apart.close()


def test_its_errors_come_through() -> None:
    from tests.unit.optimize.test_planner_solvers import large_problem, linear

    apart = Supervised("gurobi")
    try:
        apart(linear(build_program(large_problem())), Deadline(60.0))
    except LicenceError as error:
        assert "2400 variables" in str(error)
    else:
        pytest.skip("this machine's Gurobi licence covers large models")
    finally:
        apart.close()


@pytest.fixture
def program_of_four() -> Program:
    return build_program(random_problem(Random(4), stages=(3, 3), variants=(4, 4)))


def test_one_that_cannot_start_is_said(program_of_four: Program) -> None:
    milp = build_milp(program_of_four, whole_ranges(program_of_four))
    with pytest.raises(SolverError, match="did not start"):
        Supervised("highs", lambda _: [sys.executable, "-c", "pass"])(milp, Deadline(5.0))


def test_auto_goes_on_with_label_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver_selection, "own_licence", lambda: "own.lic")
    problem = random_problem(Random(4), stages=(3, 3), variants=(4, 4))
    deaf = command(IGNORING["reads nothing"])
    plan = solve(
        problem, deadline_s=1.0, explain=False, solvers=lambda name: Supervised(name, deaf, grace_s=0.05)
    )
    assert (plan.solver, plan.termination) == ("exact", Termination.OPTIMAL)
    assert "gurobi exceeded its limit" in plan.note


def test_a_supervised_plan_is_the_plan() -> None:
    problem = random_problem(Random(4), stages=(3, 3), variants=(4, 4))
    apart = Supervised("highs")
    try:
        plan = solve(problem, "highs", solvers=lambda _: apart)
        assert plan.configs == solve(problem, "exact").configs
    finally:
        apart.close()
    assert solver_command("highs")[-1] == "highs"
