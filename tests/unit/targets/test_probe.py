"""A smoke request: its address by shape, protocol and gateway, what counts as an answer, and `ipa probe`."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipa.files import pipeline_from_mapping, pipeline_to_mapping
from ipa.model.errors import InputError, UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.probe import PipelineProbe, ProbeRequest, ProbeResult, ProbeTransport
from ipa.settings import Settings
from ipa.targets import requests
from ipa.targets.base import target_named
from ipa.targets.local.target import LOCAL
from ipa.targets.seldon.section import Shape, WireProtocol, with_seldon
from ipa.targets.seldon.target import SELDON
from tests.fakes.answering import Answer, Answering
from tests.fakes.commands import Ipa
from tests.fakes.kube.samples import sample_pipeline

SETTINGS = Settings()
V2 = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.5, 2.5]}]}
V2_ANSWER = {"outputs": [{"name": "y", "datatype": "INT64", "shape": [1], "data": [7]}]}
MESSAGE = {"data": {"names": ["x"], "ndarray": [[1.5, 2.5]]}}
MESSAGE_ANSWER = {"meta": {}, "data": {"names": ["y"], "ndarray": [[7]]}}


def in_v2(_path: str, _body: Any) -> tuple[int, Any]:
    return 200, V2_ANSWER


def in_messages(_path: str, _body: Any) -> tuple[int, Any]:
    return 200, MESSAGE_ANSWER


def wrapped() -> Pipeline:
    return with_seldon(sample_pipeline(), protocol=WireProtocol.SELDON)


def split() -> Pipeline:
    return with_seldon(sample_pipeline(), shape=Shape.SPLIT, image="ipa:1")


@pytest.mark.parametrize(
    ("pipeline", "how", "answer", "path", "body"),
    [
        (sample_pipeline(), "url", in_v2, "/v2/models/infer", V2),
        (sample_pipeline(), "gateway", in_v2, "/seldon/models/sample/v2/models/infer", V2),
        (wrapped(), "url", in_messages, "/api/v1.0/predictions", MESSAGE),
        (wrapped(), "gateway", in_messages, "/seldon/models/sample/api/v1.0/predictions", MESSAGE),
        (split(), "url", in_v2, "/v2/models/sample/infer", V2),
    ],
)
def test_requests_go_to_the_path_of_shape_and_protocol(
    pipeline: Pipeline, how: str, answer: Answer, path: str, body: dict[str, Any]
) -> None:
    with Answering(answer) as server:
        settings = replace(SETTINGS, gateway_url="http://nobody" if how == "url" else server.url)
        request = ProbeRequest(body, address=f"{server.url}/" if how == "url" else "")
        result = SELDON.probe(pipeline, request, settings)
    assert result.answered and result.fault == "" and result.status == 200
    assert result.answer in (V2_ANSWER, MESSAGE_ANSWER)
    assert server.requests == [(path, body)]
    assert 0 < result.latency_s < 5


@pytest.mark.parametrize(
    ("pipeline", "url", "by_gateway"),
    [
        (
            sample_pipeline(),
            "http://sample-main.models:8000/v2/models/infer",
            "http://gate/seldon/models/sample/v2/models/infer",
        ),
        (
            wrapped(),
            "http://sample-main.models:8000/api/v1.0/predictions",
            "http://gate/seldon/models/sample/api/v1.0/predictions",
        ),
        (split(), "http://sample-router-main.models:9000/v2/models/sample/infer", None),
    ],
)
def test_the_url_of_requests_is_that_of_shape_protocol_and_gateway(
    pipeline: Pipeline, url: str, by_gateway: str | None
) -> None:
    address = SELDON.address(pipeline, SETTINGS)
    assert address.url == url
    assert "kubectl -n models port-forward svc/" in address.note
    gate = replace(SETTINGS, gateway_url="http://gate")
    assert SELDON.address(pipeline, gate).url == (by_gateway or url)


def test_no_url_is_told_where_none_takes_all_requests() -> None:
    several = replace(sample_pipeline(), sets=True)
    address = SELDON.address(several, SETTINGS)
    assert address.url == "" and "IPA_GATEWAY_URL" in address.note
    planned = replace(sample_pipeline(), runnable=False, not_runnable_because="no images")
    assert SELDON.address(planned, SETTINGS).note == "it is only planned: no images"
    assert "no seldon section" in SELDON.address(replace(sample_pipeline(), targets={}), SETTINGS).note
    assert target_named("simulated").address(sample_pipeline(), SETTINGS).url == ""
    assert LOCAL.address(sample_pipeline(), SETTINGS).url == ""


def fails(status: int, body: Any, pipeline: Pipeline | None = None, **options: Any) -> ProbeResult:
    with Answering(lambda *_: (status, body)) as server:
        result = SELDON.probe(
            pipeline or sample_pipeline(), ProbeRequest(V2, address=server.url, **options), SETTINGS
        )
    assert not result.answered and result.fault.startswith(server.url)
    return result


OWN_PROTOCOL = wrapped()
FAILURE = {"status": {"status": "FAILURE", "info": "no such column"}}


@pytest.mark.parametrize(
    ("pipeline", "status", "body", "words"),
    [
        (None, 500, {"error": "model crashed"}, 'it answered 500: {"error": "model crashed"}'),
        (None, 404, b"not found", "it answered 404: not found"),
        # Another server would answer what this one was asked.
        (None, 302, b"", "it answered 302"),
        (None, 200, b"<html>", "the answer is not JSON: <html>"),
        (None, 200, {"outputs": []}, "the answer has no outputs"),
        (None, 200, [1], "the answer has no outputs: [1]"),
        (None, 200, b"x" * 500, "xxx..."),
        (OWN_PROTOCOL, 200, FAILURE, "its status is a failure: no such column"),
        (OWN_PROTOCOL, 200, {"status": {"status": 1, "reason": "BAD_DATA"}}, "failure: BAD_DATA"),
        (OWN_PROTOCOL, 200, {"meta": {}}, "the answer has none of data, strData"),
        (OWN_PROTOCOL, 200, ["data"], "the answer is not a message"),
        (OWN_PROTOCOL, 500, {"status": {"status": 1}}, "it answered 500"),
    ],
)
def test_an_answer_that_is_none_is_told(
    pipeline: Pipeline | None, status: int, body: Any, words: str
) -> None:
    result = fails(status, body, pipeline)
    assert words in result.detail and result.status == status
    assert len(result.detail) < 300


def test_a_late_answer_is_none() -> None:
    release = threading.Event()

    def late(_path: str, _body: Any) -> tuple[int, Any]:
        release.wait()
        return 200, V2_ANSWER

    with Answering(late) as server:
        result = SELDON.probe(sample_pipeline(), ProbeRequest(V2, 0.2, server.url), SETTINGS)
        release.set()
    assert result.detail == "no answer within 0.2 s" and result.status is None


def test_where_nobody_listens_there_is_no_answer() -> None:
    with Answering(in_v2) as server:
        pass
    result = SELDON.probe(sample_pipeline(), ProbeRequest(V2, address=server.url), SETTINGS)
    assert result.detail.startswith("no answer: ") and result.status is None


def test_an_answer_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "MAX_ANSWER_BYTES", 1000)
    assert fails(200, b" " * 100_000).detail == "the answer has more than 1000 bytes"


@pytest.mark.parametrize(
    ("pipeline", "refused", "words"),
    [
        (
            sample_pipeline(),
            ProbeRequest(V2, transport=ProbeTransport.GRPC),
            "protocol v2 is sent over HTTP",
        ),
        (sample_pipeline(), ProbeRequest(V2, address="ftp://x"), "is not an http or https URL"),
        (
            wrapped(),
            ProbeRequest(V2, address="https://a", transport=ProbeTransport.GRPC),
            "uses no TLS here",
        ),
        (replace(sample_pipeline(), sets=True), ProbeRequest(V2), "several predictors"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_a_remedy(
    pipeline: Pipeline, refused: ProbeRequest, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        SELDON.probe(pipeline, refused, SETTINGS)


def test_other_targets_take_v2_at_a_given_address() -> None:
    with Answering(in_v2) as server:
        assert LOCAL.probe(sample_pipeline(), ProbeRequest(V2, address=f"{server.url}/"), SETTINGS).answered
    assert server.requests[0][0] == "/v2/models/sample/infer"
    for refused in (ProbeRequest(V2), ProbeRequest(V2, address="http://a", transport=ProbeTransport.GRPC)):
        with pytest.raises(UsageError, match="target local cannot"):
            LOCAL.probe(sample_pipeline(), refused, SETTINGS)


def test_a_probe_is_written_to_the_file_and_read_back() -> None:
    probe = PipelineProbe(V2, timeout_s=2.0)
    mapping = pipeline_to_mapping(replace(sample_pipeline(), probe=probe))
    assert mapping["probe"] == {"request": V2, "timeout": "2s"}
    assert pipeline_from_mapping(mapping).probe == probe
    mapping["probe"] = {"timeout": "2min"}
    with pytest.raises(InputError) as refusal:
        pipeline_from_mapping(mapping)
    message = str(refusal.value)
    assert "request" in message and "2min" in message


def test_an_interpreter_without_the_client_is_told_with_the_remedy() -> None:
    request = ProbeRequest(MESSAGE, address="http://127.0.0.1:9", transport=ProbeTransport.GRPC)
    settings = replace(SETTINGS, client_python="/usr/bin/env")
    with pytest.raises(InputError, match="cannot be sent by SeldonClient"):
        SELDON.probe(wrapped(), request, settings)
    with pytest.raises(UsageError, match="cannot be started") as refusal:
        SELDON.probe(wrapped(), request, replace(SETTINGS, client_python="/nowhere/python"))
    assert "1.17.1" in refusal.value.hint


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of pipelines: sample, with a request, and bare, without."""
    from ipa.files import dump_pipeline

    for name, probe in (("sample", PipelineProbe(V2)), ("bare", None)):
        folder = tmp_path / "pipelines" / name
        folder.mkdir(parents=True)
        (folder / "pipeline.yaml").write_text(
            dump_pipeline(replace(sample_pipeline(), name=name, probe=probe))
        )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_ipa_probe_prints_the_answer_and_ends_with_0(files: Path, ipa: Ipa) -> None:
    with Answering(in_v2) as server:
        result = json.loads(ipa("probe", "sample", "--url", server.url, "-o", "json").out)
        printed = ipa("probe", "sample", "--gateway", server.url, "-n", "other").out
    assert result["answered"] and result["answer"] == V2_ANSWER and result["pipeline"] == "sample"
    assert (result["protocol"], result["transport"]) == ("v2", "rest")
    assert result["status"] == 200 and result["detail"] == ""
    assert "sample: answered in" in printed and '"outputs"' in printed
    assert server.requests[1] == ("/seldon/other/sample/v2/models/infer", V2)
    ipa("probe", "sample", "--url", server.url, "--gateway", server.url, code=64)
    err = ipa("probe", "sample", "--target", "local", "--gateway", server.url, code=64).err
    assert "target local has no gateway" in err


def test_ipa_probe_ends_with_5_where_the_answer_is_none(files: Path, ipa: Ipa) -> None:
    with Answering(lambda *_: (500, "crashed")) as server:
        result = json.loads(ipa("probe", "sample", "--url", server.url, "-o", "json", code=5).out)
    assert (
        not result["answered"] and result["detail"] == "it answered 500: crashed" and result["status"] == 500
    )


def test_ipa_probe_sends_the_body_of_a_file(files: Path, ipa: Ipa) -> None:
    body = files / "body.json"
    body.write_text(json.dumps({"inputs": [1]}))
    with Answering(in_v2) as server:
        ipa("probe", "bare", "--request", str(body), "--url", server.url)
    assert server.requests[0][1] == {"inputs": [1]}
    assert "has no request to send" in ipa("probe", "bare", "--url", server.url, code=64).err
    body.write_text("[1]")
    ipa("probe", "bare", "--request", str(body), "--url", server.url, code=65)
