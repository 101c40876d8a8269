"""The target `local`: cores that router and queues leave, bounds of batches, priorities and its folder."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ipa.bootstrap.app import App, build
from ipa.bootstrap.targets import ServeOptions
from ipa.files import load_pipeline
from ipa.model.errors import ConflictError
from ipa.model.findings import Severity
from ipa.model.parts import FrontCores
from ipa.model.pipeline import Pin, Pipeline, StageBounds
from ipa.optimize.deadline import Deadline
from ipa.optimize.relaxations import relaxations
from ipa.optimize.solve import solve
from ipa.policies.planning import planning_problem
from ipa.settings import Settings
from ipa.targets.local.forkserver import STARTING_NICE, serving_priority
from ipa.targets.local.runner import largest_batch
from ipa.targets.local.section import LocalRun
from ipa.targets.local.target import LOCAL, MACHINE_RATIO, QUEUE_S, ROUTER_S, local_findings
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


@pytest.mark.parametrize(
    ("allowed", "own", "pin", "largest"),
    [
        (None, None, Pin(), 2),
        ((1, 2, 4, 8), None, Pin(), 8),
        ((1, 2, 4, 8), (1, 4), Pin(), 4),
        ((1, 2, 4, 8), None, Pin(variant="big"), 8),
        ((1, 2, 4, 8), None, Pin(batch_size=2), 2),
    ],
)
def test_batches_grow_up_to_the_largest_that_the_file_allows_unless_it_pins_one(
    allowed: tuple[int, ...] | None, own: tuple[int, ...] | None, pin: Pin, largest: int
) -> None:
    bounds = replace(PIPELINE.bounds, batch_sizes=allowed)
    stage = replace(PIPELINE.stages[0], pin=pin, bounds=StageBounds(batch_sizes=own))
    assert largest_batch(stage, bounds, 2) == largest


@pytest.mark.parametrize(("cores", "count"), [(1.5, 0), (2.0, 1), (3.0, 1), (None, 0)])
def test_bounds_that_leave_nothing_to_router_and_queues_are_warned_of(
    root: Path, monkeypatch: pytest.MonkeyPatch, cores: float | None, count: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    pipeline = load_pipeline(root / "pipelines" / "digits" / "pipeline.yaml")
    pipeline = replace(pipeline, bounds=replace(pipeline.bounds, cores=cores))
    warnings = [each for each in local_findings({"digits": pipeline}) if each.state is Severity.WARN]
    assert len(warnings) == count
    for each in warnings:
        assert "all of the 2 cores" in each.seen


def test_a_server_that_is_ready_has_the_services_priority_where_that_is_allowed() -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        os.setpriority(os.PRIO_PROCESS, child.pid, own + STARTING_NICE)
        serving_priority(child.pid)
        nice = os.getpriority(os.PRIO_PROCESS, child.pid)
        assert child.stdin is not None
        child.stdin.close()
    assert nice == (own if os.geteuid() == 0 else own + STARTING_NICE)


def test_one_that_is_gone_is_none_to_change() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pid = child.pid
    serving_priority(pid)


def served(folder: Path, store: str) -> App:
    none = folder / "none"
    none.mkdir(exist_ok=True)
    settings = Settings(pipelines_dir=none, profiles_dir=none, store_url=f"sqlite:///{folder / store}")
    return build(settings, ServeOptions(folder=folder / "local"))


def test_a_second_service_in_the_folder_of_another_is_refused(tmp_path: Path) -> None:
    """It would clear the other's metrics and overwrite the settings of its model servers."""
    first = served(tmp_path, "one.sqlite3")
    with pytest.raises(ConflictError, match=r"local is in use by an ipa service \(process") as refused:
        served(tmp_path, "two.sqlite3")
    assert "--folder" in (refused.value.hint or "")
    first.close()
    served(tmp_path, "two.sqlite3").close()
