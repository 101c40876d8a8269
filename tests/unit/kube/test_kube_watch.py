"""The watches against the fake API server: what changes is told, whatever happens to the connection."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import Any

import pytest

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.watch import FORBIDDEN_S, AtMost, Watcher, feeds
from ipa.control.loop.clock import StopSignal
from ipa.model.pipeline import Pipeline
from ipa.targets.kubernetes.watchers import Watchers
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from ipa.targets.seldon.manifest import render
from ipa.targets.seldon.section import SeldonTarget
from ipa.targets.seldon.target import SELDON
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube, FaultKind
from tests.fakes.kube.samples import sample_configs, sample_pipeline

Json = dict[str, Any]
WAIT_S = 300.0


@pytest.fixture
def kube() -> Iterator[FakeKube]:
    with FakeKube() as fake:
        with fake.store.lock:
            fake.store.create("seldondeployments", "models", render(sample_pipeline(), sample_configs()))
        fake.tick(4)
        yield fake


@pytest.fixture
def clock() -> VirtualClock:
    return VirtualClock()


@pytest.fixture
def client(kube: FakeKube, clock: VirtualClock, tmp_path: Path) -> Iterator[KubeClient]:
    made = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0, clock=clock, seed=0)
    yield made
    made.close()


class Heard:
    """A watcher stepped by hand, on a virtual clock, and what it told. What it tells ends that watch."""

    def __init__(self, kube: FakeKube, client: KubeClient, kind: int, clock: VirtualClock) -> None:
        self.kube = kube
        self.told: list[tuple[str, str]] = []
        self.watcher = Watcher(feeds(client, "models", SELDON_DEPLOYMENT)[kind], self._hear, clock, seed=0)
        self.watcher.step()

    def _hear(self, namespace: str, name: str) -> None:
        self.told.append((namespace, name))
        self.kube.expire_watches()


@pytest.fixture
def sdeps(kube: FakeKube, client: KubeClient, clock: VirtualClock) -> Heard:
    return Heard(kube, client, 0, clock)


def scale(kube: FakeKube, replicas: int) -> None:
    def change(sdep: Json) -> None:
        sdep["spec"]["predictors"][0]["componentSpecs"][0]["replicas"] = replicas

    kube.edit("models", "sample", change)


def test_a_change_by_another_hand_is_told_and_a_status_is_not(kube: FakeKube, sdeps: Heard) -> None:
    kube.cluster.stuck_status = True
    kube.tick(2)
    scale(kube, 3)
    sdeps.watcher.step()
    assert sdeps.told == [("models", "sample")]
    assert sdeps.watcher.lists == 1


def test_an_object_that_goes_and_one_that_comes_are_told(kube: FakeKube, sdeps: Heard) -> None:
    other = render(
        replace(sample_pipeline(), targets={"seldon": SeldonTarget("other", "models", "main")}),
        sample_configs(),
    )
    with kube.store.lock:
        kube.store.create("seldondeployments", "models", other)
        kube.store.delete("seldondeployments", "models", "sample")
    sdeps.watcher.step()
    assert sdeps.told == [("models", "other"), ("models", "sample")]


def test_replicas_that_no_more_answer_are_told_of_their_seldondeployment(
    kube: FakeKube, client: KubeClient, clock: VirtualClock
) -> None:
    children = Heard(kube, client, 1, clock)
    with kube.store.lock:
        live = kube.store.get("deployments", "models", "sample-main-1-reader")
        kube.store.replace("deployments", {**live, "status": {**live["status"], "readyReplicas": 1}})
    children.watcher.step()
    assert children.told == [("models", "sample")]


def test_what_changed_while_the_watch_was_broken_is_told_by_the_next_list(
    kube: FakeKube, sdeps: Heard
) -> None:
    kube.fault(FaultKind.RESET, verb="watch")
    sdeps.watcher.step()
    scale(kube, 3)
    sdeps.watcher.step()
    assert sdeps.told == [("models", "sample")]
    assert (sdeps.watcher.lists, sdeps.watcher.failures) == (2, 1)


def test_a_server_that_is_away_is_asked_ever_less_often(
    kube: FakeKube, sdeps: Heard, clock: VirtualClock
) -> None:
    kube.fault(FaultKind.LOST_BEFORE, times=1000)
    steps_s = []
    for _ in range(10):
        before_s = clock.monotonic_s()
        sdeps.watcher.step()
        steps_s.append(clock.monotonic_s() - before_s)
    assert steps_s[0] == 0.0
    # The client's own gate on top.
    assert 15.0 <= steps_s[-1] <= 40.0
    kube.faults.faults.clear()


def test_a_role_that_allows_no_watch_is_not_asked_again_soon(
    kube: FakeKube, sdeps: Heard, clock: VirtualClock, caplog: pytest.LogCaptureFixture
) -> None:
    kube.denied = {("watch", "seldondeployments")}
    sdeps.watcher.step()
    assert clock.monotonic_s() == FORBIDDEN_S
    assert "not allowed (403)" in caplog.text


def test_a_listener_that_fails_does_not_end_the_watch(
    kube: FakeKube, client: KubeClient, caplog: pytest.LogCaptureFixture
) -> None:
    def listen(namespace: str, name: str) -> None:
        kube.expire_watches()
        raise ZeroDivisionError

    watcher = Watcher(feeds(client, "models", SELDON_DEPLOYMENT)[0], listen, VirtualClock())
    watcher.step()
    scale(kube, 3)
    watcher.step()
    assert "change of models/sample could not be told" in caplog.text
    assert watcher.failures == 0


def test_garbage_in_the_stream_ends_that_watch_only(kube: FakeKube, sdeps: Heard) -> None:
    scale(kube, 3)
    with kube.store.lock:
        # An event that no server sends.
        log = kube.store.log
        log[-1] = replace(log[-1], object={"metadata": {"namespace": "models", "name": 7}})
    sdeps.watcher.step()
    sdeps.watcher.step()
    assert sdeps.told == [("models", "sample")]
    assert (sdeps.watcher.lists, sdeps.watcher.failures) == (2, 1)


def test_at_most_one_call_in_a_while_for_each_name() -> None:
    clock, told = VirtualClock(), []
    tell = AtMost(told.append, 2.0, clock)
    for name in ("a", "a", "b"):
        tell(name)
    clock.wait(2.0)
    tell("a")
    assert told == ["a", "b", "a"]


def running(kube: FakeKube, client: KubeClient, pipelines: list[Pipeline]) -> tuple[Watchers, Any, Any]:
    woken: Queue[str] = Queue()
    stop = StopSignal()
    watchers = Watchers(
        client, SELDON_DEPLOYMENT, SELDON.places_of, pipelines, woken.put, gap_s=0.0, stop=stop
    )
    watchers.start()
    return watchers, woken, stop


def until(kube: FakeKube, condition: Callable[[], bool]) -> None:
    with kube.store.lock:
        for _ in range(600):
            if condition():
                return
            kube.store.changed.wait(0.1)
    raise AssertionError("it did not come to that")


def test_a_service_wakes_the_pipeline_whose_seldondeployment_changed_and_ends_at_once(
    kube: FakeKube, client: KubeClient
) -> None:
    watchers, woken, stop = running(kube, client, [sample_pipeline()])
    until(kube, lambda: sum(one.verb == "watch" for one in kube.requests) == 2)
    # Of nobody's that it knows.
    other = render(
        replace(sample_pipeline(), targets={"seldon": SeldonTarget("other", "models", "main")}),
        sample_configs(),
    )
    with kube.store.lock:
        kube.store.create("seldondeployments", "models", other)
    scale(kube, 3)
    assert woken.get(timeout=WAIT_S) == "sample"
    stop.set()
    watchers.close()
    assert woken.empty()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("watch-models")]
