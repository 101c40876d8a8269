"""The live stream: what it says, resuming it, its bounds, and clients that do not read."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
import uvicorn

from ipa.api.app import create_app
from ipa.api.context import ApiContext, Streams
from ipa.control.audit.record import Recorded, RecordFeed, verify_lines
from ipa.model.errors import UnavailableError
from tests.fakes.services import ApiClient, FakeWorld
from tests.fakes.waiting import until

Event = dict[str, Any]


def parsed(text: str) -> list[Event]:
    """The events of a stream, as a browser would have them."""
    events = []
    for block in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "data" in fields:
            events.append({**fields, "data": json.loads(fields["data"])})
    return events


# The ticks that the world has seen.
PLAYED = 5


def test_without_a_place_it_begins_now(world: FakeWorld) -> None:
    answer = ApiClient(world.services()).get("/v1/events")
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.text == "retry: 2000\n\n"


def test_it_goes_on_after_the_last_event(world: FakeWorld) -> None:
    api = ApiClient(world.services())
    api.post("/v1/pipelines/ocr/pause", {"by": "kim", "reason": "release"})
    events = parsed(api.get("/v1/events", headers={"Last-Event-ID": "4"}).text)
    assert [(event["id"], event["event"]) for event in events] == [("5", "decision"), ("6", "control")]
    decision, pause = (event["data"] for event in events)
    assert (decision["decision_id"], decision["facts"]["tick"]) == (world.recorded[4].decision_id, 5)
    assert (pause["what"], pause["by"], pause["why"]) == ("pause", "kim", "release")
    assert pause["to"]["paused"] is True
    assert parsed(api.get("/v1/events?after=4").text) == events
    assert parsed(api.get("/v1/events", headers={"Last-Event-ID": "6"}).text) == []


def test_one_pipeline_alone(world: FakeWorld) -> None:
    world.record(replace(world.recorded[-1], pipeline="ocr@hpa", decision_id="ocr@hpa-1"))
    api = ApiClient(world.services())
    counts = [len(parsed(api.get(f"/v1/events?after=0{one}").text)) for one in ("", "&pipeline=ocr")]
    assert counts == [6, 5]
    [other] = parsed(api.get("/v1/events?after=0&pipeline=ocr@hpa").text)
    assert other["data"]["pipeline"] == "ocr@hpa"
    assert api.get("/v1/events?pipeline=nope").status_code == 404


@pytest.mark.parametrize("last", ["99", "0"])
def test_what_is_not_kept_is_said_to_be_gone(world: FakeWorld, last: str) -> None:
    services = world.services()
    assert services.streams is not None
    feed = RecordFeed(world, world.clock.monotonic_s, poll_s=0.0, max_missed=3)
    api = ApiClient(replace(services, streams=Streams(feed, longest_s=0.0)))
    [reset] = parsed(api.get("/v1/events", headers={"Last-Event-ID": last}).text)
    assert (reset["event"], reset["id"], reset["data"]["newest"]) == ("reset", "5", 5)


@pytest.mark.parametrize("last", ["-1", "x", "1e9", "9" * 30, ""])
def test_a_place_that_is_none_is_a_problem(world: FakeWorld, last: str) -> None:
    answer = ApiClient(world.services()).get("/v1/events", headers={"Last-Event-ID": last})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["part"] == "header"


def test_a_record_that_cannot_be_read_is_told_once(world: FakeWorld) -> None:
    services, read_entries = world.services(), world.entries
    fails = [True, True, False]

    def entries(after: int, limit: int, pipeline: str | None = None) -> list[Recorded]:
        if fails and fails.pop(0):
            raise UnavailableError("the store is locked")
        return read_entries(after, limit, pipeline)

    world.entries = entries  # type: ignore[method-assign]
    feed = RecordFeed(world, time.monotonic, poll_s=0.01)
    services = replace(services, streams=Streams(feed, heartbeat_s=0.02))
    with served(services) as url, following(f"{url}/v1/events?after=3") as received:
        until(lambda: len(parsed("".join(received))) == 3)
    assert [event["event"] for event in parsed("".join(received))] == ["store", "decision", "decision"]
    assert parsed("".join(received))[0]["data"] == {"detail": "the store is locked"}


def test_the_export_is_the_record_and_can_be_verified(world: FakeWorld) -> None:
    api = ApiClient(world.services())
    answer = api.get("/v1/audit?pipeline=ocr")
    assert answer.headers["content-type"] == "application/jsonl"
    lines = answer.text.splitlines()
    assert verify_lines(lines, {})["ocr"].entries == len(lines) == 5
    assert api.get("/v1/audit?after=3").text.splitlines() == lines[3:]


def test_a_service_without_a_record_says_so(world: FakeWorld) -> None:
    api = ApiClient(replace(world.services(), record=None, streams=None))
    assert [api.get(f"/v1/{path}").status_code for path in ("events", "audit")] == [503, 503]


@contextmanager
def served(services: ApiContext) -> Iterator[str]:
    """The application on a real socket."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(create_app(services), log_config=None, lifespan="off", timeout_graceful_shutdown=5)
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextmanager
def following(url: str, headers: dict[str, str] | None = None) -> Iterator[list[str]]:
    """The events of a stream, while they come."""
    received: list[str] = []
    opened, left = threading.Event(), threading.Event()

    def read() -> None:
        with httpx.Client(timeout=300) as client, client.stream("GET", url, headers=headers) as answer:
            opened.set()
            for part in answer.iter_text():
                received.append(part)
                if left.is_set():
                    return

    thread = threading.Thread(target=read)
    thread.start()
    opened.wait(20)
    try:
        yield received
    finally:
        left.set()
        thread.join()


def live(world: FakeWorld, **bounds: Any) -> tuple[ApiContext, Streams]:
    """Services whose streams go on, with a heartbeat that lets a client that leaves be seen soon."""
    bounds = {"heartbeat_s": 0.02, **bounds}
    streams = Streams(RecordFeed(world, time.monotonic, poll_s=0.01), **bounds)
    return replace(world.services(), streams=streams), streams


def test_events_come_as_they_happen_with_heartbeats_between(world: FakeWorld) -> None:
    services, streams = live(world)
    with served(services) as url:
        with following(f"{url}/v1/events") as received:
            until(lambda: ": nothing new" in "".join(received))
            world.play(3)
            until(lambda: len(parsed("".join(received))) == 3)
            assert streams.open == 1
        until(lambda: streams.open == 0)
        last = parsed("".join(received))[-1]["id"]
        world.play(2)
        with following(f"{url}/v1/events", {"Last-Event-ID": last}) as again:
            until(lambda: len(parsed("".join(again))) == 2)
    assert [int(event["id"]) for event in parsed("".join(received) + "".join(again))] == [6, 7, 8, 9, 10]


def test_more_clients_than_there_is_room_for_are_told_to_wait(world: FakeWorld) -> None:
    services, streams = live(world, most=1)
    with served(services) as url, following(f"{url}/v1/events"):
        until(lambda: streams.open == 1)
        answer = httpx.get(f"{url}/v1/events", timeout=300)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_client_that_does_not_read_is_dropped(world: FakeWorld) -> None:
    services, streams = live(world, send_s=0.1)
    big = replace(world.recorded[-1], detail="x" * 500_000)
    with served(services) as url:
        port = int(url.rsplit(":", 1)[1])
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", port))
            client.sendall(b"GET /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            until(lambda: streams.open == 1)
            for index in range(30):
                world.record(replace(big, decision_id=f"big-{index}"))
            until(lambda: streams.dropped == 1)
            assert streams.open == 0
            # Others are answered meanwhile.
            assert httpx.get(f"{url}/healthz", timeout=300).status_code == 200


def test_streams_end_with_the_service_and_after_their_longest(world: FakeWorld) -> None:
    stopped = threading.Event()
    services, streams = live(world, stopping=stopped.is_set)
    with served(services) as url, following(f"{url}/v1/events"):
        until(lambda: streams.open == 1)
        stopped.set()
        until(lambda: streams.open == 0)
    services, _ = live(world, longest_s=0.05)
    with served(services) as url:
        assert httpx.get(f"{url}/v1/events", timeout=300).text.startswith("retry: 2000\n\n")


def test_many_clients_cost_one_look_at_the_store(world: FakeWorld) -> None:
    looks: list[int] = []
    real: Callable[..., list[Recorded]] = world.entries

    def entries(after: int, limit: int, pipeline: str | None = None) -> list[Recorded]:
        looks.append(after)
        return real(after, limit, pipeline)

    world.entries = entries  # type: ignore[method-assign]
    now = [0.0]
    feed = RecordFeed(world, lambda: now[0], poll_s=0.5)
    assert [feed.after(5) for _ in range(100)] == [()] * 100
    world.play(2)
    now[0] = 1.0
    assert {tuple(entry.seq for entry in feed.after(5)) for _ in range(100)} == {(6, 7)}
    assert len(looks) <= 4
    # Older ones than it remembers are read from the store.
    assert [entry.seq for entry in feed.after(2)] == [3, 4, 5, 6, 7]


def test_the_document_says_what_streams_are(world: FakeWorld) -> None:
    document = ApiClient(world.services()).get("/openapi.json").json()
    content = document["paths"]["/v1/events"]["get"]["responses"]["200"]["content"]
    assert list(content) == ["text/event-stream"]
    assert re.match(r"id: 42\nevent: change\ndata: ", content["text/event-stream"]["example"])
