"""The real microservice of seldon-core 1.17.1, asked as its orchestrator and as its clients ask it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ipa.cli.main import run
from ipa.files import dump_pipeline
from ipa.model.pipeline import Pipeline
from ipa.model.probe import PipelineProbe, ProbeRequest, ProbeTransport
from ipa.settings import Settings
from ipa.targets.seldon.section import WireProtocol, with_seldon
from ipa.targets.seldon.target import SELDON
from tests.fakes import seldon_core
from tests.fakes.answering import answering
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
    """A model."""
    with microservices(python, tmp_path_factory.mktemp("wrapped"), {"Doubled": "MODEL"}) as found:
        yield found


@pytest.fixture
def model(running: list[Microservice]) -> Microservice:
    return running[0]


def wrapped() -> Pipeline:
    return with_seldon(sample_pipeline(), protocol=WireProtocol.SELDON)


def numbers(answer: object) -> object:
    assert isinstance(answer, dict)
    return answer["data"]["ndarray"]


def test_a_model_is_probed_over_rest_and_grpc_by_http_and_by_its_own_client(
    model: Microservice, python: str
) -> None:
    settings = Settings(client_python=python)
    asked = ProbeRequest(MESSAGE, address=model.rest)
    plain = SELDON.probe(wrapped(), asked, settings)
    native = SELDON.probe(wrapped(), replace(asked, native=True), settings)
    by_grpc = SELDON.probe(
        wrapped(), replace(asked, address=model.grpc, transport=ProbeTransport.GRPC), settings
    )
    for found in (plain, native, by_grpc):
        assert found.fault == "", found
        assert numbers(found.answer) == [[4.0, 10.0]]
        assert 0 < found.latency_s < 5
    assert [each.client for each in (plain, native, by_grpc)] == ["http", "SeldonClient", "SeldonClient"]
    assert by_grpc.transport is ProbeTransport.GRPC and plain.status == 200
    assert plain.answer["meta"]["tags"] == {"doubled": True}


@pytest.mark.parametrize("how", ["http", "native", "grpc"])
def test_a_model_that_fails_is_told_so(how: str, model: Microservice, python: str) -> None:
    settings = Settings(client_python=python)
    asked = ProbeRequest(
        NEGATIVE, address=model.grpc if how == "grpc" else model.rest, native=how == "native"
    )
    if how == "grpc":
        asked = replace(asked, transport=ProbeTransport.GRPC)
    found = SELDON.probe(wrapped(), asked, settings)
    assert not found.answered
    assert found.detail.startswith("it answered")
    if how != "native":
        assert "negative numbers" in found.detail


def test_ipa_probe_over_the_native_client(
    model: Microservice,
    python: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "pipeline.yaml"
    file.write_text(dump_pipeline(replace(wrapped(), probe=PipelineProbe(MESSAGE))))
    monkeypatch.setenv("IPA_CLIENT_PYTHON", python)
    words = ["probe", str(file), "--url", model.grpc, "--transport", "grpc", "-o", "json"]
    assert run(words) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["protocol"], found["transport"], found["client"]) == ("seldon", "grpc", "SeldonClient")
    assert numbers(found["answer"]) == [[4.0, 10.0]]


def test_the_native_client_goes_through_a_gateway_and_has_a_time_limit(python: str) -> None:
    settings, release = Settings(client_python=python), threading.Event()

    def answer(path: str, _body: object) -> tuple[int, object]:
        if "late" in path:
            release.wait(30)
        return 200, {"data": {"ndarray": [[7.0]]}}

    with answering(answer) as gateway:
        asked = ProbeRequest(MESSAGE, gateway=gateway.url, native=True)
        found = SELDON.probe(wrapped(), asked, settings)
        # `SeldonClient` itself waits for ever.
        late = SELDON.probe(with_seldon(wrapped(), name="late"), replace(asked, timeout_s=0.5), settings)
        release.set()
    assert (found.fault, numbers(found.answer)) == ("", [[7.0]])
    assert gateway.asked[0][0] == "/seldon/models/sample/api/v1.0/predictions"
    assert late.detail == "no answer within 0.5 s"
