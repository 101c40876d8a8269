"""The stage queue on a virtual clock, with replicas in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import orjson
import pytest

from ipa.dataplane.client import ConnectionLostError
from ipa.dataplane.metrics import QueueMetrics
from ipa.dataplane.queue import QueueServer
from ipa.dataplane.stagequeue import StageQueue
from ipa.dataplane.tensors import Tensor, Tensors
from ipa.model.serving import FAN_OUT
from ipa.serving.batching import LossCause, Outcome, QueuedRequest
from ipa.serving.batchqueue import PRESSED_S, QueueConfig
from ipa.serving.expectation import StageTimes
from ipa.serving.replicas import FIRST_SUSPECT_AFTER_S, ModelServers, ServiceTimes
from tests.fakes import virtual_loop

run = virtual_loop.run
A, B = "http://127.0.0.1:1", "http://127.0.0.1:2"


class FakeReplicas:
    """Answers y = 10·x after `service_s`; keeps what it was sent. `dead` ones refuse."""

    def __init__(self, service_s: float = 0.1) -> None:
        self.service_s = service_s
        self.sent: list[tuple[float, str, list[int]]] = []
        self.dead: set[str] = set()
        self.in_flight: dict[str, int] = {}
        self.answer: Callable[[list[int]], tuple[int, Any]] = lambda data: (200, {"outputs": [_y(data)]})

    async def __call__(self, url: str, variant: str, body: bytes) -> tuple[int, bytes]:
        data = orjson.loads(body)["inputs"][0]["data"]
        self.sent.append((now_s(), url, data))
        if url in self.dead:
            raise ConnectionLostError(url)
        self.in_flight[url] = self.in_flight.get(url, 0) + 1
        assert self.in_flight[url] == 1, "a replica serves one batch at a time"
        await asyncio.sleep(self.service_s)
        self.in_flight[url] -= 1
        if url in self.dead:
            raise ConnectionLostError(url)
        status, answer = self.answer(data)
        return status, orjson.dumps(answer)


def now_s() -> float:
    return round(asyncio.get_running_loop().time(), 6)


def _y(data: list[int]) -> dict[str, Any]:
    return {"name": "y", "datatype": "INT64", "shape": [len(data)], "data": [10 * x for x in data]}


def xs(*values: int, datatype: str = "INT64") -> Tensors:
    return (Tensor("x", datatype, (len(values),), list(values)),)


def values(request: QueuedRequest) -> list[int]:
    assert request.outcome is Outcome.ANSWERED, (request.outcome, request.detail)
    return request.answer[0].data


def stage_queue(
    send: Callable[[str, str, bytes], Awaitable[tuple[int, bytes]]], **options: Any
) -> StageQueue:
    replicas = dict.fromkeys(options.pop("replicas", (A,)), ("",))
    return StageQueue(send, QueueMetrics("p", "s"), replicas=replicas, **options)


def test_times_are_forgotten_where_the_profile_is_another() -> None:
    profile = {"large": (0.2, 0.1), "small": (0.02, 0.01)}
    servers = ModelServers({"a": ("large", "small")}, profile)
    servers.release(servers.acquire(0.0, 2), 1.0, 0.4)
    servers.configure({"a": ("large", "small")}, dict(profile))
    assert servers.usual_s(1.0, 2) == pytest.approx(0.4)
    servers.configure({"a": ("large", "small")}, {"large": (0.1, 0.05), "small": (0.01, 0.005)})
    assert servers.usual_s(1.0, 2) == 0.0


async def test_a_full_batch_goes_at_once_and_a_partial_one_at_its_timeout() -> None:
    send = FakeReplicas()
    queue = stage_queue(send, batch_size=2, batch_timeout_s=0.5, replicas=(A, B))
    ended = await asyncio.gather(*(queue.infer(xs(x), 9) for x in (1, 2, 3)))
    assert [values(request) for request in ended] == [[10], [20], [30]]
    assert send.sent == [(0.0, A, [1, 2]), (0.5, B, [3])]


async def test_the_longest_unused_of_the_idle_replicas_is_next() -> None:
    send = FakeReplicas()
    queue = stage_queue(send, replicas=(A, B))
    for x in (1, 2, 3):
        await queue.infer(xs(x), 9)
    assert [url for _, url, _ in send.sent] == [A, B, A]


async def test_only_the_late_request_of_a_batch_is_dropped() -> None:
    send = FakeReplicas(service_s=1.0)
    queue = stage_queue(send, batch_size=4, batch_timeout_s=0)
    first = asyncio.ensure_future(queue.infer(xs(1), 9))
    await asyncio.sleep(0.1)
    late, in_time = await asyncio.gather(queue.infer(xs(2), 0.5), queue.infer(xs(3), 5))
    assert (late.outcome, late.cause) == (Outcome.DROPPED, LossCause.NO_TIME_LEFT)
    assert values(in_time) == [30]
    assert values(await first) == [10]
    assert [data for _, _, data in send.sent] == [[1], [3]]


async def test_a_request_is_dropped_as_soon_as_no_batch_could_answer_it_in_time() -> None:
    queue = stage_queue(FakeReplicas(service_s=1.0), batch_size=1)
    await queue.infer(xs(1), 9)  # a batch takes one second: now known
    busy = asyncio.ensure_future(queue.infer(xs(2), 9))
    await asyncio.sleep(0)
    began_s = now_s()
    dropped = await queue.infer(xs(3), 1.4)
    assert dropped.outcome is Outcome.DROPPED
    assert now_s() - began_s == pytest.approx(0.4)
    assert values(await busy) == [20]


async def test_the_earliest_deadline_is_first_and_equal_ones_are_in_order_of_arrival() -> None:
    send = FakeReplicas()
    queue = stage_queue(send, batch_timeout_s=0)
    budgets = {0: 9, 1: 9, 2: 9, 3: 1, 4: 5}
    await asyncio.gather(*(queue.infer(xs(x), budget_s) for x, budget_s in budgets.items()))
    assert [data for _, _, data in send.sent] == [[0], [3], [4], [1], [2]]


async def test_the_batch_timeout_is_that_of_the_longest_waiting() -> None:
    send = FakeReplicas()
    queue = stage_queue(send, batch_size=4, batch_timeout_s=0.5)
    patient = asyncio.ensure_future(queue.infer(xs(1), 9))
    await asyncio.sleep(0.3)
    await asyncio.gather(patient, queue.infer(xs(2), 5))
    assert [(at, data) for at, _, data in send.sent] == [(0.5, [2, 1])]


async def known(queue: StageQueue, x: int = 0) -> asyncio.Future[QueuedRequest]:
    """Let the queue learn its service time; the replica then has a batch."""
    await queue.infer(xs(x), 9)
    busy = asyncio.ensure_future(queue.infer(xs(x), 9))
    await asyncio.sleep(0)
    return busy


async def test_what_would_wait_too_long_is_refused_at_once() -> None:
    queue = stage_queue(FakeReplicas(service_s=1.0), batch_timeout_s=0)
    busy = await known(queue)
    waiting = asyncio.ensure_future(queue.infer(xs(1), 2.5))
    await asyncio.sleep(0)
    # One second until the replica is free, one for the waiting request, one for its own batch.
    began_s = now_s()
    refused = await queue.infer(xs(2), 2.6)
    assert (refused.outcome, refused.cause) == (Outcome.DROPPED, LossCause.OVERLOAD)
    assert now_s() == began_s
    assert refused.retry_after_s == pytest.approx(0.4)
    assert queue.expected(now_s()) == StageTimes(wait_s=2.0, usual_s=1.0, least_s=1.0, each_s=1.0)
    assert values(await queue.infer(xs(3), 3.1)) == [30]
    assert [values(await request) for request in (busy, waiting)] == [[0], [10]]


async def test_a_request_that_competes_with_no_other_is_tried() -> None:
    send = FakeReplicas(service_s=1.0)
    queue = stage_queue(send, batch_timeout_s=0)
    for service_s in (2.0, 2.0, 1.0):
        send.service_s = service_s
        await queue.infer(xs(0), 9)
    send.service_s = 1.0
    assert queue.expected(now_s()) == StageTimes(wait_s=0.0, usual_s=2.0, least_s=1.0, each_s=2.0)
    assert values(await queue.infer(xs(1), 1.5)) == [10]


async def test_a_request_gives_its_place_to_one_that_can_be_in_time() -> None:
    send = FakeReplicas(service_s=1.0)
    queue = stage_queue(send, batch_timeout_s=0)
    busy = await known(queue)
    send.service_s = 1.5
    tight = asyncio.ensure_future(queue.infer(xs(1), 2.1))
    await asyncio.sleep(0)
    other = asyncio.ensure_future(queue.infer(xs(2), 9))
    await busy  # it took longer than all before
    assert (await tight).cause is LossCause.NO_TIME_LEFT
    assert values(await other) == [20]


async def test_a_wait_at_a_later_stage_refuses_here() -> None:
    queue = stage_queue(FakeReplicas(service_s=1.0), batch_timeout_s=0)
    await queue.infer(xs(0), 9)
    ahead = StageTimes(wait_s=3.0, usual_s=0.5, least_s=0.4)
    refused = await queue.infer(xs(1), 4.0, ahead=ahead)
    assert (refused.cause, refused.retry_after_s) == (LossCause.OVERLOAD, pytest.approx(0.1))
    assert values(await queue.infer(xs(1), 4.2, ahead=ahead)) == [10]


async def test_slow_batches_of_the_past_do_not_keep_requests_away_for_ever() -> None:
    """All were dropped on arrival once the last batches had taken longer than the budget."""
    send = FakeReplicas(service_s=0.9)
    queue = stage_queue(send, batch_timeout_s=0)
    await queue.infer(xs(0), 9)
    send.service_s = 0.1
    assert (await queue.infer(xs(1), 0.5)).outcome is Outcome.DROPPED
    await asyncio.sleep(3)
    assert values(await queue.infer(xs(1), 0.5)) == [10]


async def test_a_full_queue_refuses() -> None:
    queue = stage_queue(FakeReplicas(), batch_size=1, max_items=2, replicas=())
    waiting = asyncio.ensure_future(queue.infer(xs(1, 2), 9))
    await asyncio.sleep(0)
    refused = await queue.infer(xs(3), 9)
    assert (refused.outcome, refused.cause) == (Outcome.DROPPED, LossCause.QUEUE_FULL)
    queue.configure(QueueConfig(replicas={A: ("",)}))
    assert values(await waiting) == [10, 20]


async def test_many_items_are_split_over_replicas_and_joined_in_order() -> None:
    send = FakeReplicas()
    queue = stage_queue(send, batch_size=4, batch_timeout_s=0.01, replicas=(A, B))
    request = await queue.infer(xs(*range(10)), 9)
    assert values(request) == [10 * x for x in range(10)]
    assert [data for _, _, data in send.sent] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert {url for _, url, _ in send.sent} == {A, B}


async def test_fan_out_rows_go_back_to_the_item_they_came_from() -> None:
    def crops(data: list[int]) -> tuple[int, Any]:
        rows = [x for x in data for _ in range(x)]
        counts = {"name": FAN_OUT, "datatype": "INT64", "shape": [len(data)], "data": data}
        return 200, {"outputs": [counts, _y(rows)]}

    send = FakeReplicas()
    send.answer = crops
    queue = stage_queue(send, batch_size=3, batch_timeout_s=0.01)
    some, none = await asyncio.gather(queue.infer(xs(2, 1), 9), queue.infer(xs(0), 9))
    assert {t.name: t.data for t in some.answer} == {FAN_OUT: [2, 1], "y": [20, 20, 10]}
    assert {t.name: t.data for t in none.answer} == {FAN_OUT: [0], "y": []}
    assert len(send.sent) == 1


async def test_a_batch_whose_replica_dies_is_served_by_another() -> None:
    send = FakeReplicas()
    queue = stage_queue(send, batch_size=2, batch_timeout_s=0, replicas=(A, B))
    pending = asyncio.gather(queue.infer(xs(1), 9), queue.infer(xs(2), 9))
    await asyncio.sleep(0.05)
    send.dead.add(A)
    assert [values(request) for request in await pending] == [[10], [20]]
    assert {url for _, url, _ in send.sent} == {A, B}


async def test_requests_wait_for_the_replacement_and_no_longer_than_their_budget() -> None:
    send = FakeReplicas()
    send.dead.add(A)
    queue = stage_queue(send, batch_timeout_s=0)
    patient = asyncio.ensure_future(queue.infer(xs(1), 9))
    hasty = await queue.infer(xs(2), 1)
    assert (hasty.outcome, hasty.cause) == (Outcome.DROPPED, LossCause.NO_TIME_LEFT)
    assert now_s() == pytest.approx(1)
    queue.configure(QueueConfig(replicas={B: ("",)}))
    assert values(await patient) == [10]


async def test_a_removed_replica_drains_and_batch_size_changes_while_running() -> None:
    send = FakeReplicas()
    queue = stage_queue(send, batch_size=1)
    first = asyncio.ensure_future(queue.infer(xs(1), 9))
    await asyncio.sleep(0.05)
    queue.configure(QueueConfig(replicas={B: ("",)}, batch_size=2, batch_timeout_s=1.0))
    assert queue.to_json()["draining"] == [A]
    others = await asyncio.gather(queue.infer(xs(2), 9), queue.infer(xs(3), 9))
    assert values(await first) == [10]
    assert [values(request) for request in others] == [[20], [30]]
    assert queue.to_json()["draining"] == []
    assert send.sent[1][1:] == (B, [2, 3])


def test_a_replica_that_switches_to_another_variant_is_judged_anew() -> None:
    servers = ModelServers({"a": ("large",), "b": ("large",)})
    for _ in range(2):
        servers.release(servers.acquire(0.0, 1), 8.0, 8.0)
    held = servers.acquire(8.0, 1)
    assert (held.patience_s, servers.usual_s(8.0, 1)) == (80.0, 8.0)
    servers.configure({"a": ("large",), "b": ("large",)})
    assert servers.usual_s(8.0, 1) == 8.0
    servers.configure({"a": ("small",), "b": ("small",)})
    # The batch in flight goes on, and nothing is known of the new variant yet.
    assert (held.given_variant, servers.usual_s(8.0, 1), held.in_flight) == ("large", 0.0, 1)
    assert (held.patience_s, servers.to_json(8.0)["draining"]) == (FIRST_SUSPECT_AFTER_S, [])
    servers.release(held, 16.0, 8.0)
    assert servers.usual_s(16.0, 1) == 0.0
    servers.release(servers.acquire(16.0, 1), 16.5, 0.5)
    assert servers.usual_s(16.5, 1) == 0.5


class TwoVariants:
    """Replicas of one queue: a batch of the variant "large" takes a second, one of "small" 0.05 s."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []
        self.queue = StageQueue(
            self.send,
            QueueMetrics("p", "s"),
            replicas={A: ("large", "small")},
            batch_timeout_s=0.0,
            largest_batch_size=4,
        )

    async def send(self, url: str, variant: str, body: bytes) -> tuple[int, bytes]:
        data = orjson.loads(body)["inputs"][0]["data"]
        self.sent.append((variant, len(data)))
        await asyncio.sleep(1.0 if variant == "large" else 0.05)
        return 200, orjson.dumps({"outputs": [_y(data)]})


async def test_a_lighter_variant_serves_what_would_be_late_in_larger_batches() -> None:
    stage = TwoVariants()
    assert values(await stage.queue.infer(xs(0), 9)) == [0]
    ended = await asyncio.gather(*(stage.queue.infer(xs(x), 2.5) for x in range(1, 8)))
    assert [values(request) for request in ended] == [[10 * x] for x in range(1, 8)]
    # The third would have been late behind two of a second each; then nothing waits, and the next is not.
    assert stage.sent == [("large", 1), ("large", 1), ("small", 4), ("small", 2)]
    assert values(await stage.queue.infer(xs(8), 2.5)) == [80]
    assert stage.sent[-1] == ("large", 1)
    text = (await stage.queue._metrics.handle(None)).body.decode()  # type: ignore[arg-type]
    assert 'ipa_queue_variant_items_total{pipeline="p",stage="s",variant="small"} 6.0' in text
    assert 'ipa_queue_variant_items_total{pipeline="p",stage="s",variant="large"} 3.0' in text
    # What is planned with is the time of the variant that runs.
    assert 'ipa_queue_service_seconds_count{part="1",pipeline="p",stage="s"} 3.0' in text


async def test_a_lighter_variant_serves_what_would_miss_the_sla_be_it_dropped_or_not() -> None:
    stage = TwoVariants()
    await stage.queue.infer(xs(0), 9)
    assert values(await stage.queue.infer(xs(4), 0.5)) == [40]
    assert values(await stage.queue.infer(xs(1), 9, aim_s=0.5)) == [10]
    # Later than wanted whatever serves it, and not given up.
    assert values(await stage.queue.infer(xs(2), 9, aim_s=0.01)) == [20]
    await asyncio.sleep(1.0)
    assert values(await stage.queue.infer(xs(3), 9, aim_s=2.0)) == [30]
    assert stage.sent == [("large", 1), *3 * [("small", 1)], ("large", 1)]


def test_what_lighter_variants_can_stand_in_for_is_remembered_for_longer_whatever_is_asked() -> None:
    servers = ModelServers({"a": ("large", "small")})
    servers.release(servers.acquire(0.0, 1), 0.5, 0.5)
    servers.release(servers.acquire(0.5, 1, level=1), 0.6, 0.1)
    servers.acquire(4.0, 1)
    # The batch in flight is large; it takes as long as the last one did, and asking forgets nothing.
    assert servers.begin_s(4.0, 0, 1) == 4.5
    assert (servers.usual_s(4.0, 1), servers.usual_s(4.0, 1, level=1)) == (0.5, 0.0)
    # One that is slower here is not tried again soon.
    servers = ModelServers({"a": ("large", "small")})
    servers.release(servers.acquire(0.0, 1), 0.1, 0.1)
    servers.release(servers.acquire(0.1, 1, level=1), 0.4, 0.3)
    servers.release(servers.acquire(0.4, 1), 0.5, 0.1)
    assert servers.usual_s(4.0, 1, level=1) == 0.3
    # The quicker one is judged by its last batches alone.
    assert servers.usual_s(4.0, 1) == 0.0


@pytest.mark.parametrize(("status", "aim_s"), [(500, 9.0), (200, 0.4)])
async def test_no_heavier_variant_is_tried_for_a_while_after_one_failed_or_was_late(
    status: int, aim_s: float
) -> None:
    """One that takes three times its profile is late, though it should be quick."""
    sent: list[str] = []

    async def send(url: str, variant: str, body: bytes) -> tuple[int, bytes]:
        data = orjson.loads(body)["inputs"][0]["data"]
        sent.append(variant)
        is_slow = variant == "large" and status == 200
        await asyncio.sleep(0.45 if is_slow else 0.1 if variant == "large" else 0.05)
        return status if variant == "large" else 200, orjson.dumps({"outputs": [_y(data)]})

    queue: StageQueue
    queue = StageQueue(
        send,
        QueueMetrics("p", "s"),
        replicas={A: ("small",)},
        heavier={A: ("large",)},
        profiled_s={"small": (0.05, 0.05), "large": (0.1, 0.1)},
        batch_timeout_s=0.0,
    )
    for x in range(5):
        request = await queue.infer(xs(x), 9, aim_s=aim_s)
        assert request.outcome is (
            Outcome.FAILED if sent[-1] == "large" and status == 500 else Outcome.ANSWERED
        )
    # Nothing was known of either, then it was tried.
    assert sent == ["small", "large", "small", "small", "small"]
    await asyncio.sleep(PRESSED_S)
    await queue.infer(xs(9), 9, aim_s=9.0)
    assert sent[-1] == "large"
    text = (await queue._metrics.handle(None)).body.decode()  # type: ignore[arg-type]
    # Items without an answer are nobody's.
    answered = 'ipa_queue_variant_items_total{pipeline="p",stage="s",variant="large"} 2.0'
    assert (answered in text) is (status == 200)


def test_a_batch_of_a_heavier_variant_is_waited_for_as_its_profile_says() -> None:
    servers = ModelServers({A: ("small",)}, {"small": (1.0, 1.0), "large": (8.0, 8.0)}, {A: ("large",)})
    servers.release(servers.acquire(0.0, 1), 1.0, 1.0)
    assert servers.acquire(1.0, 1).patience_s == 10.0
    servers.release(servers._active[A], 2.0, 1.0)
    assert servers.acquire(2.0, 1, level=-1).patience_s == 80.0


def test_a_variant_that_was_not_seen_takes_its_profile_as_wrong_as_that_of_the_last_one() -> None:
    servers = ModelServers(
        {"a": ("large", "middle", "small")}, {"large": (0.4, 0.4), "middle": (0.1, 0.05), "other": (0.1, 0.1)}
    )
    assert servers.usual_s(0.0, 1, level=1) == 0.0, "nothing was seen"
    servers.release(servers.acquire(0.0, 1), 0.8, 0.8)
    # Twice as slow as profiled, as the large one is.
    assert servers.usual_s(0.8, 1, level=1) == pytest.approx(0.2)
    assert servers.usual_s(0.8, 4, level=1) == pytest.approx(0.5)
    assert servers.usual_s(0.8, 4) == pytest.approx(3.2)
    # Larger batches of the large one save nothing by its profile, those of the middle one do.
    assert [servers.saves(0.8, 1, 4, level) for level in (0, 1, 2)] == [False, True, True]
    assert servers.usual_s(0.8, 1, level=2) == 0.0, "it has no profile"
    # What is seen counts more.
    servers.release(servers.acquire(0.8, 1, level=1), 1.1, 0.3)
    assert servers.usual_s(1.1, 1, level=1) == pytest.approx(0.3)


def test_the_time_of_a_batch_is_that_of_its_items() -> None:
    times = ServiceTimes(1.0, 1.0)

    def usual_s(items: int) -> float:
        return times.at_ratio(0.5, 1.0, 10.0, items)

    assert usual_s(1) == 0.0
    for _ in range(3):
        times.add(1.0, 2, 0.4)
    # Batches of one size tell nothing about others: the profile, of items that are alike, does.
    assert [usual_s(items) for items in (1, 2, 8)] == pytest.approx([0.2, 0.4, 1.6])
    times.add(1.0, 4, 0.6)
    assert [usual_s(items) for items in (1, 2, 4, 8)] == pytest.approx([0.3, 0.4, 0.6, 1.2])


def test_chance_gives_no_batch_a_time_below_zero() -> None:
    """The batches of one item were the slow ones, or one item alone takes less than the slope says."""
    for taken in ([(1, 0.9), (4, 0.2)], [(1, 0.01), (2, 0.9), (8, 1.0)]):
        times = ServiceTimes(1.0, 1.0)
        for items, took_s in taken:
            times.add(1.0, items, took_s)
        batch_times_s = [times.at_ratio(0.0, 1.0, 10.0, items) for items in range(1, 9)]
        assert all(0 < one <= more for one, more in pairwise(batch_times_s))


async def test_a_queue_posts_to_the_model_of_the_variant() -> None:
    posted: list[str] = []
    server = QueueServer("shop", "detect", model="detect--{variant}", replicas={"http://a:1": ("v2.large",)})

    async def post(url: str, body: bytes, headers: object) -> tuple[int, bytes, dict[str, str]]:
        posted.append(url)
        return 200, orjson.dumps({"outputs": [_y([1])]}), {}

    server._client.post = post  # type: ignore[assignment, method-assign]
    for variant in ("v2.large", "small"):
        server._queues["1"].configure(QueueConfig(replicas={"http://a:1": (variant,)}))
        await server._queues["1"].infer(xs(1), 10.0)
    models = "http://a:1/v2/models"
    assert posted == [f"{models}/detect--v2.large/infer", f"{models}/detect--small/infer"]


async def test_one_bad_request_does_not_take_its_batch_along() -> None:
    send = FakeReplicas()
    healthy = send.answer
    send.answer = lambda data: (400, {"error": "13!"}) if 13 in data else healthy(data)
    queue = stage_queue(send, batch_size=3, batch_timeout_s=0)
    occupied = asyncio.ensure_future(queue.infer(xs(0), 9))
    await asyncio.sleep(0.01)
    good, bad, fine = await asyncio.gather(*(queue.infer(xs(x), 9) for x in (1, 13, 2)))
    assert (values(good), values(fine), bad.outcome) == ([10], [20], Outcome.FAILED)
    assert "13!" in bad.detail
    await occupied


async def test_requests_of_another_kind_are_not_merged() -> None:
    send = FakeReplicas()
    queue = stage_queue(send, batch_size=4, batch_timeout_s=0.2, replicas=(A, B))
    await asyncio.gather(queue.infer(xs(1), 9), queue.infer(xs(2, datatype="INT32"), 9))
    # The first cannot grow any more once another kind waits behind it.
    assert [(at, data) for at, _, data in send.sent] == [(0.0, [1]), (0.2, [2])]


def test_a_request_comes_while_a_batch_is_due_at_once_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def scenario() -> None:
        async def sender(url: str, variant: str, body: bytes) -> tuple[int, bytes]:
            await asyncio.sleep(0.01)
            given = orjson.loads(body)["inputs"][0]
            return 200, orjson.dumps({"outputs": [given]})

        # The batch's timeout is below the resolution of the loop's timers.
        queue = StageQueue(
            sender,
            QueueMetrics("p", "s"),
            batch_size=8,
            batch_timeout_s=0.0004,
            replicas={"http://a": ("v",)},
        )
        tensor = Tensor("x", "FP32", (1, 1), [0.5])
        ended = await asyncio.gather(*(queue.infer((tensor,), 10.0) for _ in range(4)))
        assert [it.outcome for it in ended] == [Outcome.ANSWERED] * 4
        await queue.close()

    uvloop.run(scenario())
