"""A model as its owner writes one for MLServer: it adds one, hands on the words, and tells its parameters."""

from __future__ import annotations

import json

from mlserver import MLModel
from mlserver.codecs import Base64Codec, NumpyCodec, StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Adds(MLModel):  # type: ignore[misc]  # mlserver is not checked
    """`x` FP32 [n, 3], `word` BYTES [n] → `x` plus one, `word`, and `told` BYTES [n].

    `told` are the request's own parameters as JSON, or what an earlier stage was told.
    """

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        given = {tensor.name: tensor for tensor in payload.inputs}
        x = NumpyCodec.decode_input(given["x"])
        word = given["word"]
        codec = Base64Codec if word.parameters and word.parameters.content_type == "base64" else StringCodec
        extra = payload.parameters.model_dump() if payload.parameters else {}
        flavour = json.dumps({key: value for key, value in extra.items() if key == "flavour"})
        tells = StringCodec.decode_input(given["told"]) if "told" in given else [flavour] * len(x)
        outputs = [
            NumpyCodec.encode_output("x", x + 1),
            codec.encode_output("word", codec.decode_input(word)),
            StringCodec.encode_output("told", tells),
        ]
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=outputs)
