"""The address of requests: in answers of the API, `ipa status`, `ipa url`, and `ipa infer`."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipa.clients.http import HttpClient
from ipa.model.probe import RequestAddress
from tests.fakes.answering import Answering
from tests.fakes.commands import Ipa
from tests.fakes.services import ApiClient, FakeFactory, FakeWorld, InProcess, over

BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.5]}]}
ANSWER = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [3.0]}]}
# The ticks that the world has seen.
PLAYED = 3


class Addressed(FakeFactory):
    """A factory whose target knows that address."""

    def __init__(self, address: RequestAddress) -> None:
        super().__init__()
        self._address = address

    def address(self, pipeline: Any) -> RequestAddress:
        return self._address


@pytest.fixture
def serve(world: FakeWorld, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let commands find a service whose pipeline takes requests at that address."""

    def at(address: RequestAddress) -> ApiClient:
        context = world.services()
        registry: Any = context.service.registry
        context = over(context, registry=replace(registry, makers=Addressed(address)))
        monkeypatch.setattr("ipa.clients.http.client_at", lambda at, **_: HttpClient(at, InProcess(context)))
        return ApiClient(context)

    return at


def test_every_answer_about_a_pipeline_has_the_address(ipa: Ipa, serve: Any) -> None:
    api = serve(RequestAddress("http://127.0.0.1:9000/v2/models/ocr/infer", note="here"))
    address = {"url": "http://127.0.0.1:9000/v2/models/ocr/infer", "protocol": "v2", "note": "here"}
    assert api.get("/v1/pipelines/ocr").json()["address"] == address
    assert api.get("/v1/pipelines").json()["pipelines"][0]["address"] == address
    assert api.get("/v1/pipelines/ocr/status").json()["address"] == address
    assert f"  Requests: POST {address['url']}\n" in ipa("status", "ocr").out
    out, err = ipa("url", "ocr")
    assert (out, err) == (f"{address['url']}\n", "note: here\n"), "`curl $(ipa url ocr)` has the URL alone"
    out = ipa("url", "ocr", "--curl").out
    assert out == f"curl -sS {address['url']} -H 'Content-Type: application/json' -d @request.json\n"


def test_a_pipeline_without_an_address_says_why(ipa: Ipa, serve: Any) -> None:
    serve(RequestAddress(note="its load is simulated"))
    assert "have no URL: its load is simulated" in ipa("url", "ocr", code=1).err
    assert "Requests" not in ipa("status", "ocr").out


def test_infer_prints_the_answer_alone(
    ipa: Ipa, serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps(BODY))
    with Answering(lambda path, body: (200, ANSWER)) as server:
        serve(RequestAddress(f"{server.url}/v2/models/ocr/infer"))
        assert json.loads(ipa("infer", "ocr", "-f", str(file)).out) == ANSWER
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(BODY)))
        assert ipa("infer", "ocr", "-f", "-", "-o", "yaml").out.startswith("outputs:\n- name: y\n")
    assert server.requests == [("/v2/models/ocr/infer", BODY)] * 2


def test_infer_prints_an_example_that_it_can_send(ipa: Ipa, root: Path, tmp_path: Path) -> None:
    """Without a service: the request is that of the pipeline's own files."""
    (given,) = json.loads(
        ipa("infer", "digits", "--example", "--pipelines-dir", str(root / "pipelines")).out
    )["inputs"]
    assert given["datatype"] and given["shape"][0] == 1
    ipa("infer", "digits", "--example", "-f", str(tmp_path / "request.json"), code=64)


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [(400, 65, "refused the request: it answered 400"), (503, 5, "it answered 503"), (200, 5, "no outputs")],
)
def test_infer_ends_with_the_code_of_what_failed(
    ipa: Ipa, serve: Any, tmp_path: Path, status: int, code: int, message: str
) -> None:
    (tmp_path / "request.json").write_text(json.dumps(BODY))
    with Answering(lambda path, body: (status, {"detail": "no"})) as server:
        serve(RequestAddress(f"{server.url}/v2/models/ocr/infer"))
        out, err = ipa("infer", "ocr", "-f", str(tmp_path / "request.json"), code=code)
    assert out == "" and message in err


def test_infer_refuses_what_it_cannot_send(
    ipa: Ipa, serve: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list.json").write_text("[]")
    serve(RequestAddress("http://127.0.0.1:9/api/v1.0/predictions", "seldon"))
    ipa("infer", "ocr", "-f", str(tmp_path / "list.json"), code=65)
    monkeypatch.setattr("sys.stdin", io.StringIO("{"))
    assert "standard input is not JSON" in ipa("infer", "ocr", "-f", "-", code=65).err
    (tmp_path / "request.json").write_text(json.dumps(BODY))
    err = ipa("infer", "ocr", "-f", str(tmp_path / "request.json"), code=64).err
    assert "speaks protocol seldon, not v2" in err
    ipa("infer", "ocr", "-f", str(tmp_path / "request.json"), "--timeout", "2min", code=64)
