"""The cost of one body: counted before it is made, in one account for all, off the event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import httpx
import orjson
import pytest

from ipa.dataplane import http, stagequeue, tensors
from ipa.dataplane.http import Application, BodyLimits, Call, Response
from ipa.dataplane.queue import QueueServer
from ipa.dataplane.tensors import INLINE_BYTES

REPLICA = "http://127.0.0.1:1"
LIMITS = BodyLimits(1_000_000, 50_000_000)
INFER = "/v2/models/s/infer"


class Stage:
    """A queue whose model repeats its inputs."""

    def __init__(self, limits: BodyLimits = LIMITS) -> None:
        self.application = QueueServer(
            "p", "s", sender=self._send, replicas={REPLICA: ("small",)}, batch_timeout_s=0, limits=limits
        ).application()

    async def _send(self, url: str, variant: str, body: bytes) -> tuple[int, bytes]:
        return 200, orjson.dumps({"outputs": orjson.loads(body)["inputs"]})

    def held_bytes(self) -> int:
        return self.application._budget.held_bytes

    async def post(self, content: bytes, **headers: str) -> httpx.Response:
        transport = httpx.ASGITransport(self.application)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            answer = await client.post(
                INFER, content=content, headers={it.replace("_", "-"): text for it, text in headers.items()}
            )
        assert self.held_bytes() == 0
        return answer


def body(data: bytes, shape: str) -> bytes:
    return b'{"inputs":[{"name":"x","datatype":"INT64","shape":%s,"data":[%s]}]}' % (shape.encode(), data)


@pytest.mark.parametrize(
    ("content", "most_loads"),
    [
        (body(b",".join([b"[]"] * 300_000), "[300000]"), 0),
        (body(b",".join([b"{}"] * 300_000), "[300000]"), 0),
        (body(b",".join([b"1"] * 200_000), "[200000]"), 0),
        (b"[" * 900_000, 0),
        # Those in strings are text.
        (body(b'"' + b",[{" * 200_000 + b'"', "[1]").replace(b"INT64", b"BYTES"), 1),
    ],
    ids=["lists", "objects", "numbers", "deep", "text"],
)
async def test_values_are_counted_before_they_are_made(
    content: bytes, most_loads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    loads = orjson.loads

    def count(text: bytes) -> Any:
        made.append(len(text))
        return loads(text)

    stage = Stage()
    monkeypatch.setattr(tensors.orjson, "loads", count)
    answer = await stage.post(content)
    large = [size for size in made if size > INLINE_BYTES]
    assert len(large) <= most_loads * 3
    if most_loads:
        assert answer.status_code == 200
    else:
        assert answer.status_code == 413
        assert f"more than {LIMITS.values} values" in answer.json()["detail"]


@pytest.mark.parametrize("shape", [[1], [124_999], [1, 2**40], [-1], "all", None])
async def test_elements_are_read_no_further_than_the_shape_says(
    shape: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = bytes(800_000)
    head = {"name": "x", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": len(raw)}}
    text = orjson.dumps({"inputs": [head]})
    read: list[int] = []
    elements = tensors._elements

    def count(given: bytes, values: int) -> list[bytes]:
        read.append(values)
        return elements(given, values)

    monkeypatch.setattr(tensors, "_elements", count)
    answer = await Stage().post(text + raw, inference_header_content_length=str(len(text)))
    assert answer.status_code == 400
    assert "'x'" in answer.json()["detail"]
    assert read in ([], [shape[0]] if shape and shape != "all" else [])


async def test_what_takes_long_is_not_done_by_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: dict[str, set[bool]] = {}

    def record_thread(module: Any, name: str) -> None:
        function = getattr(module, name)

        def tell(*given: Any, **named: Any) -> Any:
            threads.setdefault(name, set()).add(threading.current_thread() is threading.main_thread())
            return function(*given, **named)

        monkeypatch.setattr(module, name, tell)

    record_thread(http, "parse_object")
    record_thread(tensors, "parse_request")
    record_thread(tensors, "dump_with_bytes")
    record_thread(stagequeue, "parse_answer")
    record_thread(stagequeue, "dump")
    answer = await Stage().post(body(b",".join([b"1234567"] * 50_000), "[1, 50000]"))
    assert answer.status_code == 200
    assert len(answer.json()["outputs"][0]["data"]) == 50_000
    assert set(threads) == {"parse_object", "parse_request", "dump_with_bytes", "parse_answer", "dump"}
    assert threads.pop("dump_with_bytes") == {False}
    assert threads == {name: {False} for name in threads}


def test_long_data_is_written_in_parts_that_are_the_same_json() -> None:
    values = [*range(3 * tensors.WRITTEN_VALUES // 2)]
    tensor = tensors.Tensor("x", "INT64", (len(values),), values)
    assert orjson.loads(tensors.dump("inputs", [tensor]))["inputs"][0]["data"] == values


async def test_what_is_made_of_a_body_counts_until_it_is_answered() -> None:
    held: list[int] = []
    stage = Stage()

    async def look(call: Call) -> Response:
        text, _ = tensors.json_part(call.body, None)
        await call.parse_object(text)
        held.append(stage.held_bytes())
        return Response(b"{}")

    stage.application.routes = {("POST", INFER): look}
    content = body(b",".join([b"1"] * 1000), "[1000]")
    await stage.post(content)
    assert held[0] >= len(content) + 1000 * tensors.VALUE_BYTES


async def test_a_body_that_is_dropped_for_others_is_told_so() -> None:
    """The largest one that has not arrived makes room."""
    application = Application(
        {("POST", INFER): _echo}, start=_nothing, stop=_nothing, limits=BodyLimits(100, 150)
    )
    rest = asyncio.Event()
    sent: list[Mapping[str, Any]] = []
    parts = iter([b"a" * 90, b"a"])

    async def slowly() -> dict[str, Any]:
        part = next(parts)
        if part == b"a":
            await rest.wait()
        return {"type": "http.request", "body": part, "more_body": True}

    async def send(message: Mapping[str, Any]) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": INFER, "headers": [], "client": ("", 0)}
    slow = asyncio.create_task(application(scope, slowly, send))
    await asyncio.sleep(0)
    transport = httpx.ASGITransport(application)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        assert (await client.post(INFER, content=b"b" * 70)).status_code == 200
    await slow
    assert sent[0]["status"] == 503


async def _echo(call: Call) -> Response:
    return Response(call.body)


async def _nothing() -> None:
    return None
