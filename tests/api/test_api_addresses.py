"""The address of requests: in answers of the API, `ipa status`, `ipa url`, and `ipa infer`."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipa.cli.main import run
from ipa.clients.http import HttpClient
from ipa.model.probe import RequestAddress
from tests.fakes.answering import Answering
from tests.fakes.services import ApiClient, FakeFactory, FakeWorld, InProcess, over

BODY = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.5]}]}
ANSWER = {"outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [3.0]}]}
Capture = pytest.CaptureFixture[str]


class Addressed(FakeFactory):
    """A factory whose target knows that address."""

    def __init__(self, address: RequestAddress) -> None:
        super().__init__()
        self._address = address

    def address(self, pipeline: Any) -> RequestAddress:
        """That one."""
        return self._address


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let commands find a service whose pipeline takes requests at that address."""

    def at(address: RequestAddress) -> ApiClient:
        context = FakeWorld().play(3).services()
        registry: Any = context.service.registry
        context = over(context, registry=replace(registry, makers=Addressed(address)))
        monkeypatch.setattr("ipa.clients.http.client_at", lambda at, **_: HttpClient(at, InProcess(context)))
        return ApiClient(context)

    return at


def test_every_answer_about_a_pipeline_has_the_address(serve: Any, capsys: Capture) -> None:
    api = serve(RequestAddress("http://127.0.0.1:9000/v2/models/ocr/infer", note="here"))
    address = {"url": "http://127.0.0.1:9000/v2/models/ocr/infer", "protocol": "v2", "note": "here"}
    assert api.get("/v1/pipelines/ocr").json()["address"] == address
    assert api.get("/v1/pipelines").json()["pipelines"][0]["address"] == address
    assert api.get("/v1/pipelines/ocr/status").json()["address"] == address
    assert run(["status", "ocr"]) == 0
    assert f"  Requests: POST {address['url']}\n" in capsys.readouterr().out
    assert run(["url", "ocr"]) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (f"{address['url']}\n", "note: here\n"), "`curl $(ipa url ocr)` has the URL alone"
    assert run(["url", "ocr", "--curl"]) == 0
    assert capsys.readouterr().out == (
        f"curl -sS {address['url']} -H 'Content-Type: application/json' -d @request.json\n"
    )


def test_a_pipeline_without_an_address_says_why(serve: Any, capsys: Capture) -> None:
    serve(RequestAddress(note="its load is simulated"))
    assert run(["url", "ocr"]) == 1
    assert "have no URL: its load is simulated" in capsys.readouterr().err
    assert run(["status", "ocr"]) == 0
    assert "Requests" not in capsys.readouterr().out


def test_infer_prints_the_answer_alone(
    serve: Any, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "request.json"
    file.write_text(json.dumps(BODY))
    with Answering(lambda path, body: (200, ANSWER)) as server:
        serve(RequestAddress(f"{server.url}/v2/models/ocr/infer"))
        assert run(["infer", "ocr", "-f", str(file)]) == 0
        assert json.loads(capsys.readouterr().out) == ANSWER
        monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(BODY)))
        assert run(["infer", "ocr", "-f", "-", "-o", "yaml"]) == 0
        assert capsys.readouterr().out.startswith("outputs:\n- name: y\n")
    assert server.requests == [("/v2/models/ocr/infer", BODY)] * 2


def test_infer_prints_an_example_that_it_can_send(capsys: Capture, root: Path, tmp_path: Path) -> None:
    """Without a service: the request is that of the pipeline's own files."""
    assert run(["infer", "digits", "--example", "--pipelines-dir", str(root / "pipelines")]) == 0
    (given,) = json.loads(capsys.readouterr().out)["inputs"]
    assert given["datatype"] and given["shape"][0] == 1
    assert run(["infer", "digits", "--example", "-f", str(tmp_path / "request.json")]) == 64


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [(400, 65, "refused the request: it answered 400"), (503, 5, "it answered 503"), (200, 5, "no outputs")],
)
def test_infer_ends_with_the_code_of_what_failed(
    serve: Any, capsys: Capture, tmp_path: Path, status: int, code: int, message: str
) -> None:
    (tmp_path / "request.json").write_text(json.dumps(BODY))
    with Answering(lambda path, body: (status, {"detail": "no"})) as server:
        serve(RequestAddress(f"{server.url}/v2/models/ocr/infer"))
        assert run(["infer", "ocr", "-f", str(tmp_path / "request.json")]) == code
    out, err = capsys.readouterr()
    assert out == "" and message in err


def test_infer_refuses_what_it_cannot_send(
    serve: Any, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list.json").write_text("[]")
    serve(RequestAddress("http://127.0.0.1:9/api/v1.0/predictions", "seldon"))
    assert run(["infer", "ocr", "-f", str(tmp_path / "list.json")]) == 65
    monkeypatch.setattr("sys.stdin", io.StringIO("{"))
    assert run(["infer", "ocr", "-f", "-"]) == 65
    assert "standard input is not JSON" in capsys.readouterr().err
    (tmp_path / "request.json").write_text(json.dumps(BODY))
    assert run(["infer", "ocr", "-f", str(tmp_path / "request.json")]) == 64
    assert "speaks protocol seldon, not v2" in capsys.readouterr().err
    assert run(["infer", "ocr", "-f", str(tmp_path / "request.json"), "--timeout", "2min"]) == 64
