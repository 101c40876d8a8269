"""Queue and router over ASGI, wired to each other without sockets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import orjson
import pytest

from ipa.dataplane.client import ConnectionLostError
from ipa.dataplane.http import Application, BodyLimits
from ipa.dataplane.queue import QueueServer
from ipa.dataplane.router import RouterServer
from ipa.dataplane.stagequeue import parse_config
from ipa.model.errors import InputError
from ipa.model.serving import FAN_OUT

# Status, body and headers.
Answer = tuple[int, bytes, Mapping[str, str]]
REPLICA = "http://127.0.0.1:1"


def request(*values: float) -> dict[str, Any]:
    return {"id": "r7", "inputs": [tensor("x", values)]}


def tensor(name: str, values: Any) -> dict[str, Any]:
    return {"name": name, "datatype": "FP32", "shape": [len(values)], "data": list(values)}


def client(application: Application, address: str = "127.0.0.1") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(application, client=(address, 1))  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://testserver")


async def repeat(url: str, variant: str, body: bytes) -> tuple[int, bytes]:
    """A model that repeats every row as often as its value says."""
    data = orjson.loads(body)["inputs"][0]["data"]
    counts = {"name": FAN_OUT, "datatype": "INT64", "shape": [len(data)], "data": [int(x) for x in data]}
    rows = [x for x in data for _ in range(int(x))]
    return 200, orjson.dumps({"outputs": [counts, tensor("x", rows)]})


def queue(stage: str = "s", **options: Any) -> Application:
    given = {"sender": repeat, "replicas": {REPLICA: ("small",)}, "batch_timeout_s": 0, **options}
    return QueueServer("p", stage, **given).application()


class Wire:
    """Takes the router's posts to the queues; keeps what it was sent."""

    def __init__(self, **queues: Application) -> None:
        self._clients = {name: client(application) for name, application in queues.items()}
        self.sent: list[tuple[str, dict[str, Any], Mapping[str, str]]] = []

    async def __call__(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        name = url.split("/")[2]
        self.sent.append((name, orjson.loads(body), headers))
        if name not in self._clients:
            raise ConnectionLostError(url)
        answer = await self._clients[name].post("/" + url.split("/", 3)[3], content=body, headers=headers)
        return answer.status_code, answer.content, answer.headers


def router(wire: Wire, *stages: str, **options: Any) -> httpx.AsyncClient:
    server = RouterServer("p", [(name, f"http://{name}") for name in stages], post=wire, **options)
    return client(server.application())


async def test_a_queue_answers_with_the_requests_id_and_counts() -> None:
    async with client(queue()) as http:
        answer = await http.post("/v2/models/s/infer", json=request(2, 1))
        assert answer.status_code == 200
        assert answer.json() == {
            "model_name": "s",
            "id": "r7",
            "outputs": [
                {"name": FAN_OUT, "datatype": "INT64", "shape": [2], "data": [2, 1]},
                tensor("x", [2, 2, 1]),
            ],
        }
        text = (await http.get("/metrics")).text
        assert 'ipa_queue_items_total{outcome="answered",pipeline="p",stage="s"} 2.0' in text
        assert 'ipa_queue_items_total{outcome="dropped",pipeline="p",stage="s"} 0.0' in text
        assert 'ipa_queue_arrivals_total{part="1",pipeline="p",stage="s"} 2.0' in text
        assert 'ipa_queue_retries_total{pipeline="p",stage="s"} 0.0' in text
        assert 'ipa_queue_stage_seconds_count{part="1",pipeline="p",stage="s"} 1.0' in text


async def test_a_body_over_the_bound_is_a_413_and_unknown_paths_are_404_and_405() -> None:
    async def nothing() -> None:
        return None

    small = Application(
        {("POST", "/x"): lambda call: nothing()}, start=nothing, stop=nothing, limits=BodyLimits(9)
    )  # type: ignore[dict-item,return-value]
    async with client(small) as http:
        assert (await http.post("/x", content=b"0123456789")).status_code == 413
        assert (await http.get("/x")).status_code == 405
        assert (await http.get("/y")).json()["code"] == "not_found"


async def test_an_answer_names_the_variants_that_served_each_stage() -> None:
    wire = Wire(detect=queue("detect"), read=queue("read", replicas={REPLICA: ("large", "tiny")}))
    async with router(wire, "detect", "read") as http:
        answer = await http.post("/v2/models/p/infer", json=request(1))
        assert answer.headers["ipa-variants"] == "detect=small, read=large"
        assert answer.headers["seldon-puid"]
    unknown = Wire(s=queue(replicas={REPLICA: ("",)}))
    async with router(unknown, "s") as http:
        assert "ipa-variants" not in (await http.post("/v2/models/p/infer", json=request(1))).headers


async def test_the_admin_address_changes_the_configuration_for_the_supervisor_only() -> None:
    application = queue(replicas={}, admin_token="t0k3n")
    with_token = {"authorization": "Bearer t0k3n", "host": "127.0.0.1:9000"}
    async with client(application) as http:
        http.headers.update(with_token)
        assert (await http.get("/v2/health/ready")).status_code == 503
        replicas = [{"url": REPLICA, "variant": "large", "lighter": ["small"], "heavier": ["huge"]}]
        profiled = {"large": [0.2, 0.1], "small": [0.05, 0.02]}
        config = {
            **{"batch_size": 8, "largest_batch_size": 16},
            **{"replicas": replicas, "profiled_s": profiled},
        }
        assert (await http.put("/admin/config", json={"batch_size": 0})).status_code == 422
        answer = await http.put("/admin/config", json=config)
        assert answer.json() == {
            "batch_size": 8,
            "largest_batch_size": 16,
            "batch_timeout_s": 0,
            "profiled_s": profiled,
            "waiting_items": 0,
            "replicas": replicas,
            "in_flight": [],
            "draining": [],
            "suspects": [],
        }
        assert (await http.get("/v2/health/ready")).status_code == 200
    async with client(application, "192.0.2.1") as http:
        http.headers.update(with_token)
        assert (await http.put("/admin/config", json={"batch_size": 1})).status_code == 403
        assert (await http.get("/admin/config")).status_code == 403


@pytest.mark.parametrize(
    "config",
    [
        {"batch_size": 0},
        {"batch_size": True},
        {"profiled_s": [0.1]},
        {"profiled_s": {"large": [0, 0.1]}},
        {"profiled_s": {"large": 0.1}},
        {"batch_size": 2.5},
        {"batch_timeout_s": -1},
        {"batch_timeout_s": "1"},
        {"replicas": "http://127.0.0.1:1"},
        {"replicas": ["file:///etc/passwd"]},
        {"replicas": ["http://127.0.0.1:1/path"]},
        {"replicas": ["http://127.0.0.1:123456"]},
        {"replicas": ["http://[::1"]},
        {"replicas": [{"url": 3}]},
        {"largest_batch_size": 0},
        {"replicas": [{"url": "http://127.0.0.1:1", "lighter": "small"}]},
        {"replicas": [{"url": "http://127.0.0.1:1", "lighter": [3]}]},
        {"replicas": [{"url": "http://127.0.0.1:1", "heavier": [3]}]},
        {"replicas": [{"url": "http://127.0.0.1:1", "in_flight": 0}]},
        {"batchsize": 3},
        [],
    ],
)
def test_a_wrong_configuration_is_refused(config: Any) -> None:
    with pytest.raises(InputError, match=r"must be|unknown key"):
        parse_config(config)


async def test_the_router_chains_stages_without_fan_out_and_passes_the_budget() -> None:
    wire = Wire(a=queue("a"), b=queue("b"))
    async with router(wire, "a", "b", drop_after_s=5) as http:
        answer = await http.post("/v2/models/p/infer", json=request(2, 1), headers={"seldon-puid": "me"})
        assert answer.json()["outputs"][1] == tensor("x", [2, 2, 2, 2, 1])
        assert answer.headers["seldon-puid"] == "me"
        text = (await http.get("/metrics")).text
    (_, first, first_headers), (_, second, second_headers) = wire.sent
    assert first == request(2, 1)
    assert second == {"id": "r7", "inputs": [tensor("x", [2, 2, 1])]}
    budgets = [float(headers["ipa-budget-ms"]) for headers in (first_headers, second_headers)]
    assert 5000 >= budgets[0] > budgets[1] > 0
    assert second_headers["seldon-puid"] == "me"
    assert 'ipa_router_requests_total{outcome="answered",part="1",pipeline="p"} 1.0' in text
    assert 'ipa_router_requests_total{outcome="failed",part="1",pipeline="p"} 0.0' in text


async def test_zero_rows_are_answered_without_asking_the_next_stage() -> None:
    wire = Wire(a=queue("a"))
    async with router(wire, "a", "b") as http:
        answer = await http.post("/v2/models/p/infer", json=request(0))
        assert (answer.status_code, answer.json()["outputs"]) == (200, [])


@pytest.mark.parametrize(
    ("stages", "headers", "body", "status", "outcome"),
    [
        (["a"], {"ipa-budget-ms": "0"}, request(1), 504, "dropped"),
        (["full"], {}, request(1), 503, "dropped"),
        (["idle"], {"ipa-budget-ms": "5"}, request(1), 504, "dropped"),
        (["gone"], {"ipa-budget-ms": "50"}, request(1), 502, "failed"),
        (["broken"], {}, request(1), 502, "failed"),
        (["a"], {}, {"inputs": 3}, 400, "refused"),
        (["a"], {"ipa-budget-ms": "soon"}, request(1), 400, "refused"),
        (["a", "other"], {}, request(1), 502, "failed"),
    ],
)
async def test_what_is_not_answered_says_why_and_is_counted(
    stages: list[str], headers: dict[str, str], body: Any, status: int, outcome: str
) -> None:
    async def broken(url: str, variant: str, body: bytes) -> tuple[int, bytes]:
        return 500, b"no"

    wire = Wire(
        a=queue("a"),
        full=queue("full", max_items=0),
        idle=queue("idle", replicas={}),
        broken=queue("broken", sender=broken),
        other=queue("not-other"),
    )
    async with router(wire, *stages) as http:
        answer = await http.post("/v2/models/p/infer", json=body, headers=headers)
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        assert (answer.json()["code"] == "dropped") is (outcome == "dropped")
        if status >= 500:
            assert answer.json()["detail"].startswith(f"stage {stages[-1]!r}")
        if outcome == "dropped":
            # Whoever asked sees how much time there was, and where to change it.
            had = "ipa-budget-ms" if headers else "drop_after"
            assert f" s by {had}, the SLA is " in answer.json()["detail"]
        text = (await http.get("/metrics")).text
        assert f'ipa_router_requests_total{{outcome="{outcome}",part="1",pipeline="p"}} 1.0' in text
        assert 'ipa_router_arrivals_total{pipeline="p"} 1.0' in text


class Outage:
    """A queue that fails as `failures` say, one request each, and then is the queue given."""

    def __init__(self, wire: Wire, *failures: ConnectionLostError) -> None:
        self._wire, self._failures = wire, list(failures)
        self.asked = 0

    async def __call__(self, url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        self.asked += 1
        if self._failures:
            raise self._failures.pop(0)
        return await self._wire(url, body, headers)


@pytest.mark.parametrize(
    ("refused", "broken", "status", "attempts"),
    [(3, 0, 200, 4), (0, 1, 200, 2), (1, 1, 200, 3), (0, 2, 502, 2)],
)
async def test_the_router_sends_again_to_a_queue_that_was_away(
    refused: int, broken: int, status: int, attempts: int
) -> None:
    failures = [
        *(ConnectionLostError("refused") for _ in range(refused)),
        *(ConnectionLostError("reset", was_sent=True) for _ in range(broken)),
    ]
    outage = Outage(Wire(a=queue("a")), *failures)
    async with client(RouterServer("p", [("a", "http://a")], post=outage).application()) as http:
        answer = await http.post("/v2/models/p/infer", json=request(1))
    assert (answer.status_code, outage.asked) == (status, attempts)
    if status == 502:
        assert "stage 'a'" in answer.json()["detail"]


async def test_a_router_without_stages_says_so() -> None:
    async with client(RouterServer("p", []).application()) as http:
        answer = await http.post("/v2/models/p/infer", json=request(1))
    assert (answer.status_code, "has no stages" in answer.text) == (502, True)


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"outputs": [{}]}', b'{"outputs": [{"name": 1}]}'])
async def test_an_answer_of_something_else_than_a_queue_is_a_502(answer: bytes) -> None:
    async def something(url: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        return 200, answer, {}

    stages = [("a", "http://a"), ("b", "http://b")]
    async with client(RouterServer("p", stages, post=something).application()) as http:
        response = await http.post("/v2/models/p/infer", json=request(1))
        assert (response.status_code, response.json()["code"]) == (502, "failed")
        bad_puid = await http.post("/v2/models/p/infer", json=request(1), headers={"seldon-puid": "a b"})
        assert bad_puid.status_code == 400
