"""The watches: what is news, what they do next, and that nothing that happens to a connection ends them."""

from __future__ import annotations

import threading
from dataclasses import replace
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.watch import FORBIDDEN_S, Watcher, Watchers
from ipa.control.loop.scheduler import StopSignal
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from ipa.targets.seldon.manifest import render
from ipa.targets.seldon.section import SeldonTarget
from ipa.targets.seldon.target import SELDON
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube, FaultKind
from tests.fakes.kube.samples import sample_configs, sample_pipeline

Json = dict[str, Any]
WAIT_S = 300.0


class Scripted:
    """A watcher whose client answers with the lists and the events of a script, and the names it told."""

    def __init__(self, *items: Json) -> None:
        self.items, self.events, self.version = list(items), [], "4"
        self.lived_s = 30.0
        self.told: set[str] = set()
        self.clock = VirtualClock()
        client = SimpleNamespace(list_all=lambda *_: (self.items, self.version), watch=self._watch)
        self.watcher = Watcher(
            client,  # type: ignore[arg-type]
            "models",
            SELDON_DEPLOYMENT,
            lambda _, name: self.told.add(name),
            self.clock,
        )
        self.watcher.step()

    def _watch(self, *place: Any) -> list[Json]:
        self.since = place[2]
        self.clock.wait(self.lived_s)
        events, self.events = self.events, []
        return events

    def hear(self, *events: tuple[str, Json]) -> set[str]:
        """The names that it tells of those events."""
        self.told.clear()
        self.events = [{"type": kind, "object": body} for kind, body in events]
        self.watcher.step()
        return set(self.told)

    def relist(self, *items: Json) -> set[str]:
        """The names that it tells by the list after a gap."""
        self.hear(("ERROR", {"kind": "Status", "code": 410}))
        self.items = list(items)
        self.watcher.step()
        return set(self.told)


def sdep(name: str = "a", generation: int = 1, uid: str = "u", version: str = "5") -> Json:
    metadata = {"name": name, "uid": uid, "generation": generation, "resourceVersion": version}
    return {"metadata": metadata, "status": {"state": version}}


@pytest.mark.parametrize(
    ("before", "kind", "after", "news"),
    [
        # Another spec or object is news, a status is not.
        (sdep(), "MODIFIED", sdep(version="6"), set()),
        (sdep(), "MODIFIED", sdep(generation=2), {"a"}),
        (sdep(), "MODIFIED", sdep(uid="other"), {"a"}),
        (sdep(), "ADDED", sdep("b"), {"b"}),
        (sdep(), "DELETED", sdep(), {"a"}),
        (sdep(), "DELETED", sdep("b"), set()),
    ],
)
def test_what_is_news(before: Json, kind: str, after: Json, news: set[str]) -> None:
    made = Scripted(before)
    assert made.told == set()
    assert made.hear((kind, after)) == news


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["edit", "delete", "status"])), max_size=30)
)
def test_a_list_after_a_gap_tells_what_the_events_would_have_told_of_what_differs(
    changes: list[tuple[str, str]],
) -> None:
    """Whatever happened in between: nothing that differs is missed, nothing that does not is told."""
    generations = dict.fromkeys("abc", 1)
    blind, seeing = (Scripted(*(sdep(name) for name in "abc")) for _ in range(2))
    changed: set[str] = set()
    for number, (name, change) in enumerate(changes):
        kind = "MODIFIED"
        if change == "delete" and generations.pop(name, None):
            kind = "DELETED"
        elif change == "edit" or name not in generations:
            generations[name] = number + 2
        changed |= seeing.hear((kind, sdep(name, generations.get(name, 0), version=str(number + 1))))
    now = [sdep(name, generation) for name, generation in generations.items()]
    news = blind.relist(*now)
    assert news == {name for name in "abc" if generations.get(name) != 1}
    assert news <= changed
    assert seeing.relist(*now) == set()


def test_a_bookmark_moves_the_version_and_so_does_a_watch_that_the_server_ends() -> None:
    made = Scripted(sdep())
    made.hear(("BOOKMARK", {"kind": "Bookmark", "metadata": {"resourceVersion": "70"}}))
    before_s = made.clock.monotonic_s()
    made.hear()
    assert (made.since, made.watcher.lists) == ("70", 1)
    assert made.clock.monotonic_s() - before_s == made.lived_s
    # One that is ended at once is begun again later and later.
    made.lived_s = 0.1
    for _ in range(3):
        made.hear()
    assert made.clock.monotonic_s() - before_s > made.lived_s * 3 + 1.0


@pytest.mark.parametrize(
    "event",
    [
        {"type": "RENAMED", "object": sdep()},
        {"object": sdep()},
        {"type": "ERROR", "object": {"kind": "Status", "code": 500}},
        {"type": "MODIFIED", "object": {}},
        {"type": "MODIFIED", "object": {"metadata": []}},
        {"type": "MODIFIED", "object": {"metadata": {"name": "a"}}},
        {"type": "BOOKMARK", "object": {"metadata": {}}},
    ],
)
def test_what_is_no_event_ends_that_watch_and_counts_as_a_failure(event: Json) -> None:
    made = Scripted(sdep())
    made.events = [event]
    made.watcher.step()
    made.items = [sdep(generation=2)]
    made.watcher.step()
    assert (made.watcher.lists, made.watcher.failures, made.told) == (2, 1, {"a"})


def test_a_list_without_a_version_is_a_failure() -> None:
    made = Scripted(sdep())
    made.version = ""
    made.relist(sdep())
    assert (made.watcher.lists, made.watcher.failures) == (1, 1)


class Heard:
    """A watcher over the fake API server, stepped by hand. What it tells ends that watch."""

    def __init__(self, kube: FakeKube, client: KubeClient, clock: VirtualClock) -> None:
        self.kube = kube
        self.told: list[tuple[str, str]] = []
        self.watcher = Watcher(client, "models", SELDON_DEPLOYMENT, self._hear, clock, seed=0)
        self.watcher.step()

    def _hear(self, namespace: str, name: str) -> None:
        self.told.append((namespace, name))
        self.kube.expire_watches()
        if self.told == [("models", "faulty")]:
            raise ZeroDivisionError


@pytest.fixture
def sdeps(kube: FakeKube, client: KubeClient, clock: VirtualClock) -> Heard:
    return Heard(kube, client, clock)


def scale(kube: FakeKube, replicas: int) -> None:
    def change(sdep: Json) -> None:
        sdep["spec"]["predictors"][0]["componentSpecs"][0]["replicas"] = replicas

    kube.edit("models", "sample", change)


def add(kube: FakeKube, name: str) -> None:
    targets = {"seldon": SeldonTarget(name, "models", "main")}
    body = render(replace(sample_pipeline(), targets=targets), sample_configs())
    kube.store.create("seldondeployments", "models", body)


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
    kube: FakeKube, sdeps: Heard, caplog: pytest.LogCaptureFixture
) -> None:
    add(kube, "faulty")
    sdeps.watcher.step()
    assert "change of models/faulty could not be told" in caplog.text
    assert sdeps.watcher.failures == 0


def test_a_service_wakes_the_pipeline_whose_seldondeployment_changed_and_ends_at_once(
    kube: FakeKube, client: KubeClient
) -> None:
    woken: Queue[str] = Queue()
    stop = StopSignal()
    watchers = Watchers(
        client, SELDON_DEPLOYMENT, SELDON.places_of, [sample_pipeline()], woken.put, gap_s=3600.0, stop=stop
    )
    with kube.store.lock:
        while not any(one.verb == "watch" for one in kube.requests):
            kube.store.changed.wait(0.1)
    # Of nobody's that it knows.
    add(kube, "other")
    scale(kube, 3)
    assert woken.get(timeout=WAIT_S) == "sample"
    # Sooner than the gap: left to the next tick.
    scale(kube, 4)
    stop.set()
    watchers.close()
    assert woken.empty()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("watch-models")]
