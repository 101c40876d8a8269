"""The target `local`: cores, batches, priorities, its folder and port; variants that a replica loads."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from socket import socket

import httpx
import pytest

from ipa.bootstrap.app import App, build
from ipa.bootstrap.targets import ServeOptions
from ipa.files import load_pipeline, pipeline_from_mapping, pipeline_to_mapping
from ipa.model.errors import ConflictError, InputError, UnavailableError
from ipa.model.findings import Severity
from ipa.model.parts import FrontCores
from ipa.model.pipeline import (
    Bounds,
    MeasuredVariant,
    Objective,
    Pin,
    Pipeline,
    Sla,
    Stage,
    StageBounds,
    Variant,
)
from ipa.model.plan import StageConfig
from ipa.optimize.deadline import Deadline
from ipa.optimize.relaxations import relaxations
from ipa.optimize.solve import solve
from ipa.policies.planning import planning_problem
from ipa.profiling.points import largest_batch
from ipa.settings import Settings
from ipa.targets.local import front
from ipa.targets.local.forkserver import STARTING_NICE, serving_priority
from ipa.targets.local.replica import LEFT_FOR_S, Phase, Replica, VariantLoader, switch
from ipa.targets.local.section import LocalPlace, LocalRun
from ipa.targets.local.target import LOCAL, MACHINE_RATIO, QUEUE_S, ROUTER_S, local_findings, router_ports
from tests.fakes.services import a_pipeline
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
    assert {it.hop_s for it in LOCAL.shape(local, PROFILES).stages} == {ROUTER_S / 2 + QUEUE_S}
    assert front == FrontCores(4 * MACHINE_RATIO, ROUTER_S + 2 * QUEUE_S)
    assert front.left_cores(0.0) == 4 * MACHINE_RATIO
    assert front.left_cores(1e6) == 0.0
    # Those of another machine, or of a cluster, know nothing of this one.
    larger = replace(local, bounds=replace(local.bounds, cores=5.0))
    for other in (larger, replace(local, stages=PIPELINE.stages)):
        assert LOCAL.shape(other, PROFILES).bounds == other.bounds


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


@pytest.fixture
def taken() -> Iterator[int]:
    with closing(front.listening_socket()) as other:
        yield other.getsockname()[1]


def opened(port: int, port_file: Path) -> int:
    with closing(front.router_socket(port, port_file)) as made:
        assert isinstance(made, socket)
        return int(made.getsockname()[1])


def test_the_port_of_the_last_run_is_taken_again_until_another_has_it(tmp_path: Path) -> None:
    port_file = tmp_path / "ocr" / "router.port"
    first = opened(0, port_file)
    assert opened(0, port_file) == first
    with closing(front.listening_socket(first)):
        second = opened(0, port_file)
    assert second != first
    assert opened(0, port_file) == second, "the newest is kept"
    port_file.write_text("no port")
    assert opened(0, port_file) > 0
    fixed = opened(first, port_file)
    assert fixed == first == opened(0, port_file)


def test_a_fixed_port_that_is_in_use_is_refused_with_the_remedy(
    taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(front, "PORT_S", 0.0)
    with pytest.raises(UnavailableError, match=f"127.0.0.1:{taken}: ") as refused:
        front.router_socket(taken, tmp_path / "port")
    assert "IPA_ROUTER_PORT" in refused.value.hint and "local: {port: ...}" in refused.value.hint


def test_a_fixed_port_is_waited_for_while_a_killed_service_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = front.listening_socket()
    port = int(other.getsockname()[1])
    monkeypatch.setattr(front.time, "sleep", lambda _: other.close())
    assert opened(port, tmp_path / "port") == port


def named(name: str, port: int | None = None) -> Pipeline:
    targets = {} if port is None else {"local": LocalPlace(port)}
    return replace(a_pipeline(), name=name, targets=targets)


def test_pipelines_have_the_ports_of_their_files_and_the_others_the_next_ones() -> None:
    pipelines = {it.name: it for it in (named("c"), named("b", 9001), named("a"), named("d"))}
    assert router_ports(Settings(), pipelines) == {"a": 0, "b": 9001, "c": 0, "d": 0}
    fixed = router_ports(Settings(router_port=9000), pipelines)
    assert fixed == {"a": 9000, "b": 9001, "c": 9002, "d": 9003}
    with pytest.raises(InputError, match="the files of b, e have the same"):
        router_ports(Settings(), {**pipelines, "e": named("e", 9001)})


def test_the_port_is_read_from_the_file_and_written_back(root: Path) -> None:
    given = pipeline_to_mapping(named("ocr", 9000)) | {"seldon": {"name": "ocr"}}
    assert given["local"] == {"port": 9000}
    assert pipeline_from_mapping(given).targets["local"] == LocalPlace(9000)
    for wrong in (0, 65_536, "9000"):
        with pytest.raises(InputError, match=r"local\.port|port"):
            pipeline_from_mapping({**given, "local": {"port": wrong}})


ACCURACIES = {"tiny": 0.5, "small": 0.6, "large": 0.9}
TINY, SMALL, LARGE = (StageConfig("detect", name, 1, 1.0, 1) for name in ACCURACIES)


def pipeline(resident: int | str) -> Pipeline:
    variants = tuple(Variant(name, {"local": LocalRun("shop.Detect")}) for name in ACCURACIES)
    stage = Stage("detect", variants, resident=resident)
    measured = {("detect", name): MeasuredVariant(accuracy) for name, accuracy in ACCURACIES.items()}
    return Pipeline("shop", (stage,), Sla(1.0), {"default": Objective()}, Bounds(measured=measured))


def replica(
    number: int = 1, variant: str = "tiny", phase: Phase = Phase.READY, cores: float = 1.0
) -> Replica:
    return Replica(
        key=f"detect-{number}",
        stage="detect",
        variant=variant,
        cores=cores,
        url=f"http://127.0.0.1:{number}",
        pid=number,
        log=Path("log"),
        started_s=0.0,
        model="detect--{variant}",
        loaded={variant},
        phase=phase,
    )


def resize(one: Replica, cores: float) -> None:
    one.cores = cores


class Loading:
    """A loader whose servers answer at once; `asked` are replica, action and variant of each call."""

    def __init__(self, folder: Path, resident: int | str, broken: str = "") -> None:
        self.asked: list[tuple[str, str, str]] = []
        self._broken = broken
        self._wake = threading.Event()
        client = httpx.Client(transport=httpx.MockTransport(self._answer))
        self.loader = VariantLoader(pipeline(resident), folder, client, self._wake)

    def _answer(self, request: httpx.Request) -> httpx.Response:
        *_, name, action = request.url.path.split("/")
        variant = name.removeprefix("detect--")
        self.asked.append((f"detect-{request.url.port}", action, variant))
        return httpx.Response(400, text="no such file") if variant == self._broken else httpx.Response(200)

    def follow(self, config: StageConfig, *replicas: Replica) -> list[tuple[str, str, str]]:
        """The calls that follow from it, one after the other until there are no more."""
        before = len(self.asked)
        while True:
            made = len(self.asked)
            self._wake.clear()
            self.loader.follow(config, replicas)
            if not self.loader._busy:
                return self.asked[before:]
            assert self._wake.wait(10.0) and len(self.asked) > made


@pytest.fixture
def loading(tmp_path: Path) -> Callable[..., Loading]:
    return lambda resident, broken="": Loading(tmp_path, resident, broken)


def test_the_neighbours_are_loaded_beside_the_variant_that_runs(loading: Callable[..., Loading]) -> None:
    one, starting = replica(), replica(2, phase=Phase.STARTING)
    assert loading("all").follow(TINY, one, starting) == [
        ("detect-1", "load", "small"),
        ("detect-1", "load", "large"),
    ]
    assert (one.loaded, starting.loaded) == (set(ACCURACIES), {"tiny"})


def test_no_more_are_loaded_than_planned_and_none_that_was_left_a_moment_ago(
    loading: Callable[..., Loading], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    monkeypatch.setattr("ipa.targets.local.replica.time.monotonic", lambda: clock[0])
    one, made = replica(), loading(2)
    assert made.follow(TINY, one) == [("detect-1", "load", "small")]
    assert made.follow(LARGE, one) == [("detect-1", "unload", "small"), ("detect-1", "load", "large")]
    switch(pipeline(2), LARGE, [one], resize)
    assert one.variant == "large"
    # A batch may still be at the variant before it.
    assert made.follow(LARGE, one) == []
    clock[0] += LEFT_FOR_S
    assert made.follow(LARGE, one) == [("detect-1", "unload", "tiny"), ("detect-1", "load", "small")]
    assert one.loaded == {"large", "small"}


def test_a_variant_that_does_not_load_is_named_and_tried_again_when_asked_for(
    loading: Callable[..., Loading],
) -> None:
    one, made = replica(), loading("all", broken="large")
    made.follow(LARGE, one)
    assert made.loader.failure(LARGE, [one]) == (
        "detect-1 cannot load large: the server answered 400: no such file"
    )
    assert made.loader.failure(SMALL, [one]) == "" and one.loaded == {"tiny", "small"}
    assert made.follow(LARGE, one) == []
    made.loader.adopt(pipeline("all"))
    assert made.follow(LARGE, one) == [("detect-1", "load", "large")]


@pytest.mark.parametrize(
    ("config", "replicas", "ran", "runs"),
    [
        # Quicker: at once, with as many as there are.
        (StageConfig("detect", "tiny", 1, 1.0, 3), 1, "large", "tiny"),
        # More accurate: once there are enough.
        (StageConfig("detect", "large", 1, 1.0, 3), 2, "tiny", "tiny"),
        (StageConfig("detect", "large", 1, 1.0, 2), 2, "tiny", "large"),
        # Of other threads.
        (StageConfig("detect", "large", 1, 2.0, 2), 2, "tiny", "tiny"),
        # With other cores of as many threads.
        (StageConfig("detect", "large", 1, 0.5, 2), 2, "tiny", "large"),
    ],
)
def test_no_capacity_goes_by_a_switch(config: StageConfig, replicas: int, ran: str, runs: str) -> None:
    running = [replica(number, ran) for number in range(replicas)]
    for each in running:
        each.loaded = set(ACCURACIES)
    switch(pipeline("all"), config, [*running, replica(9, config.variant, Phase.STARTING)], resize)
    assert [each.variant for each in running] == [runs] * replicas


@pytest.mark.parametrize(
    ("config", "had", "have"),
    [
        # More at once, in as many as are to stay.
        (StageConfig("detect", "tiny", 1, 0.5, 2), [0.25], [0.5]),
        (StageConfig("detect", "tiny", 1, 0.5, 1), [0.25, 0.25], [0.5, 0.25]),
        (StageConfig("detect", "small", 1, 0.5, 3), [0.25], [0.5]),
        # Fewer once there are enough.
        (StageConfig("detect", "tiny", 1, 0.25, 2), [0.5], [0.5]),
        (StageConfig("detect", "tiny", 1, 0.25, 2), [0.5, 0.25], [0.25, 0.25]),
        (StageConfig("detect", "large", 1, 0.25, 1), [0.5, 0.5], [0.25, 0.5]),
        # Two threads are another process.
        (StageConfig("detect", "tiny", 1, 1.5, 1), [0.5], [0.5]),
    ],
)
def test_no_capacity_goes_by_other_cores(config: StageConfig, had: list[float], have: list[float]) -> None:
    running = [replica(number, cores=cores) for number, cores in enumerate(had)]
    for each in running:
        each.loaded = set(ACCURACIES)
    switch(pipeline("all"), config, running, resize)
    assert [each.cores for each in running] == have


def test_fewer_cores_wait_until_requests_have_moved() -> None:
    (running,) = [replica(0, cores=0.5)]
    config = StageConfig("detect", "tiny", 1, 0.25, 1)
    for may_shrink, cores in ((False, 0.5), (True, 0.25)):
        switch(pipeline("all"), config, [running], resize, may_shrink=may_shrink)
        assert running.cores == cores and running.carries(config)
