"""The real microservice of seldon-core 1.17.1, asked as its orchestrator and as its clients ask it."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ipa.files import dump_pipeline
from ipa.model.pipeline import Pipeline
from ipa.model.probe import PipelineProbe, ProbeRequest, ProbeTransport
from ipa.settings import Settings
from ipa.targets.seldon.section import WireProtocol, with_seldon
from ipa.targets.seldon.target import SELDON
from tests.fakes import seldon_core
from tests.fakes.commands import Ipa
from tests.fakes.kube.samples import sample_pipeline
from tests.fakes.seldon_core import Microservice, microservices

# The first run makes its environment.
pytestmark = [pytest.mark.live, pytest.mark.timeout(700), pytest.mark.xdist_group("seldon-core")]

MESSAGE = {"data": {"names": ["x"], "ndarray": [[2.0, 5.0]]}}
NEGATIVE = {"data": {"names": ["x"], "ndarray": [[-1.0]]}}


@pytest.fixture(scope="module")
def python() -> str:
    try:
        return seldon_core.ENVIRONMENT.python()
    except RuntimeError as lacking:
        pytest.skip(str(lacking))


@pytest.fixture(scope="module")
def running(python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Microservice]]:
    with microservices(python, tmp_path_factory.mktemp("wrapped"), {"Doubled": "MODEL"}) as addresses:
        yield addresses


@pytest.fixture
def model(running: list[Microservice]) -> Microservice:
    return running[0]


def wrapped() -> Pipeline:
    return with_seldon(sample_pipeline(), protocol=WireProtocol.SELDON)


def numbers(answer: object) -> object:
    assert isinstance(answer, dict)
    return answer["data"]["ndarray"]


def test_a_model_is_probed_over_rest_and_over_grpc_by_its_own_client(
    model: Microservice, python: str
) -> None:
    settings = Settings(client_python=python)
    request = ProbeRequest(MESSAGE, address=model.rest)
    plain = SELDON.probe(wrapped(), request, settings)
    by_grpc = SELDON.probe(
        wrapped(), replace(request, address=model.grpc, transport=ProbeTransport.GRPC), settings
    )
    for result in (plain, by_grpc):
        assert result.fault == "", result
        assert numbers(result.answer) == [[4.0, 10.0]]
        assert 0 < result.latency_s < 5
    assert by_grpc.transport is ProbeTransport.GRPC and plain.status == 200
    assert plain.answer["meta"]["tags"] == {"doubled": True}


@pytest.mark.parametrize("transport", ProbeTransport)
def test_a_model_that_fails_is_told_so(transport: ProbeTransport, model: Microservice, python: str) -> None:
    address = model.grpc if transport is ProbeTransport.GRPC else model.rest
    request = ProbeRequest(NEGATIVE, address=address, transport=transport)
    result = SELDON.probe(wrapped(), request, Settings(client_python=python))
    assert not result.answered
    assert result.detail.startswith("it answered")
    assert "negative numbers" in result.detail


def test_ipa_probe_over_the_native_client(
    model: Microservice, python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ipa: Ipa
) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(dump_pipeline(replace(wrapped(), probe=PipelineProbe(MESSAGE))))
    monkeypatch.setenv("IPA_CLIENT_PYTHON", python)
    words = ["probe", str(file), "--url", model.grpc, "--transport", "grpc", "-o", "json"]
    result = json.loads(ipa(*words).out)
    assert (result["protocol"], result["transport"]) == ("seldon", "grpc")
    assert numbers(result["answer"]) == [[4.0, 10.0]]


def test_the_native_client_has_a_time_limit(python: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        request = ProbeRequest(MESSAGE, 0.5, address, ProbeTransport.GRPC)
        # `SeldonClient` itself waits for ever.
        late = SELDON.probe(wrapped(), request, Settings(client_python=python))
    assert late.detail == "no answer within 0.5 s"
