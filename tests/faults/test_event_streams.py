"""R10: places for streams, and streams whose identity may not have them any more. Over real sockets."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from ipa.adapters.identity.reviews import KubeIdentities
from ipa.adapters.store import Store
from ipa.adapters.store.state import KeyIdentities
from ipa.api.context import ApiContext, Streams
from ipa.control.audit.record import RecordFeed
from ipa.control.loop.scheduler import SystemClock
from ipa.model.access import Grant, Role
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from ipa.targets.seldon.target import SELDON
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube
from tests.fakes.kube.reviews import User
from tests.fakes.people import HIDDEN, OTHERS, two_namespaces
from tests.fakes.waiting import until
from tests.faults.server import served
from tests.faults.table import Case

# What is asked for, and what a machine that does something else may take on top.
CLOSED_S, BUSY_S = 2.0, 3.0


class Stream:
    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.status, self.text, self.ended_s = 0, "", 0.0
        self._client = httpx.Client(timeout=300)
        self._url, self._headers = url, headers
        self._opened = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        assert self._opened.wait(30)

    def _read(self) -> None:
        try:
            with self._client.stream("GET", self._url, headers=self._headers) as answer:
                self.status = answer.status_code
                self._opened.set()
                for part in answer.iter_text():
                    self.text += part
        except httpx.HTTPError:
            pass
        finally:
            self.ended_s = time.monotonic()
            self._opened.set()

    @property
    def is_open(self) -> bool:
        return self._thread.is_alive()

    def close(self) -> None:
        self._client.close()


def services_with(*authenticators: Any, **bounds: Any) -> tuple[ApiContext, Streams, Any]:
    """Two namespaces whose record can be followed."""
    two = two_namespaces()
    streams = Streams(RecordFeed(two.world, time.monotonic, poll_s=0.05), heartbeat_s=0.2, **bounds)
    return replace(two.services, streams=streams, authenticators=authenticators), streams, two


@contextmanager
def streaming(services: ApiContext) -> Iterator[Callable[..., Stream]]:
    with served(services) as (host, port), ExitStack() as opened:

        def follow(token: str, query: str = "", path: str = "events") -> Stream:
            url = f"http://{host}:{port}/v1/{path}{query}"
            stream = Stream(url, {"Authorization": f"Bearer {token}"})
            opened.callback(stream.close)
            return stream

        yield follow


def key_of(store: Store, name: str, grant: Grant) -> tuple[str, str]:
    key, token = store.keys.create(name, grant, now=SystemClock().now())
    return key.key_id, token


def test_r10_one_viewer_does_not_take_all_places(case: Case, store: Store) -> None:
    services, streams, _ = services_with(KeyIdentities(store.keys, SystemClock()), most=12, each=5)
    _, greedy = key_of(store, "greedy", Grant(Role.VIEWER, "default"))
    _, other = key_of(store, "other", Grant(Role.VIEWER, "default"))
    with streaming(services) as follow:
        # All at once: places are counted where they are taken.
        opened: list[Stream] = []
        threads = [threading.Thread(target=lambda: opened.append(follow(greedy))) for _ in range(20)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        case.equal("opened by one of 20", sum(each.status == 200 for each in opened), 5)
        case.equal("answers to the others", {each.status for each in opened if each.status != 200}, {429})
        case.equal("another identity", [follow(other).status for _ in range(2)], [200, 200])
        case.equal("open", streams.open, 7)
    until(lambda: streams.open == 0)
    case.equal("places after all have gone", (streams.open, len(streams._clients)), (0, 0))


@pytest.mark.live
def test_r10_a_stream_ends_with_its_key(case: Case, store: Store) -> None:
    services, streams, two = services_with(KeyIdentities(store.keys, SystemClock()))
    key_id, revoked = key_of(store, "ada", Grant(Role.VIEWER, "default"))
    _, other_key = key_of(store, "bob", Grant(Role.VIEWER, "default"))
    with streaming(services) as follow:
        ending, going = follow(revoked), follow(other_key)
        until(lambda: streams.open == 2)
        revoked_s = time.monotonic()
        store.keys.revoke(key_id, now=SystemClock().now())
        until(lambda: not ending.is_open)
        case.at_most("s until it ended", ending.ended_s - revoked_s, CLOSED_S + BUSY_S)
        case.equal("why", "the token is not accepted" in ending.text, True)
        two.world.play(1)
        until(lambda: "event: decision" in going.text)
        case.equal("events after it ended", ending.text.count("event:"), 0)
        case.equal("another's stream goes on", going.is_open, True)
        case.equal("asked again", follow(revoked).status, 401)
        case.equal("streams ended", streams.ended, 1)


def test_r10_looks_are_often_enough(case: Case) -> None:
    """Two looks and a poll are within the time that is asked for, whatever this machine does besides."""
    _, streams, _ = services_with()
    case.at_most("s until a stream ends, at worst", 2 * streams.check_s, CLOSED_S)


def test_r10_an_export_ends_with_its_key(case: Case, store: Store) -> None:
    services, streams, two = services_with(KeyIdentities(store.keys, SystemClock()), check_s=0.0)
    key_id, token = key_of(store, "ada", Grant(Role.VIEWER, "*"))
    entries, go_on, reads = two.world.entries, threading.Event(), threading.Semaphore(0)

    def slow(after: int, limit: int, pipeline: str | None = None) -> Any:
        reads.release()
        assert after == 0 or go_on.wait(30)
        return entries(after, 2, pipeline)

    services = replace(
        services,
        record=type(
            "Record", (), {"entries": staticmethod(slow), "checkpoints": staticmethod(lambda *of: ())}
        )(),
    )
    with streaming(services) as follow:
        export = follow(token, path="audit")
        # One batch is out, the next is being read.
        assert reads.acquire(timeout=300) and reads.acquire(timeout=300)
        store.keys.revoke(key_id, now=SystemClock().now())
        go_on.set()
        until(lambda: not export.is_open)
        case.equal("lines that were sent", len(export.text.splitlines()), 2)
        case.at_least("lines there are", len(two.world.written), 10)
        case.equal("streams ended", streams.ended, 1)


@pytest.mark.live
def test_r10_a_stream_ends_with_the_right_to_see_its_pipeline(
    case: Case, kube: FakeKube, connect: Any
) -> None:
    reviewer, clock = kube.api.reviewer, SystemClock()
    services, streams, two = services_with(
        KubeIdentities(connect(), clock, SELDON_DEPLOYMENT, SELDON.places_of)
    )
    reviewer.tokens["hers"] = User("ada")
    reviewer.let("ada", "default", "get")
    reviewer.let("ada", OTHERS, "get")
    with streaming(services) as follow:
        one, all_ = follow("hers", f"?pipeline={HIDDEN}"), follow("hers")
        until(lambda: streams.open == 2)
        withdrawn_s = time.monotonic()
        reviewer.rights.discard(("ada", "get", "seldondeployments", OTHERS, ""))
        until(lambda: not one.is_open)
        case.at_most("s until it ended", one.ended_s - withdrawn_s, CLOSED_S + BUSY_S)
        # Those that are still seen are followed, and no others.
        until(lambda: time.monotonic() > withdrawn_s + CLOSED_S)
        two.world.record(replace(two.world.recorded[-1], pipeline=HIDDEN, decision_id="there-0002"))
        two.world.play(1)
        until(lambda: "event: decision" in all_.text)
        case.equal("events of what is hidden", all_.text.count(HIDDEN), 0)


def test_r10_a_cluster_that_does_not_say_ends_no_stream_at_once(case: Case) -> None:
    """As reads, streams go on for a while by what was said last."""
    from ipa.api.auth import AdmittedCaller
    from ipa.api.events import StreamWatch
    from ipa.model.access import NOBODY
    from ipa.model.errors import UnavailableError

    services, streams, _ = services_with(check_s=0.0, unsure_s=0.05)

    def unknown() -> AdmittedCaller:
        raise UnavailableError("the cluster does not say")

    async def watched() -> list[str]:
        watch = StreamWatch(streams, AdmittedCaller(NOBODY, services, again=unknown), None)
        first = await watch.ends()
        await asyncio.sleep(0.06)
        return [first, await watch.ends()]

    case.equal("at once, after a while", asyncio.run(watched()), ["", "the cluster does not say"])


def test_r10_a_token_ends_and_its_stream_with_it(case: Case, store: Store) -> None:
    clock = VirtualClock()
    services, streams, _ = services_with(KeyIdentities(store.keys, clock), check_s=0.05)
    from datetime import timedelta

    ends = clock.now() + timedelta(hours=1)
    _, token = store.keys.create("ada", Grant(Role.VIEWER, "default"), now=clock.now(), expires_at=ends)
    with streaming(services) as follow:
        stream = follow(token)
        until(lambda: streams.open == 1)
        clock.wait(3600.0)
        until(lambda: not stream.is_open)
        case.equal("why", "the token is not accepted" in stream.text, True)
