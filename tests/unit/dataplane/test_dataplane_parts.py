"""Configurations side by side in router and queue: shares, queues of their own, and who may set them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from typing import Any

import httpx
import orjson
import pytest

from ipa.dataplane.http import PART_HEADER, Application, HttpError
from ipa.dataplane.queue import QueueServer
from ipa.dataplane.router import RouterServer, parse_order
from ipa.dataplane.stagequeue import parse_parts

TOKEN = "t0k3n"
WRONG_TIMES: tuple[Any, ...] = (
    {},
    [],
    {"sla_s": 0, "drop_after_s": 1},
    {"sla_s": "soon", "drop_after_s": 1},
)
BODY = {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}]}


def client(application: Application, address: str = "127.0.0.1") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(application, client=(address, 1))  # type: ignore[arg-type]
    headers = {"authorization": f"Bearer {TOKEN}"}
    return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers)


class Stages:
    """Queues that answer at once, or when told to; `parts` are those that each request named."""

    def __init__(self) -> None:
        self.parts: list[tuple[str, str]] = []
        self.go_on = asyncio.Event()
        self.go_on.set()

    async def __call__(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes, Mapping[str, str]]:
        self.parts.append((url.split("/")[2], headers.get(PART_HEADER, "1")))
        await self.go_on.wait()
        return 200, orjson.dumps({"outputs": BODY["inputs"]}), {}


def router(stages: Stages, shares: Mapping[str, int], token: str = TOKEN) -> RouterServer:
    both = [("a", "http://a"), ("b", "http://b")]
    return RouterServer("p", both, post=stages, shares=shares, admin_token=token)


async def ask(http: httpx.AsyncClient, count: int) -> None:
    for _ in range(count):
        assert (await http.post("/v2/models/p/infer", json=BODY)).status_code == 200


@pytest.mark.parametrize("shares", [{"1": 100}, {"1": 95, "2": 5}, {"2": 60, "1": 25, "3": 15}])
async def test_each_part_has_its_share_and_a_request_stays_in_one(shares: Mapping[str, int]) -> None:
    stages = Stages()
    async with client(router(stages, shares).application()) as http:
        await ask(http, 400)
    first, second = stages.parts[::2], stages.parts[1::2]
    assert [part for _, part in first] == [part for _, part in second]
    counts = Counter(part for _, part in first)
    assert all(abs(counts[part] - 4 * percent) <= 2 for part, percent in shares.items())
    # Requests that alternate between two kinds meet all parts alike.
    for kind in (first[::2], first[1::2], first[::5]):
        kind_counts = Counter(part for _, part in kind)
        assert all(abs(kind_counts[part] - len(kind) * it / 100) <= 4 for part, it in shares.items())


async def test_shares_move_at_once_and_a_part_is_told_of_until_its_last_request_has_ended() -> None:
    stages = Stages()
    server = router(stages, {"1": 100})
    async with client(server.application()) as http:
        stages.go_on.clear()
        waiting = asyncio.create_task(ask(http, 1))
        while not stages.parts:
            await asyncio.sleep(0)
        answer = await http.put("/admin/config", json={"shares": {"2": 100}})
        state = answer.json()
        assert (state["shares"], state["in_flight"]) == ({"2": 100}, {"1": 1, "2": 0})
        stages.go_on.set()
        await waiting
        await ask(http, 3)
        # What was on its way went on in its part.
        assert [part for _, part in stages.parts] == ["1", "1", *["2"] * 6]
        assert (await http.get("/admin/config")).json()["in_flight"] == {"1": 0, "2": 0}
        text = (await http.get("/metrics")).text
        for part, count in (("1", 1), ("2", 3)):
            labels = f'outcome="answered",part="{part}",pipeline="p"'
            assert f"ipa_router_requests_total{{{labels}}} {count}.0" in text
            assert f'ipa_router_request_seconds_count{{part="{part}",pipeline="p"}} {count}.0' in text


@pytest.mark.parametrize(
    ("token", "headers", "address", "status"),
    [
        (TOKEN, {"authorization": "Bearer other"}, "127.0.0.1", 401),
        (TOKEN, {}, "192.0.2.1", 403),
        (TOKEN, {"origin": "http://127.0.0.1"}, "127.0.0.1", 403),
        # As in a container.
        ("", {}, "127.0.0.1", 403),
    ],
)
async def test_shares_are_not_for_strangers(
    token: str, headers: Mapping[str, str], address: str, status: int
) -> None:
    server = router(Stages(), {"1": 100}, token)
    async with client(server.application(), address) as http:
        for method, body in (("GET", None), ("PUT", {"shares": {"2": 100}})):
            answer = await http.request(method, "/admin/config", json=body, headers=headers)
            assert answer.status_code == status
        times = {"sla_s": 9, "drop_after_s": 9}
        assert (await http.put("/admin/config", json=times, headers=headers)).status_code == status
    assert server.parts.to_json()["shares"] == {"1": 100}


@pytest.mark.parametrize(
    "body",
    [
        *(b"{", b"[]", b"{}", b'{"shares": {}}', b'{"shares": {"1": 99}}', b'{"shares": {"1": 100.0}}'),
        *(
            b'{"shares": {"0": 100}}',
            b'{"shares": {"1": 120, "2": -20}}',
            b'{"shares": {"1": 100}, "more": 1}',
        ),
    ],
)
def test_shares_that_are_no_percents_of_all_requests_are_refused(body: bytes) -> None:
    with pytest.raises(HttpError) as refused:
        parse_order(body)
    assert refused.value.status in {400, 422}


async def test_parts_of_a_stage_have_queues_of_their_own() -> None:
    sent: list[str] = []

    async def send(url: str, variant: str, body: bytes) -> tuple[int, bytes]:
        sent.append(url)
        return 200, orjson.dumps({"outputs": BODY["inputs"]})

    server = QueueServer(
        "p",
        "s",
        sender=send,
        admin_token=TOKEN,
        batch_timeout_s=0,
        replicas={"http://a:1": ("small",)},
        # As a queue that is started again is told.
        parts=parse_parts('{"2": {"batch_size": 4, "replicas": ["http://b:1"]}}'),
    )
    application = server.application()
    await server._start()
    async with client(application) as http:
        path, second = "/v2/models/s/infer", {PART_HEADER: "2"}
        assert (await http.post(path, json=BODY)).status_code == 200
        assert (await http.post(path, json=BODY, headers=second)).status_code == 200
        assert sent == ["http://a:1", "http://b:1"]
        assert (await http.get("/admin/config")).json()["batch_size"] == 1
        assert (await http.get("/admin/config", headers=second)).json()["batch_size"] == 4
        moved = {"replicas": ["http://c:1"]}
        assert (await http.put("/admin/config", json=moved, headers=second)).status_code == 200
        await http.post(path, json=BODY, headers=second)
        await http.post(path, json=BODY)
        assert sent[2:] == ["http://c:1", "http://a:1"]
        text = (await http.get("/metrics")).text
        for part in ("1", "2"):
            assert f'ipa_queue_service_seconds_count{{part="{part}",pipeline="p",stage="s"}} 2.0' in text
        assert 'ipa_queue_items_total{outcome="answered",pipeline="p",stage="s"} 4.0' in text
        for part in ("0", "17", "x"):
            assert (await http.post(path, json=BODY, headers={PART_HEADER: part})).status_code == 400
    await server._stop()


async def test_other_times_count_for_the_requests_from_now_on() -> None:
    stages = Stages()
    headers = {"authorization": f"Bearer {TOKEN}"}
    async with client(router(stages, {"1": 100}, TOKEN).application()) as http:
        for wrong in WRONG_TIMES:
            answer = await http.put("/admin/config", json=wrong, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (422, "input")
        assert (await http.post("/v2/models/p/infer", json=BODY)).status_code == 200
        hasty = {"sla_s": 1e-9, "drop_after_s": 1e-9}
        answer = await http.put("/admin/config", json=hasty, headers=headers)
        assert answer.json() == {"shares": {"1": 100}, "in_flight": {"1": 0}, **hasty}
        assert (await http.post("/v2/models/p/infer", json=BODY)).status_code == 504
