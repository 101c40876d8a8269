"""V2 as standard clients speak it: binary tensors, declared inputs, named outputs."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import httpx
import orjson
import pytest

from ipa.dataplane.client import ConnectionLostError
from ipa.dataplane.http import Application
from ipa.dataplane.queue import QueueServer
from ipa.dataplane.router import RouterServer
from ipa.dataplane.tensors import (
    JSON_LENGTH_HEADER,
    MAX_VALUES,
    UnknownOutputError,
    dump_with_bytes,
    fill,
    json_part,
    parse,
    parse_request,
)
from ipa.dataplane.v2 import UNDECLARED, DeclaredTensor, parse_model
from ipa.model.errors import InputError
from ipa.serving.expectation import parse_timing, server_timing

REPLICA = "http://127.0.0.1:1"
NOTHING: Any = None
DECLARED = {
    "platform": "numpy",
    "inputs": [
        {"name": "x", "datatype": "FP32", "shape": [-1, 2]},
        {"name": "word", "datatype": "BYTES", "shape": [-1], "parameters": {"content_type": "base64"}},
    ],
    "outputs": [{"name": name, "datatype": "FP32", "shape": [-1, 2]} for name in ("x", "z")],
}
X = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}
WORD = {"name": "word", "datatype": "BYTES", "shape": [2], "data": ["YQ==", "Yg=="]}


def client(application: Application) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(application)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://testserver")


class Stage:
    """A queue whose model hands on its inputs and adds `z`; `asked` are the requests that reach the model."""

    def __init__(self, name: str = "s", declares: Any = DECLARED) -> None:
        self.asked: list[Any] = []
        self._declares = declares
        server = QueueServer(
            "p",
            name,
            sender=self._send,
            describe=self._describe,
            replicas={REPLICA: ("v",)},
            batch_size=4,
            batch_timeout_s=0,
        )
        self.application = server.application()

    async def _send(self, url: str, variant: str, body: bytes) -> tuple[int, bytes]:
        request = orjson.loads(body)
        self.asked.append(request)
        x = next(it for it in request["inputs"] if it["name"] == "x")
        others = [it for it in request["inputs"] if it["name"] != "z"]
        return 200, orjson.dumps({"outputs": [*others, {**x, "name": "z"}]})

    async def _describe(self) -> bytes:
        if self._declares is None:
            raise ConnectionLostError("no replica")
        return orjson.dumps(self._declares)

    async def learn(self, http: httpx.AsyncClient, name: str = "s") -> None:
        """Have it ask for what the model declares: the lifespan's tasks do not run here."""
        assert (await http.get(f"/v2/models/{name}")).status_code == 200


def pipeline(*stages: Stage) -> Application:
    names = [f"s{number}" for number in range(len(stages))]

    async def ask(method: str, url: str, **how: Any) -> httpx.Response:
        stage = stages[names.index(url.split("/")[2])]
        async with client(stage.application) as http:
            return await http.request(method, "/" + url.split("/", 3)[3], **how)

    async def post(url: str, body: bytes, headers: Mapping[str, str]) -> tuple[int, bytes, Mapping[str, str]]:
        answer = await ask("POST", url, content=body, headers=headers)
        return answer.status_code, answer.content, answer.headers

    async def get(url: str, within_s: float) -> tuple[int, bytes]:
        answer = await ask("GET", url)
        return answer.status_code, answer.content

    return RouterServer("p", [(it, f"http://{it}") for it in names], post=post, get=get).application()


def binary(request: Mapping[str, Any], *raw: bytes) -> dict[str, Any]:
    text = orjson.dumps(request)
    return {"content": b"".join((text, *raw)), "headers": {JSON_LENGTH_HEADER: str(len(text))}}


@pytest.mark.parametrize(
    ("datatype", "values", "raw"),
    [
        ("BOOL", [True, False], b"\x01\x00"),
        ("INT8", [-1, 2], b"\xff\x02"),
        ("UINT16", [1, 65535], b"\x01\x00\xff\xff"),
        ("INT64", [-2, 3], struct.pack("<2q", -2, 3)),
        ("FP16", [0.5, -2.0], struct.pack("<2e", 0.5, -2.0)),
        ("BF16", [1.0, -2.0], b"\x80\x3f\x00\xc0"),
        ("FP32", [0.25, 1e30], struct.pack("<2f", 0.25, 1e30)),
        ("FP64", [0.1, 1e300], struct.pack("<2d", 0.1, 1e300)),
        ("BYTES", ["a", "größe"], b"\x01\0\0\0a\x07\0\0\0gr\xc3\xb6\xc3\x9fe"),
    ],
)
def test_values_are_the_same_as_bytes_and_as_json(datatype: str, values: list[Any], raw: bytes) -> None:
    given = {"name": "x", "datatype": datatype, "shape": [2], "parameters": {"binary_data_size": len(raw)}}
    fill([given], raw, lambda name: None, MAX_VALUES)
    assert given["data"] == pytest.approx(values) if datatype == "FP32" else given["data"] == values
    assert given["parameters"] == {}
    body, length = dump_with_bytes(parse([given], "inputs"), lambda name: True)
    assert length is not None
    assert body[length:] == raw
    [written] = orjson.loads(body[:length])["outputs"]
    assert written["parameters"] == {"binary_data_size": len(raw)}


def test_bytes_that_are_no_text_travel_as_base64_and_come_back_as_they_were() -> None:
    raw = b"\x02\0\0\0\xff\xfe\x01\0\0\0a"
    given = {"name": "x", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": len(raw)}}
    fill([given], raw, lambda name: None, MAX_VALUES)
    assert (given["parameters"], given["data"]) == ({"content_type": "base64"}, ["//4=", "YQ=="])
    body, length = dump_with_bytes(parse([given], "inputs"), lambda name: True)
    assert body[length:] == raw
    assert orjson.loads(body[:length])["outputs"][0]["parameters"] == {"binary_data_size": len(raw)}


@pytest.mark.parametrize(
    ("tensor", "raw", "says"),
    [
        ({"datatype": "FP32", "shape": [2]}, b"\0" * 7, "do not fit FP32"),
        ({"datatype": "FP32", "shape": [3]}, b"\0" * 8, "do not fit FP32"),
        ({"datatype": "FP32", "shape": [2**40]}, b"\0" * 8, "more than 100 values"),
        ({"datatype": "FP32", "shape": ["2"]}, b"\0" * 8, "shape of whole numbers"),
        ({"datatype": "FP32", "shape": [1]}, struct.pack("<f", float("nan")), "NaN"),
        ({"datatype": "FP64", "shape": [1]}, struct.pack("<d", float("inf")), "NaN or infinity"),
        ({"datatype": "FP128", "shape": [1]}, b"\0" * 16, "no binary form"),
        ({"datatype": ["FP32"], "shape": [1]}, b"\0" * 4, "no binary form"),
        ({"shape": [1]}, b"\0" * 4, "lacks 'datatype'"),
        ({"datatype": "BYTES", "shape": [1]}, b"\x09\0\0\0a", "longer than the rest of the data"),
        ({"datatype": "BYTES", "shape": [1]}, bytes(8), "not 1 elements of BYTES"),
        ({"datatype": "BYTES", "shape": [3]}, bytes(8), "not 3 elements of BYTES"),
        ({"datatype": "BYTES", "shape": [101]}, bytes(404), "more than 100 values"),
        ({"datatype": "FP32", "shape": [1], "data": [1.0]}, b"\0" * 4, "both data and"),
        ({"datatype": "FP32", "shape": [1], "size": 9}, b"\0" * 4, "not a size within"),
        ({"datatype": "FP32", "shape": [1], "size": -1}, b"\0" * 4, "not a size within"),
        ({"datatype": "FP32", "shape": [1], "size": 4}, b"\0" * 9, "5 bytes after the tensors"),
        (
            {"datatype": "BYTES", "shape": [1], "parameters": {"content_type": "str"}},
            b"\x01\0\0\0\xff",
            "not content_type text",
        ),
    ],
)
def test_bytes_that_are_no_tensor_are_refused_in_words(tensor: Any, raw: bytes, says: str) -> None:
    size = tensor.pop("size", len(raw))
    parameters = {**tensor.get("parameters", {}), "binary_data_size": size}
    with pytest.raises(InputError, match=says):
        fill([{"name": "x", **tensor, "parameters": parameters}], raw, lambda name: None, 100)


@pytest.mark.parametrize("length", ["", "x", "-1", "9", "9" * 400, "²"])
def test_a_length_outside_the_body_is_refused(length: str) -> None:
    with pytest.raises(InputError, match="not a length"):
        json_part(b"12345", length)


async def test_a_binary_request_reaches_the_model_as_json_and_shares_batches_with_others() -> None:
    stage = Stage()
    head = {key: X[key] for key in ("name", "datatype", "shape")}
    raw = struct.pack("<4f", 1, 2, 3, 4), b"\x01\0\0\0a\x01\0\0\0b"
    inputs = [
        {**head, "parameters": {"binary_data_size": 16}},
        {"name": "word", "datatype": "BYTES", "shape": [2], "parameters": {"binary_data_size": 10}},
    ]
    async with client(stage.application) as http:
        await stage.learn(http)
        message = binary({"inputs": inputs, "parameters": {"binary_data_output": True}}, *raw)
        answer = await http.post("/v2/models/s/infer", **message)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/octet-stream"
        length = int(answer.headers[JSON_LENGTH_HEADER])
        # Base64, which the model declares, is decoded where bytes are asked for.
        assert answer.content[length:] == raw[0] + raw[1] + raw[0]
        assert [it["name"] for it in orjson.loads(answer.content[:length])["outputs"]] == [
            "x",
            "word",
            "z",
        ]
    # Nothing of how it came is told to the model: JSON of the same is of the same kind.
    assert stage.asked == [{"inputs": [X, {**WORD, "parameters": {"content_type": "base64"}}]}]


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([{**X, "name": "y"}, WORD], "input 'x' is missing"),
        ([X], "input 'word' is missing"),
        ([{**X, "datatype": "FP64"}, WORD], "'x' is FP64, not FP32"),
        (
            [{**X, "shape": [4], "data": X["data"]}, {**WORD, "shape": [4], "data": [""] * 4}],
            "shape [4], not [-1, 2]",
        ),
        ([{**X, "shape": [1, 4]}, {**WORD, "shape": [1], "data": [""]}], "shape [1, 4], not [-1, 2]"),
    ],
)
async def test_inputs_that_the_model_does_not_declare_are_a_400_before_it_is_asked(
    inputs: Any, says: str
) -> None:
    stage = Stage()
    async with client(stage.application) as http:
        await stage.learn(http)
        answer = await http.post("/v2/models/s/infer", json={"inputs": inputs})
        assert answer.status_code == 400
        assert says in answer.json()["error"], answer.json()
        assert "it takes x FP32 [-1, 2], word BYTES [-1]" in answer.json()["detail"]
        assert stage.asked == []
        # What is not declared is handed on: a stage is given all that the one before it has made.
        more = await http.post("/v2/models/s/infer", json={"inputs": [X, WORD, {**X, "name": "more"}]})
        assert more.status_code == 200


@pytest.mark.parametrize(
    ("declared", "given", "fits"),
    [
        ([-1, 3], [7, 3], True),
        ([-1, 3], [7, 4], False),
        ([-1, -1], [7], True),
        ([-1], [7, 1], True),
        ([-1], [7, 2], False),
        ([1, 3], [7, 3], True),
        ([3], [7, 3], True),
        ([-1, 3], [7, 3, 3], False),
        ([-1, -1, 3], [2, 5, 3], True),
    ],
)
def test_shapes_fit_whatever_the_number_of_items(declared: list[int], given: list[int], fits: bool) -> None:
    assert DeclaredTensor("x", "FP32", tuple(declared)).fits(given) is fits


@pytest.mark.parametrize(
    "metadata",
    [
        b"<html>",
        b"[]",
        b'{"inputs": 3}',
        b'{"inputs": [{"name": "x"}]}',
        b'{"inputs": [3]}',
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": []}]}',
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [-2]}]}',
        b'{"inputs": [{"name": "x", "datatype": "FP99", "shape": [1]}]}',
        # One that is not understood: the others would refuse what the model takes.
        b'{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1]}, {"name": "y"}]}',
    ],
)
def test_a_model_that_declares_nothing_that_is_understood_takes_everything(metadata: bytes) -> None:
    assert parse_model(metadata).inputs == UNDECLARED.inputs


async def test_outputs_are_selected_in_their_order_and_unknown_ones_refused() -> None:
    stage = Stage()
    async with client(stage.application) as http:

        async def ask(*outputs: Any) -> httpx.Response:
            body = {"inputs": [X, WORD], "outputs": [*outputs]}
            return await http.post("/v2/models/s/infer", json=body)

        response = (await ask({"name": "z"}, {"name": "x"})).json()
        assert [it["name"] for it in response["outputs"]] == ["z", "x"]
        late = await ask({"name": "nothing"})
        # The model is not known to have it not, and is asked.
        assert (late.status_code, late.json()["code"], len(stage.asked)) == (400, "input.output", 2)
        await stage.learn(http)
        early = await ask({"name": "nothing"})
        assert "'nothing'" in early.json()["error"] and "x, z" in early.json()["error"]
        assert len(stage.asked) == 2
        for wrong in (3, {"name": 3}, {"name": "x", "parameters": {"classification": 2}}):
            assert (await ask(wrong)).status_code == 400
        assert (await http.post("/v2/models/s/infer", json={"inputs": [X, WORD], "outputs": 3})).is_error


async def test_the_router_gives_outputs_and_layout_to_the_last_stage_and_answers_in_its_own_name() -> None:
    stages = Stage("s0"), Stage("s1")
    parameters = {"binary_data_output": True, "flavour": "mild"}
    body = {"id": "r7", "inputs": [X, WORD], "outputs": [{"name": "z"}], "parameters": parameters}
    async with client(pipeline(*stages)) as http:
        answer = await http.post("/v2/models/p/versions/1/infer", json=body)
        assert answer.status_code == 200, answer.text
        length = int(answer.headers[JSON_LENGTH_HEADER])
        head = orjson.loads(answer.content[:length])
        assert (head["model_name"], head["id"]) == ("p", "r7")
        assert [it["name"] for it in head["outputs"]] == ["z"]
        assert answer.content[length:] == struct.pack("<4f", 1, 2, 3, 4)
        # The first stage is asked for all outputs, and told the request's own parameters.
        assert stages[0].asked[0]["parameters"] == {"flavour": "mild"}
        assert {it["name"] for it in stages[1].asked[0]["inputs"]} == {"x", "word", "z"}
        times = parse_timing(answer.headers["server-timing"])
        assert times.keys() == {
            *("s0-wait", "s0-model", "s0-hop", "s1-wait", "s1-model", "s1-hop", "router", "total"),
        }
        parts = sum(seconds for name, seconds in times.items() if name != "total")
        assert parts == pytest.approx(times["total"], abs=1e-5)
        unknown = await http.post("/v2/models/p/infer", json={**body, "outputs": [{"name": "nothing"}]})
        assert (unknown.status_code, unknown.json()["code"]) == (400, "input.output")


async def test_an_output_that_no_model_declares_is_refused_by_the_answer() -> None:
    async with client(pipeline(Stage("s0", None), Stage("s1", None))) as http:
        body = {"inputs": [X, WORD], "outputs": [{"name": "nothing"}]}
        answer = await http.post("/v2/models/p/infer", json=body)
        assert (answer.status_code, answer.json()["code"]) == (400, UnknownOutputError.code)


async def test_metadata_of_a_pipeline_has_the_first_inputs_and_the_last_outputs() -> None:
    last = {"outputs": [{"name": "digit", "datatype": "INT64", "shape": [-1]}]}
    async with client(pipeline(Stage("s0"), Stage("s1", last))) as http:
        metadata = (await http.get("/v2/models/p")).json()
        assert metadata == {
            **{"name": "p", "versions": ["1"], "platform": "ipa"},
            **{"inputs": DECLARED["inputs"], "outputs": last["outputs"]},
        }
        assert (await http.get("/v2")).json()["extensions"] == ["binary_tensor_data"]
        assert (await http.get("/v2/health/live")).json() == {"live": True}
        assert (await http.get("/v2/models/p/ready")).json() == {"name": "p", "ready": True}
        for path in ("/v2/models/other", "/v2/models/p/config"):
            missing = await http.get(path)
            assert missing.status_code == 404
            assert "the model here is 'p', version 1" in missing.json()["error"]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "gzip, gzip"])
async def test_a_compressed_body_is_refused_before_it_is_read(coding: str) -> None:
    async with client(Stage().application) as http:
        headers = {"content-encoding": coding, "accept-encoding": "gzip"}
        refused = await http.post("/v2/models/s/infer", content=b"x", headers=headers)
        assert (refused.status_code, refused.headers["connection"]) == (415, "close")
        assert "without compression" in refused.json()["detail"]


def test_times_are_told_in_milliseconds() -> None:
    assert server_timing({"wait": 0.0015, "model": -1.0}) == "wait;dur=1.500, model;dur=0.000"
    assert parse_timing("wait;dur=1.5, model;dur=x, ;dur=1, odd") == {"wait": 0.0015}
    assert parse_timing(None) == {}


def test_a_request_without_outputs_wants_all() -> None:
    parsed = parse_request({"inputs": [X], "outputs": []})
    assert parsed.wanted is None
    assert parsed.select(parsed.inputs) == parsed.inputs
