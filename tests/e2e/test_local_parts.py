"""Configurations side by side on real processes: shares, moves that lose nothing, and canaries."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from experiments.attack.kills import STUB
from ipa.control.ports import RolloutPhase
from ipa.model.decision import Change
from ipa.model.parts import in_order, with_share
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.targets.local.runner import PipelineRunner
from ipa.targets.local.section import LocalRun
from ipa.targets.local.workload import LocalWorkload
from tests.fakes.mixed import SHOP
from tests.fakes.waiting import until

pytestmark = [pytest.mark.local, pytest.mark.xdist_group("local")]

Configs = tuple[StageConfig, ...]
# Added by each stage: an answer tells which variants gave it.
ADDS = {"only": 1, "low": 10, "middle": 20, "high": 30}
GIVE_UP_S = 300.0


def stubs(folder: Path) -> Pipeline:
    """The shop of stubs, which files in the folder govern.

    `high` starts once there is `high`, and fails while there is `bad`; `only` does not answer while there is
    `held`.
    """
    stages = []
    for stage in SHOP.stages:
        variants = []
        for one in stage.variants:
            command = ["{python}", str(STUB), "{port}", "--stage", stage.name, "--adds", str(ADDS[one.name])]
            if one.name == "only":
                command += ["--holds", str(folder / "held")]
            if one.name == "high":
                command += ["--after", str(folder / "high"), "--fails", str(folder / "bad")]
            variants.append(replace(one, targets={"local": LocalRun("", command=tuple(command))}))
        stages.append(replace(stage, variants=tuple(variants)))
    return replace(SHOP, stages=tuple(stages), targets={}, drop_after_s=20.0)


def part(variant: str, replicas: int, share: int = 100) -> Configs:
    return with_share(
        (StageConfig("detect", "only", 1, 0.25, 1), StageConfig("classify", variant, 1, 0.25, replicas)),
        share,
    )


class Clients:
    """Sends requests one after another, or for as long as a block lasts; `answers` are the values of all."""

    def __init__(self, url: str) -> None:
        self._url, self._client = (
            f"{url}/v2/models/shop/infer",
            httpx.Client(timeout=GIVE_UP_S, trust_env=False),
        )
        self._pool = ThreadPoolExecutor(4)
        self._stop = threading.Event()
        self.answers: list[int | str] = []

    def ask(self) -> int | str:
        body = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [0]}]}
        answer = self._client.post(self._url, json=body)
        value = answer.json()["outputs"][0]["data"][0] if answer.status_code == 200 else answer.text
        self.answers.append(value)
        return value

    def send(self, count: int) -> dict[int | str, int]:
        """The count of each answered value, of so many requests."""
        answers = list(self._pool.map(lambda _: self.ask(), range(count)))
        return {value: answers.count(value) for value in set(answers)}

    def __enter__(self) -> Clients:
        self._stop.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            self.ask()

    def close(self) -> None:
        self._pool.shutdown()
        self._client.close()


@pytest.fixture
def shop(tmp_path: Path) -> Pipeline:
    return stubs(tmp_path)


@pytest.fixture
def started(tmp_path: Path) -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def start(
    started: ExitStack, pipeline: Pipeline, configs: Configs, folder: Path
) -> tuple[LocalWorkload, Clients]:
    workload = LocalWorkload(folder / "local")
    started.callback(workload.stop)
    workload.start(pipeline, configs)
    clients = Clients(workload.runner("shop").endpoint)
    started.callback(clients.close)
    return workload, clients


def written(workload: LocalWorkload, pipeline: Pipeline, configs: Configs) -> Change:
    state = workload.read(pipeline)
    previous = tuple(stage.config for stage in state.stages)
    change = Change(state.revision, "shop", state.revision, previous, configs, GIVE_UP_S)
    workload.write(pipeline, change)
    return change


def is_ready(workload: LocalWorkload, pipeline: Pipeline, change: Change) -> bool:
    return workload.rollout(pipeline, change).phase is RolloutPhase.READY


def running(workload: LocalWorkload, pipeline: Pipeline) -> Configs:
    return tuple(stage.config for stage in workload.read(pipeline).stages)


def series(workload: LocalWorkload) -> Iterator[tuple[str, str, Mapping[str, str], float]]:
    """(target, name, labels, value) of every sample of router and queues."""
    with httpx.Client(trust_env=False, verify=False) as client:
        for target in workload.runner("shop").scrape_targets:
            for family in text_string_to_metric_families(client.get(f"http://{target}/metrics").text):
                for sample in family.samples:
                    yield target, sample.name, sample.labels, sample.value


def answered(workload: LocalWorkload) -> dict[str, float]:
    """The answered requests of each part, as the router counts them."""
    return {
        labels["part"]: value
        for _, name, labels, value in series(workload)
        if name == "ipa_router_requests_total" and labels["outcome"] == "answered" and value
    }


def arrived(workload: LocalWorkload, stage: str) -> float:
    """The items that have come to the stage, of all parts."""
    return sum(
        value
        for _, name, labels, value in series(workload)
        if name == "ipa_queue_arrivals_total" and labels["stage"] == stage
    )


def test_parts_come_get_their_share_and_go_without_a_lost_or_mixed_request(
    shop: Pipeline, tmp_path: Path, started: ExitStack
) -> None:
    workload, clients = start(started, shop, part("middle", 2), tmp_path)
    runner = workload.runner("shop")
    alone = set(runner.pids("classify"))
    shared = in_order([part("middle", 1, 70), part("high", 1, 30)])
    with clients:
        change = written(workload, shop, shared)
        assert running(workload, shop) == shared
        until(lambda: len(clients.answers) > 50)
        # The new part cannot serve yet: requests go as before, with all the replicas that they had.
        assert set(clients.answers) == {21} and set(runner.pids("classify")) == alone
        assert not is_ready(workload, shop, change)
        (tmp_path / "high").touch()
        until(lambda: is_ready(workload, shop, change), GIVE_UP_S)
    state = workload.read(shop)
    assert state.settled and [stage.ready_replicas for stage in state.stages] == [1, 1, 1, 1]
    assert [stage.part for stage in state.stages] == ["1", "1", "2", "2"]
    assert len(set(runner.pids("classify")) & alone) == 1

    before = answered(workload)
    counts = clients.send(400)
    assert counts.keys() == {21, 31}
    # By chance 120 would vary by 9; a share is kept to far less.
    assert abs(counts[31] - 120) <= 2
    counted = {name: value - before.get(name, 0) for name, value in answered(workload).items()}
    assert counted == {"1": counts[21], "2": counts[31]}

    # Only shares move: no process starts or ends.
    pids = runner.pids("detect"), runner.pids("classify")
    moved = in_order([part("middle", 1, 5), part("high", 1, 95)])
    with clients:
        change = written(workload, shop, moved)
        until(lambda: is_ready(workload, shop, change), GIVE_UP_S)
    assert (runner.pids("detect"), runner.pids("classify")) == pids
    assert abs(clients.send(200).get(21, 0) - 10) <= 2

    # What takes all grows first; the other serves what it has, and ends.
    with clients:
        change = written(workload, shop, part("high", 2))
        until(lambda: is_ready(workload, shop, change), GIVE_UP_S)
        stopped = len(clients.answers)
        until(lambda: len(clients.answers) > stopped + 20)
    assert clients.send(20) == {31: 20}
    assert len(runner.pids("classify")) == 2 and set(pids[1]) & set(runner.pids("classify"))
    assert set(clients.answers) == {21, 31}
    assert running(workload, shop) == part("high", 2)


def is_replaced(runner: PipelineRunner, name: str, before: tuple[int, int]) -> bool:
    return runner.front_pids()[name] not in before


def test_a_router_and_a_queue_that_are_killed_go_on_with_the_same_shares(
    shop: Pipeline, tmp_path: Path, started: ExitStack
) -> None:
    (tmp_path / "high").touch()
    shared = in_order([part("middle", 1, 60), part("high", 1, 40)])
    workload, clients = start(started, shop, shared, tmp_path)
    runner = workload.runner("shop")
    for name in ("router", "queue-classify"):
        before = (0, runner.front_pids()[name])
        os.kill(before[1], signal.SIGKILL)
        until(partial(is_replaced, runner, name, before), GIVE_UP_S)
        until(runner.is_answering, GIVE_UP_S)
        counts = clients.send(100)
        assert counts.keys() == {21, 31} and abs(counts[31] - 40) <= 2
    assert runner.corrections == 0


def test_a_part_that_goes_serves_the_requests_that_are_on_their_way(
    shop: Pipeline, tmp_path: Path, started: ExitStack
) -> None:
    (tmp_path / "high").touch()
    shared = in_order([part("middle", 1, 60), part("high", 1, 40)])
    workload, clients = start(started, shop, shared, tmp_path)
    pids = set(workload.runner("shop").pids("classify"))
    held = tmp_path / "held"
    held.touch()
    with ThreadPoolExecutor(8) as pool:
        pending = [pool.submit(clients.ask) for _ in range(8)]
        # All are at the first stage, of one part or the other.
        until(lambda: arrived(workload, "detect") == len(pending))
        change = written(workload, shop, part("high", 1))
        until(lambda: workload.rollout(shop, change).detail.endswith(" ends"))
        until(lambda: "as before" not in workload.rollout(shop, change).detail)
        # The second stage of the part that goes is still needed.
        assert set(workload.runner("shop").pids("classify")) == pids
        assert not is_ready(workload, shop, change)
        held.unlink()
        assert {each.result() for each in pending} == {21, 31}
    until(lambda: is_ready(workload, shop, change), GIVE_UP_S)
    assert len(workload.runner("shop").pids("classify")) == 1


def test_a_part_that_never_starts_is_taken_back_without_a_request(
    shop: Pipeline, tmp_path: Path, started: ExitStack
) -> None:
    workload, clients = start(started, shop, part("middle", 1), tmp_path)
    written(workload, shop, in_order([part("middle", 1, 95), part("high", 1, 5)]))
    clients.send(40)
    back = written(workload, shop, part("middle", 1))
    until(lambda: is_ready(workload, shop, back), GIVE_UP_S)
    assert clients.send(40) == {21: 40} and set(clients.answers) == {21}
    assert len(workload.runner("shop").pids("classify")) == 1
