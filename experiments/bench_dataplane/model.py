"""A model that takes no time of its own."""

from __future__ import annotations

from mlserver import MLModel
from mlserver.types import InferenceRequest, InferenceResponse, ResponseOutput


class Echo(MLModel):
    """Each input as an output."""

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """The inputs of one batch."""
        outputs = [
            ResponseOutput(name=it.name, shape=it.shape, datatype=it.datatype, data=it.data)
            for it in payload.inputs
        ]
        return InferenceResponse(model_name=self.name, id=payload.id, outputs=outputs)
