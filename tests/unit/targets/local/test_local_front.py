"""The work that router and queues of a local pipeline leave to its replicas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.model.parts import FrontCores
from ipa.model.pipeline import Pipeline
from ipa.optimize.deadline import Deadline
from ipa.optimize.relaxations import relaxations
from ipa.optimize.solve import solve
from ipa.policies.planning import planning_problem
from ipa.targets.local.section import LocalRun
from ipa.targets.local.target import LOCAL, MACHINE_RATIO, QUEUE_S, ROUTER_S
from tests.fakes.world import PIPELINE, PROFILES


def fronted(machine_cores: float, request_s: float) -> Pipeline:
    front = FrontCores(machine_cores, request_s)
    return replace(PIPELINE, bounds=replace(PIPELINE.bounds, cores=100.0, front=front))


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize("rate_rps", [1.0, 5.0, 20.0, 40.0])
def test_a_plan_leaves_router_and_queues_their_cores(rate_rps: float, running: bool) -> None:
    pipeline, free = fronted(20.0, 0.2), fronted(20.0, 0.0)
    configs = solve(planning_problem(free, PROFILES, 1.0)).configs if running else ()
    plan = solve(planning_problem(pipeline, PROFILES, rate_rps, running=configs))
    assert plan.cost_cores <= 20.0 - 0.2 * rate_rps
    assert plan.cost_cores <= solve(planning_problem(free, PROFILES, rate_rps, running=configs)).cost_cores


def test_a_rate_beyond_them_is_infeasible_and_the_highest_is_named() -> None:
    problem = planning_problem(fronted(10.0, 0.2), PROFILES, 49.0)
    assert not solve(problem).stages
    (rate,) = [it for it in relaxations(problem, Deadline(10.0)) if it.kind == "rate"]
    plan = solve(rate.problem)
    assert plan.cost_cores <= 10.0 - 0.2 * rate.value
    assert not solve(replace(problem, rate_rps=1.05 * rate.value)).stages


def test_the_local_target_counts_the_cores_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _pid: {0, 1, 2, 3}, raising=False)
    stages = tuple(
        replace(
            stage,
            variants=tuple(replace(it, targets={"local": LocalRun("shop.Model")}) for it in stage.variants),
        )
        for stage in PIPELINE.stages
    )
    local = replace(PIPELINE, stages=stages, bounds=replace(PIPELINE.bounds, cores=3.0))
    front = LOCAL.shape(local, PROFILES).bounds.front
    assert front == FrontCores(4 * MACHINE_RATIO, ROUTER_S + 2 * QUEUE_S)
    assert front.left_cores(0.0) == 4 * MACHINE_RATIO
    assert front.left_cores(1e6) == 0.0
    # Those of another machine, or of a cluster, know nothing of this one.
    larger = replace(local, bounds=replace(local.bounds, cores=5.0))
    for other in (larger, replace(local, stages=PIPELINE.stages)):
        assert LOCAL.shape(other, PROFILES) == other
