"""R3: one viewer who asks for as much as there is, with a service that has a process of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from ipa.api.auth import RULES, Work, work_of
from ipa.api.limits import ApiLimits, RequestGate, TokenBuckets
from ipa.api.queries import PAGE_BYTES
from ipa.model.errors import BusyError
from tests.fakes.services import ApiClient, FakeWorld
from tests.faults.crowded import DECISIONS, INPUTS_BYTES, Crowded, crowd_of, crowded
from tests.faults.table import Case
from tools.reference import BOUNDS

MEMORY_MB, HEALTH_S = 50.0, 0.5
# A machine that does something else takes longer than what is asked for; alone it is within it.
BUSY = 3.0
CONNECTIONS = 30
OCR = "/v1/pipelines/ocr"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Crowded]:
    with crowded(tmp_path) as running:
        warm(running)
        yield running


def warm(service: Crowded) -> None:
    """Ask for everything once, so that what is only made once does not count."""
    with client_of(service, service.other) as client:
        for path in (f"{OCR}/decisions?limit=500", f"{OCR}/record", "/metrics", "/readyz"):
            assert client.get(path).status_code in (200, 409)


def client_of(service: Crowded, token: str) -> httpx.Client:
    return httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {token}"}, timeout=120)


def watched(service: Crowded, is_over: list[bool]) -> tuple[float, float, float]:
    """The longest that health and another viewer waited, and the most memory, until it is over."""
    health_s, other_s, most_mb = [0.0], [0.0], 0.0
    with client_of(service, service.other) as client:
        while not is_over:
            for path, waits_s in (("/healthz", health_s), (f"{OCR}/status", other_s)):
                began_s = time.monotonic()
                assert client.get(path).status_code == 200
                waits_s.append(time.monotonic() - began_s)
            most_mb = max(most_mb, service.memory_mb)
    return max(health_s), max(other_s), most_mb


@pytest.mark.live
def test_r3_the_largest_lists_from_30_connections(case: Case, service: Crowded) -> None:
    before_mb, statuses, largest = service.memory_mb, Counter[int](), 0
    paths = (f"{OCR}/decisions?limit=500", f"{OCR}/history?limit=500", f"{OCR}/record")
    is_over: list[bool] = []

    def ask(at: int) -> tuple[Counter[int], int, set[str]]:
        counts, most, retries = Counter[int](), 0, set[str]()
        with client_of(service, service.viewer) as client:
            for path in paths:
                answer = client.get(path)
                counts[answer.status_code] += 1
                most = max(most, len(answer.content))
                if answer.status_code == 429:
                    retries.add(answer.headers["retry-after"])
        return counts, most, retries

    with ThreadPoolExecutor(CONNECTIONS + 1) as pool:
        watch = pool.submit(watched, service, is_over)
        for counts, most, retries in list(pool.map(ask, range(CONNECTIONS))):
            statuses += counts
            largest = max(largest, most)
            assert retries <= {"1"}
        is_over.append(True)
        health_s, other_s, most_mb = watch.result()
    case.note("answers", dict(statuses))
    # 409: of this record only the decisions are there.
    case.equal("other answers", [status for status in statuses if status not in (200, 409, 429)], [])
    case.at_most("largest answer MB", largest / 1e6, (PAGE_BYTES + 2 * INPUTS_BYTES) / 1e6)
    case.at_most("memory grown by MB, at most", most_mb - before_mb, MEMORY_MB)
    case.at_most("s that health waited, at most", health_s, HEALTH_S * BUSY)
    case.note("s that another viewer waited, at most", other_s)


def test_r3_a_page_that_ends_early_loses_nothing(case: Case, tmp_path: Path) -> None:
    ids: list[str] = []
    before, pages = None, 0
    with crowd_of(tmp_path) as (services, tokens):
        client, headers = ApiClient(services), {"Authorization": f"Bearer {tokens[0]}"}
        while pages == 0 or before is not None:
            query = {"limit": "500"} | ({"before": before} if before else {})
            page = client.get(f"{OCR}/decisions", params=query, headers=headers).json()
            ids += [each["decision_id"] for each in page["decisions"]]
            before, pages = page["next_before"], pages + 1
    case.at_least("pages", pages, DECISIONS * INPUTS_BYTES // PAGE_BYTES)
    case.equal("decisions in order", ids == [f"d-{tick}" for tick in reversed(range(DECISIONS))], True)


def test_r3_no_route_is_without_a_bound(case: Case) -> None:
    """The costly routes are rationed, but for the few that need not be."""
    free = {route for route in RULES if work_of(route) is Work.NONE}
    case.equal(
        "routes that cost nothing",
        sorted(path for _, path in free),
        ["/", "/assets", "/healthz", "/openapi.json", "/problems/{code}"],
    )
    case.equal("kinds of work without words", set(Work) - set(BOUNDS), set())
    writes = {
        route
        for route, rule in RULES.items()
        if rule is not None and rule.operation.writes and route[0] != "GET"
    }
    case.equal(
        "changes that are not counted as such", {it for it in writes if work_of(it) is not Work.WRITE}, set()
    )


def test_r3_health_needs_no_thread_of_the_pool(case: Case) -> None:
    """All of them are taken by reads that do not end, and health is answered, also to a token."""
    world, go_on, taken = FakeWorld().play(5), threading.Event(), threading.Semaphore(0)
    real = world.control

    def stuck(pipeline: str, *, may_lag: bool = False) -> object:
        taken.release()
        assert go_on.wait(60)
        return real(pipeline)

    limits = ApiLimits()
    # More than the pool has.
    limits.quick = RequestGate(60, 60)
    world.control = stuck  # type: ignore[method-assign, assignment]
    api = ApiClient(replace(world.services(), limits=limits))
    with ThreadPoolExecutor(50) as pool:
        reads = [pool.submit(api.get, f"{OCR}/status") for _ in range(50)]
        for _ in range(40):
            assert taken.acquire(timeout=60)
        answers = [
            api.get(path, headers={"Authorization": "Bearer x"}).status_code
            for path in ("/healthz", "/readyz", "/readyz?verbose", "/metrics")
        ]
        go_on.set()
        assert {each.result().status_code for each in reads} == {200}
    case.equal("health while all threads are taken", answers, [200] * 4)


def test_r3_reads_and_changes_are_rationed_by_identity(case: Case) -> None:
    limits, now = ApiLimits(), [0.0]
    limits.reads, limits.changing = (
        TokenBuckets(3.0, lambda: now[0]),
        TokenBuckets(1.0, lambda: now[0], most=2),
    )
    api = ApiClient(replace(FakeWorld().play(5).services(), limits=limits))
    reads = [api.get(f"{OCR}/status") for _ in range(5)]
    case.equal("reads", [each.status_code for each in reads], [200, 200, 200, 429, 429])
    changes = [api.post(f"{OCR}/resume") for _ in range(3)]
    case.equal("changes", [each.status_code for each in changes], [200, 200, 429])
    assert changes[-1].headers["retry-after"] == "1" and changes[-1].json()["code"] == "busy"
    case.equal("health meanwhile", api.get("/healthz").status_code, 200)
    now[0] = 1.0
    case.equal(
        "a second later",
        [api.get(f"{OCR}/status").status_code, api.post(f"{OCR}/resume").status_code],
        [200, 200],
    )
    case.equal("another identity", limits.reads.take("another").allowed, True)


async def crowd(gate: RequestGate, greedy: int, modest: int) -> tuple[int, int, list[str]]:
    """The number served of a greedy client and of a modest one, who comes last, and their order."""
    order: list[str] = []
    go_on = asyncio.Event()

    async def enter(client: str) -> bool:
        try:
            async with gate.enter(client):
                order.append(client)
                await go_on.wait()
            return True
        except BusyError:
            return False

    tasks = [asyncio.create_task(enter("greedy")) for _ in range(greedy)]
    await asyncio.sleep(0)
    tasks += [asyncio.create_task(enter("modest")) for _ in range(modest)]
    await asyncio.sleep(0)
    go_on.set()
    served = await asyncio.gather(*tasks)
    return sum(served[:greedy]), sum(served[greedy:]), order


def test_r3_a_full_gate_makes_room_for_who_has_less(case: Case) -> None:
    gate = RequestGate(2, 8)
    greedy, modest, order = asyncio.run(crowd(gate, 40, 3))
    case.equal("served of the modest client's 3", modest, 3)
    case.equal("served of the greedy one's 40", greedy, 7)
    case.equal("where the modest one's first turn is", order.index("modest") <= 3, True)
    case.equal("inside afterwards", (gate.inside, len(gate._clients), gate._active), (0, 0, 0))


def test_r3_the_largest_lists_of_a_client_are_made_one_after_another(case: Case) -> None:
    """They take the interpreter from the ticks, and more at once come no sooner."""
    _, modest, order = asyncio.run(crowd(ApiLimits().lists, 5, 1))
    case.equal("first", order[:2], ["greedy", "modest"])
    case.equal("served of another client's 1", modest, 1)


def test_r3_who_leaves_a_gate_leaves_nothing_behind(case: Case) -> None:
    async def leaving() -> tuple[int, int]:
        gate = RequestGate(1, 10, each=1)

        async def wait(client: str) -> None:
            async with gate.enter(client):
                await asyncio.Event().wait()

        tasks = [asyncio.create_task(wait(f"c{at % 3}")) for at in range(9)]
        for _ in range(20):
            await asyncio.sleep(0)
            tasks[0].cancel()
            tasks = [each for each in tasks if not each.done()]
            if not tasks:
                break
        return gate.inside, gate._active

    case.equal("inside, running", asyncio.run(leaving()), (0, 0))
