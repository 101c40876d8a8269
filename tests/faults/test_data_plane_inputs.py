"""R5: whatever clients send and models answer, it fails alone: the others are answered, each request once."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler
from typing import Any

import httpx
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipa.dataplane.client import Client, OversizedAnswerError
from ipa.dataplane.http import Application, BodyLimits, Call, Response
from ipa.dataplane.queue import QueueServer
from ipa.dataplane.router import RouterServer
from ipa.dataplane.tensors import MAX_TENSORS
from ipa.model.serving import FAN_OUT
from tests.fakes.answering import Listening, Quiet
from tests.faults.table import Case

REPLICA = "http://127.0.0.1:1"
EXAMPLES = int(os.environ.get("IPA_FAULT_EXAMPLES", "25"))
# The value of an item that makes the model answer wrongly; the others are below 1000.
BAD = 1313.0
# Longer than any answer here takes: a request without one shows.
GIVE_UP_S = 10.0
INFER = "/v2/models/p/infer"


def tensor(*values: Any, **changes: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [len(values)], "data": list(values), **changes}


def body(*values: Any, **changes: Any) -> bytes:
    return orjson.dumps({"inputs": [tensor(*values, **changes)]})


class Model:
    """Repeats its inputs, or answers by `wrong` where an item is BAD; counts its batches."""

    def __init__(self, wrong: Callable[[int], tuple[int, bytes]] | None = None) -> None:
        self.wrong = wrong
        self.batches: list[int] = []

    async def __call__(self, url: str, variant: str, sent: bytes) -> tuple[int, bytes]:
        await asyncio.sleep(0)
        inputs = orjson.loads(sent)["inputs"]
        self.batches.append(inputs[0]["shape"][0])
        values = _flat(inputs[0]["data"])
        if self.wrong and BAD in values:
            return self.wrong(inputs[0]["shape"][0])
        return 200, orjson.dumps({"outputs": inputs})


def _flat(data: Sequence[Any]) -> list[Any]:
    return [value for each in data for value in (_flat(each) if isinstance(each, list) else [each])]


class World:
    """A router and a queue over ASGI, with a model in memory."""

    def __init__(self, model: Model, **options: Any) -> None:
        given = {"sender": model, "replicas": {REPLICA: ("small",)}, "batch_size": 4, "batch_timeout_s": 0.01}
        self.queue = QueueServer("p", "detect", **{**given, **options}).application()
        self._to_queue = self._client(self.queue)
        self.router = RouterServer("p", [("detect", "http://queue")], post=self._post).application()

    @staticmethod
    def _client(application: Application) -> httpx.AsyncClient:
        # The server's errors are to be answers here too.
        transport = httpx.ASGITransport(application, raise_app_exceptions=False)  # type: ignore[arg-type]
        return httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1")

    async def _post(
        self, url: str, sent: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes, Mapping[str, str]]:
        answer = await self._to_queue.post("/v2/models/detect/infer", content=sent, headers=headers)
        return answer.status_code, answer.content, answer.headers

    async def ask(self, *bodies: tuple[bytes, Mapping[str, str]]) -> list[httpx.Response]:
        async with self._client(self.router) as http:
            sent = (http.post(INFER, content=content, headers=headers) for content, headers in bodies)
            async with asyncio.timeout(GIVE_UP_S):
                return await asyncio.gather(*sent)


async def among_others(
    world: World, content: bytes, headers: Mapping[str, str] | None = None
) -> tuple[httpx.Response, int]:
    """The answer to a bad request between good ones, and how many of the others failed."""
    good = [(body(float(value)), {}) for value in range(6)]
    answers = await world.ask(*good[:2], (content, headers or {}), *good[2:4])
    later = await world.ask(*good[4:])
    bad = answers.pop(2)
    failed = sum(
        answer.status_code != 200 or answer.json()["outputs"][0]["data"] != [float(value)]
        for value, answer in enumerate([*answers, *later])
    )
    return bad, failed


@pytest.mark.parametrize("header", ["nan", "inf", "-inf", "-1", "1e999", "1e18", "soon", ""])
def test_r5_a_budget_that_is_no_time_is_the_senders_400(case: Case, header: str) -> None:
    answer, failed = asyncio.run(among_others(World(Model()), body(1.0), {"ipa-budget-ms": header}))
    case.equal("status", answer.status_code, 400)
    case.equal("others failed", failed, 0)
    assert "ipa-budget-ms" in answer.json()["error"]


DEEP = b'{"a":' * 300 + b"1" + b"}" * 300
REQUESTS: dict[str, bytes] = {
    "no JSON": b"\xff{",
    "NaN": b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[NaN]}]}',
    "infinite": b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1],"data":[1e999]}]}',
    "no inputs": b'{"inputs":[]}',
    "null for a tensor": b'{"inputs":[null]}',
    "name null": body(1.0, name=None),
    "name of 1 MB": body(1.0, name="x" * 1_000_000),
    "unknown datatype": body(1.0, datatype="FP31"),
    "shape of bools": body(1.0, shape=[True]),
    "shape negative": body(1.0, shape=[-1, -1]),
    "shape without dimensions": body(1.0, shape=[]),
    "shape of many dimensions": body(1.0, shape=[1] * 1000),
    "shape whose product overflows": body(1.0, shape=[2**40, 2**40]),
    "shape too large": body(1.0, shape=[1, 2**62]),
    "data too short": body(1.0, shape=[2, 2]),
    "data no list": body(data="ab", shape=[2]),
    "null in data": body(1.0, None),
    "bool in numbers": body(1.0, True),
    "text in numbers": body("1"),
    "float in integers": body(1.5, datatype="INT32"),
    "integer out of range": body(300, datatype="UINT8"),
    "ragged": body(shape=[2, 2], data=[[1.0], [2.0, 3.0, 4.0]]),
    "nested where flat": body(shape=[3], data=[1.0, [2.0], 3.0]),
    "nested too deep": body(shape=[2], data=[[1.0], [2.0]]),
    "parameters no object": body(1.0, parameters=[1]),
    "parameters too deep to pass on": body(1.0, parameters={"a": 0}).replace(b'"a":0', b'"a":' + DEEP),
    "parameters of 1 MB": body(1.0, parameters={"a": "x" * 1_000_000}),
    "request parameters no object": body(1.0)[:-1] + b',"parameters":3}',
    "id no string": body(1.0)[:-1] + b',"id":{"a":1}}',
    "two of one name": orjson.dumps({"inputs": [tensor(1.0), tensor(2.0)]}),
    "too many tensors": orjson.dumps(
        {"inputs": [tensor(1.0, name=f"x{at}") for at in range(MAX_TENSORS + 1)]}
    ),
    "more items than may wait": body(*[1.0] * 5000),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_r5_a_request_that_is_wrong_is_the_senders_400(case: Case, name: str) -> None:
    model = Model()
    answer, failed = asyncio.run(among_others(World(model), REQUESTS[name]))
    case.equal("status", answer.status_code, 400)
    case.equal("others failed", failed, 0)
    case.equal("items a model saw", sum(model.batches), 6)
    problem = answer.json()
    # As problem details, and as V2 has it.
    assert problem["error"] == problem["detail"]
    assert len(answer.content) < 5_000


def outputs(*tensors: Any) -> tuple[int, bytes]:
    return 200, orjson.dumps({"outputs": list(tensors)})


def fan_out(data: Any) -> dict[str, Any]:
    return tensor(*data, name=FAN_OUT, datatype="INT64")


ANSWERS: dict[str, Callable[[int], tuple[int, bytes]]] = {
    "error": lambda items: (500, b"\xff" * 10_000),
    "redirect": lambda items: (302, b""),
    "no JSON": lambda items: (200, b"<html>"),
    "a list": lambda items: (200, b"[]"),
    "outputs missing": lambda items: (200, b"{}"),
    "outputs null": lambda items: (200, b'{"outputs":null}'),
    "no outputs": lambda items: outputs(),
    "tensor null": lambda items: outputs(None),
    "name missing": lambda items: outputs({"datatype": "FP32", "shape": [1], "data": [1.0]}),
    "one row too few": lambda items: outputs(tensor(*[1.0] * (items - 1))),
    "shape that does not fit": lambda items: outputs(tensor(*[1.0] * items, shape=[items, 3])),
    "fan_out null": lambda items: outputs(fan_out([None] * items), tensor(*[1.0] * items)),
    "fan_out negative": lambda items: outputs(fan_out([-1] * items), tensor(*[1.0] * items)),
    "fan_out negative with the right sum": lambda items: outputs(
        fan_out([-1, *[1] * (items - 2), 3] if items > 1 else [-1]), tensor(*[1.0] * items)
    ),
    "fan_out a matrix": lambda items: outputs(
        {**fan_out([1] * items), "shape": [items, 1]}, tensor(*[1.0] * items)
    ),
    "fan_out enormous": lambda items: outputs(fan_out([2**62] * items), tensor(*[1.0] * items)),
    "fan_out of text": lambda items: outputs({**fan_out(["1"] * items), "datatype": "BYTES"}, tensor(1.0)),
    "two of one name": lambda items: outputs(tensor(*[1.0] * items), tensor(*[1.0] * items)),
    "too many tensors": lambda items: outputs(*[tensor(*[1.0] * items, name=f"y{at}") for at in range(65)]),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_r5_an_answer_that_is_wrong_is_the_models_502(case: Case, name: str) -> None:
    model = Model(ANSWERS[name])
    answer, failed = asyncio.run(among_others(World(model), body(BAD)))
    case.equal("status", answer.status_code, 502)
    case.equal("others failed", failed, 0)
    # Once with the others, once alone; those that shared its batch once more each.
    case.at_most("batches", len(model.batches), 9)
    detail = answer.json()["detail"]
    assert "stage 'detect', variant 'small': " in detail
    assert len(detail) < 1_000


def test_r5_a_row_without_a_number_fails_its_request_alone(case: Case) -> None:
    """A model's NaN travels as null: the other rows of the batch are answers."""

    async def nan_for_bad(url: str, variant: str, sent: bytes) -> tuple[int, bytes]:
        batches.append(1)
        (given,) = orjson.loads(sent)["inputs"]
        data = [[float("nan")] if value == [BAD] else value for value in given["data"]]
        return 200, orjson.dumps({"outputs": [{**given, "data": data}]})

    async def scenario() -> list[httpx.Response]:
        world = World(nan_for_bad, batch_timeout_s=0.2)  # type: ignore[arg-type]
        rows = ([[1.0]], [[BAD]], [[2.0], [3.0]])
        return await world.ask(*[(body(shape=[len(row), 1], data=row), {}) for row in rows])

    batches: list[int] = []
    first, bad, second = asyncio.run(scenario())
    case.equal("status", bad.status_code, 502)
    case.equal("others failed", [first.status_code, second.status_code].count(502), 0)
    case.equal("batches", len(batches), 1)
    assert second.json()["outputs"][0]["data"] == [[2.0], [3.0]]
    assert "NaN" in bad.json()["detail"]


def test_r5_only_requests_that_are_alike_share_a_batch(case: Case) -> None:
    """Each differs in one thing that a model may go by; a parameter of 1 is not one of true."""
    one = tensor(1.0)
    different = [
        [one],
        [{**one, "name": "z"}],
        [{**one, "datatype": "FP64"}],
        [{**one, "shape": [1, 1]}],
        [{**one, "shape": [1, 1], "data": [[1.0]]}],
        [{**one, "parameters": {"a": 1}}],
        [{**one, "parameters": {"a": True}}],
        [{**one, "parameters": {"a": "1"}}],
        [one, {**one, "name": "y"}],
    ]
    bodies = [orjson.dumps({"inputs": inputs}) for inputs in different]
    bodies += [orjson.dumps({"inputs": [one], "parameters": {"threshold": level}}) for level in (1, 2)]
    batches: list[dict[str, Any]] = []

    async def remember(url: str, variant: str, sent: bytes) -> tuple[int, bytes]:
        batches.append(orjson.loads(sent))
        return 200, orjson.dumps({"outputs": batches[-1]["inputs"]})

    async def scenario() -> list[httpx.Response]:
        world = World(remember, batch_size=64)  # type: ignore[arg-type]
        return await world.ask(*[(each, {}) for each in bodies])

    answers = asyncio.run(scenario())
    case.equal("answered", [answer.status_code for answer in answers].count(200), len(bodies))
    case.equal("batches", len(batches), len(bodies))
    # What the client asked of the model reaches the model.
    assert {"threshold": 2} in [each.get("parameters") for each in batches]


VALUE = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=5), st.just(BAD)
)
JSON = st.recursive(
    VALUE, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4)
)
MOSTLY = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", FAN_OUT, "y"]) | JSON,
        "datatype": st.sampled_from(["FP32", "INT64", "BOOL", "BYTES"]) | JSON,
        "shape": st.lists(st.integers(-1, 4) | st.sampled_from([2**31, 2**63]), max_size=3) | JSON,
        "data": st.lists(
            st.floats(allow_nan=False) | st.integers(-2, 3) | st.lists(VALUE, max_size=3), max_size=4
        )
        | JSON,
        "parameters": JSON,
    },
)
MESSAGE = st.one_of(
    JSON,
    st.fixed_dictionaries(
        {"inputs": st.lists(MOSTLY | JSON, max_size=3), "outputs": st.lists(MOSTLY | JSON, max_size=3)},
        optional={"id": JSON, "parameters": JSON},
    ),
)
FUZZ = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))


def encoded(message: Any) -> bytes:
    """As any JSON library would write it, with NaN, infinity and numbers beyond 64 bits."""
    return json.dumps(message).encode("utf-8", "surrogatepass")


def test_r5_any_json_as_a_request_ends_once_and_fails_nobody_else(case: Case) -> None:
    ends: dict[int, int] = {}

    @FUZZ
    @given(MESSAGE)
    def attempt(message: Any) -> None:
        answer, failed = asyncio.run(among_others(World(Model()), encoded(message)))
        assert failed == 0
        assert answer.status_code in (200, 400)
        ends[answer.status_code] = ends.get(answer.status_code, 0) + 1

    attempt()
    case.note("requests", sum(ends.values()))
    case.equal("others failed", 0, 0)


def test_r5_any_json_as_an_answer_fails_alone(case: Case) -> None:
    ends: dict[int, int] = {}

    @FUZZ
    @given(MESSAGE, st.sampled_from([200, 200, 200, 204, 400, 404, 500]))
    def attempt(message: Any, status: int) -> None:
        model = Model(lambda items: (status, encoded(message)))
        answer, failed = asyncio.run(among_others(World(model), body(BAD)))
        assert failed == 0
        # Some answers are right by chance, for the one item.
        assert answer.status_code in (200, 502)
        ends[answer.status_code] = ends.get(answer.status_code, 0) + 1

    attempt()
    case.note("answers", sum(ends.values()))
    case.equal("others failed", 0, 0)


def test_r5_the_bytes_of_all_requests_are_bounded(case: Case) -> None:
    """One body, and all that are being served together."""
    busy, go_on = asyncio.Event(), asyncio.Event()

    async def wait(call: Call) -> Response:
        busy.set()
        await go_on.wait()
        return Response(call.body[:1])

    async def nothing() -> None:
        return None

    async def scenario() -> list[int]:
        application = Application(
            {("POST", "/x"): wait}, start=nothing, stop=nothing, limits=BodyLimits(100, 150)
        )
        async with World._client(application) as http:
            first = asyncio.create_task(http.post("/x", content=b"a" * 100))
            await busy.wait()
            too_large = await http.post("/x", content=b"a" * 101)
            together = await http.post("/x", content=b"a" * 100)
            go_on.set()
            statuses = [(await first).status_code, too_large.status_code, together.status_code]
            # What was refused or served is not held any more.
            return [*statuses, (await http.post("/x", content=b"a" * 100)).status_code]

    case.equal("statuses", asyncio.run(scenario()), [200, 413, 503, 200])


class Flood(Quiet, BaseHTTPRequestHandler):
    """A model server whose answer has no end."""

    sent = 0

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                Flood.sent += self.wfile.write(b"x" * 65536)
        except OSError:
            self.close_connection = True


def test_r5_an_answer_without_an_end_is_cut_off(case: Case) -> None:
    async def scenario(url: str) -> str:
        client = Client(max_answer_bytes=1_000_000)
        await client.open()
        try:
            await client.post(url, b"{}", {})
        except OversizedAnswerError as error:
            return str(error)
        finally:
            await client.close()
        return ""

    with Listening(Flood) as server:
        assert "1000000 bytes" in asyncio.run(scenario(server.url))
    # Beyond the bound only what the sockets hold.
    case.at_most("bytes taken", Flood.sent, 16_000_000)
