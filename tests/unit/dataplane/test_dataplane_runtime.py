"""The base class of stage models: V2 in, arrays and lists through the model, V2 out."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

mlserver = pytest.importorskip("mlserver", reason="needs the extra `local`")
from mlserver.errors import InferenceError  # noqa: E402
from mlserver.settings import ModelParameters, ModelSettings  # noqa: E402
from mlserver.types import InferenceRequest  # noqa: E402

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


def answer(inputs: list[dict[str, Any]]) -> dict[str, Any]:
    async def scenario() -> dict[str, Any]:
        parameters = ModelParameters(extra={"divisor": "2"})
        model = Halves(ModelSettings(name="halves", implementation=Halves, parameters=parameters))
        assert await model.load()
        try:
            response = await model.predict(InferenceRequest(id="r1", inputs=inputs))
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


def test_what_the_protocol_does_not_carry_is_refused() -> None:
    with pytest.raises(TypeError, match="complex"):
        encode("x", np.zeros(2, dtype=np.complex64))
