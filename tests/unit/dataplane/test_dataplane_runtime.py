"""The base class of stage models: V2 in, arrays and lists through the model, V2 out."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from prometheus_client import REGISTRY

mlserver = pytest.importorskip("mlserver", reason="needs the extra `local`")
from mlserver.errors import InferenceError  # noqa: E402
from mlserver.settings import ModelParameters, ModelSettings  # noqa: E402
from mlserver.types import InferenceRequest, Parameters  # noqa: E402

from ipa.dataplane.quota import BatchTimes  # noqa: E402
from ipa.dataplane.runtime import StageRuntime, Tensor, decode, encode  # noqa: E402


class Halves(StageRuntime):
    """Cuts every text and every picture into its characters; half of every number."""

    def load_model(self, parameters: Mapping[str, Any]) -> None:
        self.divisor = int(parameters["divisor"])

    def predict_batch(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        pictures = [bytes([byte]) for picture in inputs["picture"] for byte in bytes(picture)]
        return {
            "picture": pictures,
            "fan_out": np.array([len(picture) for picture in inputs["picture"]], dtype=np.int64),
            "number": np.asarray(inputs["number"]) / self.divisor,
        }


def answer(inputs: list[dict[str, Any]], headers: Mapping[str, str] = MappingProxyType({})) -> dict[str, Any]:
    async def scenario() -> dict[str, Any]:
        parameters = ModelParameters(extra={"divisor": "2"})
        model = Halves(ModelSettings(name="halves", implementation=Halves, parameters=parameters))
        assert await model.load()
        try:
            response = await model.predict(
                InferenceRequest(id="r1", inputs=inputs, parameters=Parameters(headers=dict(headers)))
            )
        finally:
            await model.unload()
        return dict(response.model_dump(exclude_none=True))

    return asyncio.run(scenario())


def test_a_batch_passes_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPA_CORES", "0.5")
    pictures = [base64.b64encode(it).decode() for it in (b"ab", b"", b"c")]
    response = answer(
        [
            {
                "name": "picture",
                "datatype": "BYTES",
                "shape": [3],
                "data": pictures,
                "parameters": {"content_type": "base64"},
            },
            {"name": "number", "datatype": "FP32", "shape": [3, 2], "data": [1, 2, 3, 4, 5, 6]},
        ]
    )
    assert response["id"] == "r1"
    picture, fan_out, number = response["outputs"]
    assert [base64.b64decode(it) for it in picture["data"]] == [b"a", b"b", b"c"]
    assert picture["parameters"] == {"content_type": "base64"}
    assert (fan_out["datatype"], fan_out["data"]) == ("INT64", [2, 0, 1])
    assert (number["datatype"], number["shape"]) == ("FP32", [3, 2])
    assert number["data"] == [0.5, 1, 1.5, 2, 2.5, 3]


def tensor(**changes: Any) -> Any:
    raw = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2], **changes}
    return InferenceRequest(inputs=[raw]).inputs[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"shape": [3]},
        {"data": ["a", "b"]},
        {"datatype": "BYTES", "data": ["a", "b"], "parameters": {"content_type": "base64"}},
    ],
)
def test_data_that_does_not_fit_is_the_callers_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(InferenceError, match="input 'x'"):
        decode(tensor(**wrong))


def test_nested_and_flat_data_are_the_same_and_text_stays_text() -> None:
    flat = decode(tensor(shape=[2, 2], data=[1, 2, 3, 4]))
    nested = decode(tensor(shape=[2, 2], data=[[1, 2], [3, 4]]))
    assert np.array_equal(np.asarray(flat), np.asarray(nested))
    assert decode(tensor(datatype="BYTES", data=["a", "ä"])) == ["a", "ä"]


@pytest.mark.parametrize(
    ("headers", "ends"),
    [
        ({"host": "recognise:9000", "seldon-puid": "a1"}, True),
        # From a queue, which spreads its batches itself.
        ({"host": "10.0.0.3:8080"}, False),
        # A call over gRPC, which must not carry this header.
        ({"user-agent": "grpc-go/1.58", "seldon-puid": "a1"}, False),
    ],
)
def test_an_orchestrators_connection_ends_so_that_its_next_request_reaches_any_replica(
    headers: Mapping[str, str], ends: bool
) -> None:
    picture = {"name": "picture", "datatype": "BYTES", "shape": [1], "data": ["YQ=="]}
    picture["parameters"] = {"content_type": "base64"}
    number = {"name": "number", "datatype": "FP64", "shape": [1], "data": [1.0]}
    response_headers = answer([picture, number], headers).get("parameters", {}).get("headers", {})
    assert response_headers == ({"connection": "close"} if ends else {})


def test_what_the_protocol_does_not_carry_is_refused() -> None:
    with pytest.raises(TypeError, match="complex"):
        encode("x", np.zeros(2, dtype=np.complex64))


def counted(model: str) -> tuple[float, float, float]:
    """Batches, seconds and items of that model so far."""
    names = ("batches", "service_seconds", "items")
    batches, seconds, items = (
        REGISTRY.get_sample_value(f"ipa_replica_{name}_total", {"model_name": model}) or 0.0 for name in names
    )
    return batches, seconds, items


def test_a_batch_is_counted_with_its_time_and_its_items() -> None:
    before = counted("halves")
    picture = {"name": "picture", "datatype": "BYTES", "shape": [2], "data": ["ab", "c"]}
    number = {"name": "number", "datatype": "FP64", "shape": [2], "data": [1.0, 3.0]}
    fan_out = {"name": "fan_out", "datatype": "INT64", "shape": [5], "data": [1] * 5}
    with pytest.raises(TypeError):
        # Text is no picture: what is not served is not counted.
        answer([picture, number])
    assert counted("halves") == before
    picture["parameters"] = {"content_type": "base64"}
    picture["data"] = [base64.b64encode(it).decode() for it in (b"ab", b"c")]
    answer([fan_out, picture, number])
    batches, seconds, items = (now - then for now, then in zip(counted("halves"), before, strict=True))
    # Those that the stage before sent on as `fan_out` are not its items.
    assert (batches, items) == (1.0, 2.0)
    assert 0 < seconds < 5


def test_coding_between_close_batches_is_their_time_and_that_of_an_idle_server_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = {"wall": 100.0, "loop": 5.0}
    monkeypatch.setattr("ipa.dataplane.quota.time.monotonic", lambda: now["wall"])
    monkeypatch.setattr("ipa.dataplane.quota.time.clock_gettime", lambda _: now["loop"])
    times = BatchTimes("timed")

    def batch(
        idle_s: float, coding_s: float, took_s: float, wait_s: float = 0.0, busy_s: float = 0.0
    ) -> float:
        """The seconds that are counted for it."""
        before = counted("timed")[1]
        now["wall"] += idle_s
        now["loop"] += coding_s
        begun = times.now()
        now["wall"] += took_s
        # Coding for the next request meanwhile is in the time of this batch.
        now["loop"] += 0.5 * took_s
        times.add(begun, times.now(), 1, wait_s, busy_s)
        return counted("timed")[1] - before

    assert batch(0.01, 0.004, 0.1) == pytest.approx(0.104)
    assert batch(0.0, 0.0, 0.1) == pytest.approx(0.1)
    assert batch(0.01, 0.006, 0.2) == pytest.approx(0.206)
    # Half a minute of probes and scrapes: the coding is taken to be that of the last close batch.
    assert batch(30.0, 0.5, 0.1) == pytest.approx(0.106)
    assert batch(0.01, 0.004, 0.1) == pytest.approx(0.104)
    # CPU time beyond the quota is paid for afterwards; the next batch begins, but pays after this one.
    assert batch(0.01, 0.004, 0.1, wait_s=0.1) == pytest.approx(0.204)
    assert batch(0.01, 0.004, 0.1, wait_s=0.19) == pytest.approx(0.2)
    # What was saved up while idle makes it quick, but not a busy replica.
    assert batch(2.0, 0.004, 0.1, busy_s=0.2) == pytest.approx(0.2)
