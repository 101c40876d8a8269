"""R6: a model server hangs: its requests end at their deadline, it gets no others, and it is replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from experiments.attack.stub import HANG
from ipa.dataplane.client import ConnectionLostError
from ipa.dataplane.metrics import QueueMetrics
from ipa.dataplane.router import RouterServer
from ipa.dataplane.stagequeue import StageQueue
from ipa.dataplane.tensors import Tensor, Tensors
from ipa.serving.batching import MAX_LOSSES, Outcome
from ipa.serving.replicas import FIRST_SUSPECT_AFTER_S, SUSPECT_AFTER_S
from ipa.targets.local import front, runner
from ipa.targets.local.workload import LocalWorkload
from tests.fakes import virtual_loop
from tests.fakes.waiting import until
from tests.faults.kill_targets import one_stage
from tests.faults.table import Case

run = virtual_loop.run
A, B = "http://127.0.0.1:1", "http://127.0.0.1:2"
# What the row asks, and what a test with real processes allows on a machine that is busy.
GRACE_S, BUSY_S = 0.2, 1.0
GIVE_UP_S = 60.0


class Servers:
    """Replicas that answer in 0.1 s; those in `hung` do so when they are told to go on."""

    def __init__(self, *hung: str) -> None:
        self.hung = set(hung)
        self.go_on = asyncio.Event()
        self.batches: list[str] = []

    async def __call__(self, url: str, variant: str, body: bytes) -> tuple[int, bytes]:
        self.batches.append(url)
        if url in self.hung:
            await self.go_on.wait()
        await asyncio.sleep(0.1)
        return 200, orjson.dumps({"outputs": orjson.loads(body)["inputs"]})


def queue_of(send: Any, *replicas: str, **options: Any) -> StageQueue:
    variants = dict.fromkeys(replicas, ("small",))
    return StageQueue(
        send, QueueMetrics("p", "s"), batch_timeout_s=0, stage="s", replicas=variants, **options
    )


def xs(*values: int) -> Tensors:
    return (Tensor("x", "INT64", (len(values),), list(values)),)


def now_s() -> float:
    return asyncio.get_running_loop().time()


async def test_r6_requests_with_a_hung_server_end_at_their_own_deadlines(case: Case) -> None:
    queue = queue_of(Servers(A), A, batch_size=4)
    budgets_s = (2.0, 0.5, 1.0)
    late_s: list[float] = []

    async def ask(budget_s: float) -> Outcome | None:
        request = await queue.infer(xs(1), budget_s)
        late_s.append(now_s() - budget_s)
        return request.outcome

    # The first goes into a batch alone, the others wait behind it.
    outcomes = await asyncio.gather(*(ask(budget_s) for budget_s in budgets_s))
    case.equal("dropped", outcomes.count(Outcome.DROPPED), 3)
    case.at_most("s after the deadline", max(late_s), GRACE_S)
    await queue.close()


async def test_r6_a_hung_server_gets_nothing_until_it_answers(case: Case) -> None:
    send = Servers()
    queue = queue_of(send, A, B)
    for _ in range(2):
        await queue.infer(xs(0), 9)
    send.hung.add(A)
    send.batches.clear()
    hung = await queue.infer(xs(1), 2)
    assert hung.outcome is Outcome.DROPPED
    others = await asyncio.gather(*(queue.infer(xs(value), 9) for value in range(20)))
    case.equal("others answered", [it.outcome for it in others].count(Outcome.ANSWERED), 20)
    case.equal("batches for the hung one", send.batches.count(A), 1)
    case.equal("suspects", queue.replicas.suspects(now_s()), [A])
    # Its late answer harms nobody, and it serves again.
    send.go_on.set()
    await asyncio.sleep(1)
    assert queue.replicas.suspects(now_s()) == []
    again = await asyncio.gather(*(queue.infer(xs(value), 9) for value in range(2)))
    assert [it.answer[0].data for it in again] == [[0], [1]]
    assert send.batches.count(A) == 2


async def test_r6_only_what_takes_far_longer_than_usual_is_suspected(case: Case) -> None:
    """A first batch may load or compile; a slow model may be slow."""
    send = Servers(A)
    queue = queue_of(send, A, batch_size=1)
    waiting = asyncio.ensure_future(queue.infer(xs(1), 2 * FIRST_SUSPECT_AFTER_S))
    await asyncio.sleep(FIRST_SUSPECT_AFTER_S - 0.1)
    case.equal("suspects of first batches", len(queue.replicas.suspects(now_s())), 0)
    await asyncio.sleep(0.2)
    assert queue.replicas.suspects(now_s()) == [A]
    send.go_on.set()
    await waiting
    # It took 30 s, so that 60 s are usual enough.
    send.go_on.clear()
    slow = asyncio.ensure_future(queue.infer(xs(1), 90))
    await asyncio.sleep(2 * FIRST_SUSPECT_AFTER_S)
    case.equal("suspects among slow ones", len(queue.replicas.suspects(now_s())), 0)
    send.go_on.set()
    await slow
    assert SUSPECT_AFTER_S < FIRST_SUSPECT_AFTER_S


async def test_r6_a_request_that_ends_model_servers_ends_no_more_than_three(case: Case) -> None:
    batches: list[list[int]] = []

    async def fragile(url: str, variant: str, body: bytes) -> tuple[int, bytes]:
        (given,) = orjson.loads(body)["inputs"]
        batches.append(given["data"])
        await asyncio.sleep(0.1)
        if 13 in given["data"]:
            raise ConnectionLostError(url, was_sent=True)
        return 200, orjson.dumps({"outputs": [given]})

    queue = queue_of(fragile, A, B, batch_size=3)
    occupied = [asyncio.ensure_future(queue.infer(xs(0), 9)) for _ in range(2)]
    await asyncio.sleep(0.01)
    ended = await asyncio.gather(*(queue.infer(xs(value), 9) for value in (1, 13, 2)), *occupied)
    bad = ended.pop(1)
    case.equal("others failed", [it.outcome for it in ended].count(Outcome.FAILED), 0)
    case.equal("servers ended", sum(13 in data for data in batches), MAX_LOSSES)
    assert bad.outcome is Outcome.FAILED
    assert "variant 'small'" in bad.detail


async def test_r6_a_queue_that_stops_does_not_wait_for_a_hung_server(case: Case) -> None:
    queue = queue_of(Servers(A), A)
    await queue.infer(xs(1), 1)
    began_s = now_s()
    await queue.close()
    case.at_most("s to stop", now_s() - began_s, GRACE_S)


async def test_r6_the_router_keeps_the_deadline_of_a_queue_that_hangs(case: Case) -> None:
    async def hang(url: str, body: bytes, headers: Any) -> tuple[int, bytes, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    application = RouterServer("p", [("s", "http://queue")], post=hang).application()
    transport = httpx.ASGITransport(application)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as http:
        began_s = now_s()
        answer = await http.post("/v2/models/p/infer", content=b"{}", headers={"ipa-budget-ms": "100"})
        case.at_most("s after the deadline", now_s() - began_s - 0.1, GRACE_S)
    case.equal("status", answer.status_code, 504)


@pytest.fixture
def workload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalWorkload]:
    # A queue that hangs is found in three checks of 2 s, and later on a busy machine: here at once.
    monkeypatch.setattr(front, "START_S", 0.0)
    monkeypatch.setattr(runner, "REQUEST_TIMEOUT_S", 0.5)
    pipeline, configs = one_stage()
    running = LocalWorkload(tmp_path)
    running.start(pipeline, configs)
    yield running
    running.stop()


def ask(workload: LocalWorkload, value: int, budget_s: float) -> tuple[int, float]:
    """The status, and how long it took."""
    tensor = {"name": "x", "datatype": "INT64", "shape": [1], "data": [value]}
    url = f"{workload.runner('echo').endpoint}/v2/models/echo/infer"
    began_s = time.monotonic()
    answer = httpx.post(
        url,
        json={"inputs": [tensor]},
        headers={"ipa-budget-ms": f"{1000 * budget_s:g}"},
        trust_env=False,
        timeout=GIVE_UP_S,
    )
    return answer.status_code, time.monotonic() - began_s


@pytest.mark.local
@pytest.mark.xdist_group("local")
def test_r6_hung_processes_are_replaced(case: Case, workload: LocalWorkload) -> None:
    """A model that waits for a lock while its server says that it is well, and a queue that is stopped."""
    assert ask(workload, 1, GIVE_UP_S)[0] == 200
    (model,) = workload.runner("echo").pids("say1")
    status, took_s = ask(workload, HANG, 0.5)
    case.equal("status with a hung model", status, 504)
    case.at_most("s after the deadline, model", took_s - 0.5, GRACE_S + BUSY_S)
    until(lambda: workload.runner("echo").pids("say1") not in ([model], []), GIVE_UP_S)
    case.equal("status after it was replaced", ask(workload, 1, GIVE_UP_S)[0], 200)
    queue = workload.runner("echo").front_pids()["queue-say1"]
    os.kill(queue, signal.SIGSTOP)
    status, took_s = ask(workload, 1, 0.5)
    case.equal("status with a hung queue", status, 504)
    case.at_most("s after the deadline, queue", took_s - 0.5, GRACE_S + BUSY_S)
    until(lambda: workload.runner("echo").front_pids()["queue-say1"] not in (0, queue), GIVE_UP_S)
    case.equal("status after the queue was replaced", ask(workload, 1, GIVE_UP_S)[0], 200)
