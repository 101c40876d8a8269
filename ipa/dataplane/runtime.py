"""The base class of a stage's model: an MLServer runtime over `load_model` and `predict_batch`."""

from __future__ import annotations

import asyncio
import base64
import math
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from mlserver import MLModel
from mlserver.errors import InferenceError
from mlserver.types import (
    InferenceRequest,
    InferenceResponse,
    MetadataTensor,
    Parameters,
    RequestInput,
    ResponseOutput,
)

from ipa.dataplane.quota import BatchMoment, BatchTimes, CpuQuota, GivenCores
from ipa.model.plan import quota_cores
from ipa.model.serving import FAN_OUT
from ipa.serving.expectation import PUID_HEADER

BITS = (8, 16, 32, 64)
# https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol: tensor data types
DTYPES: Mapping[str, type[np.generic]] = {
    "BOOL": np.bool_,
    **{f"{kind}{bits}": getattr(np, f"{kind.lower()}{bits}") for kind in ("INT", "UINT") for bits in BITS},
    **{f"FP{bits}": getattr(np, f"float{bits}") for bits in BITS[1:]},
}
DATATYPES = {np.dtype(dtype): name for name, dtype in DTYPES.items()}
BASE64 = "base64"

Tensor = Sequence[bytes] | Sequence[str] | np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """An input or output of a stage's model; `shape` is the shape of one item."""

    name: str
    datatype: str
    shape: tuple[int, ...] = ()
    content_type: str | None = None


class StageRuntime(MLModel):  # type: ignore[misc]  # mlserver is not checked
    """A stage's model. Subclasses implement `load_model` and `predict_batch`.

    `predict_batch` runs in a thread of its own, one call at a time. All CPU time of the process, except while
    a model loads, is charged to its quota of cores: IPA_CORES (or the container's limit), or the content of
    the file that IPA_CORES_FILE names, which may change. `threads` (IPA_THREADS) is the number of threads
    that the model may use.
    """

    # Of the process, which may have several models.
    _cpu_counted_s = 0.0
    _loading = 0

    # The inputs and outputs: queues refuse requests that do not fit, and clients ask for them. Those of
    # model-settings.json come first. Empty: not declared.
    takes: tuple[TensorSpec, ...] = ()
    gives: tuple[TensorSpec, ...] = ()

    # MLServer's: what its metadata says.
    inputs: Any
    outputs: Any

    cores: float
    threads: int

    def load_model(self, parameters: Mapping[str, Any]) -> None:
        """Load the model; `parameters` are those of the variant in pipeline.yaml."""
        raise NotImplementedError

    def predict_batch(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the outputs of a batch by name, one row per item.

        Numbers are arrays of shape [items, ...], base64 BYTES are lists of bytes, other BYTES lists of str. A
        stage that fans out adds `fan_out`: INT64 [items], the rows of each item in the other outputs.
        """
        raise NotImplementedError

    async def load(self) -> bool:
        """Load the model, and return True."""
        self._given = GivenCores(os.environ)
        self.cores = self._given.now()
        self.threads = int(os.environ.get("IPA_THREADS", str(max(1, math.ceil(self.cores)))))
        self._quota = CpuQuota(self.cores)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self.name)
        self._times = BatchTimes(self.name)
        settings = self.settings.parameters
        parameters = dict(settings.extra or {}) if settings else {}
        self.inputs = self.inputs or _declared(self.takes)
        self.outputs = self.outputs or _declared(self.gives)
        StageRuntime._loading += 1
        try:
            await self._in_thread(self.load_model, parameters)
        finally:
            self._cpu_since_s()
            StageRuntime._loading -= 1
        return True

    async def unload(self) -> bool:
        """Stop the thread, and return True."""
        self._executor.shutdown(wait=False)
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Return the answer to one batch, once the quota has paid for its CPU time."""
        if (cores := self._given.now()) != self.cores:
            self.cores = cores
            self._quota.resize(cores)
        self._quota.settle(self._cpu_since_s())
        # The cluster's orchestrator forwards all outputs of the previous stage, its `fan_out` too.
        given = [tensor for tensor in payload.inputs if tensor.name != FAN_OUT]
        items = next((tensor.shape[0] for tensor in given if tensor.shape), 1)
        inputs = {tensor.name: decode(tensor) for tensor in given}
        outputs, begun, ended = await self._in_thread(self._serve, inputs)
        cpu_s = self._cpu_since_s()
        wait_s = self._quota.charge(cpu_s)
        quota = quota_cores(self.cores)
        self._times.add(begun, ended, items, wait_s, cpu_s / quota if quota else 0.0)
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        # An orchestrator keeps a few idle connections to all replicas of a stage, each to one of them: the
        # others would have no requests. A connection of its own takes each request to any replica. Calls
        # over gRPC have no `host`.
        headers = (payload.parameters and payload.parameters.headers) or {}
        is_orchestrated = {PUID_HEADER, "host"} <= set(headers)
        return InferenceResponse(
            model_name=self.name,
            model_version=self.version,
            id=payload.id,
            outputs=[encode(name, tensor) for name, tensor in outputs.items()],
            parameters=Parameters(headers={"connection": "close"}) if is_orchestrated else None,
        )

    def _serve(self, inputs: Mapping[str, Tensor]) -> tuple[Mapping[str, Tensor], BatchMoment, BatchMoment]:
        """The outputs of a batch, and the moments at which the model began and ended it."""
        begun = self._times.now()
        outputs = self.predict_batch(inputs)
        return outputs, begun, self._times.now()

    def _cpu_since_s(self) -> float:
        # The whole process's time: the model's threads and the HTTP server count too.
        before_s, StageRuntime._cpu_counted_s = StageRuntime._cpu_counted_s, time.process_time()
        return 0.0 if StageRuntime._loading else StageRuntime._cpu_counted_s - before_s

    async def _in_thread(self, function: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._executor, function, *arguments)


def _declared(tensors: Sequence[TensorSpec]) -> list[MetadataTensor] | None:
    """The tensors in the form of MLServer's metadata."""
    return [
        MetadataTensor(
            name=spec.name,
            datatype=spec.datatype,
            shape=[-1, *spec.shape],
            parameters=Parameters(content_type=spec.content_type) if spec.content_type else None,
        )
        for spec in tensors
    ] or None


def decode(tensor: RequestInput) -> Tensor:
    """Return the values of a V2 input: an array of its shape, or a list of bytes (base64) or str.

    InferenceError (answered as 400): data, shape and datatype do not fit together.
    """
    data = tensor.data.root
    try:
        if tensor.datatype == "BYTES":
            is_base64 = tensor.parameters is not None and tensor.parameters.content_type == BASE64
            return [base64.b64decode(item) for item in data] if is_base64 else [str(item) for item in data]
        return np.asarray(data, dtype=DTYPES[tensor.datatype]).reshape(tensor.shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise InferenceError(
            f"input {tensor.name!r}: its data is not {tensor.datatype} of shape {tensor.shape}: {error}"
        ) from error


def encode(name: str, tensor: Tensor) -> ResponseOutput:
    """Return the V2 output of that name; bytes are encoded as base64."""
    if isinstance(tensor, np.ndarray):
        array = tensor
        if array.dtype not in DATATYPES:
            raise TypeError(f"output {name!r} has dtype {array.dtype}, which the V2 protocol does not carry")
        return ResponseOutput(
            name=name, shape=list(array.shape), datatype=DATATYPES[array.dtype], data=array.ravel().tolist()
        )
    if len(tensor) and isinstance(tensor[0], bytes):
        items = [base64.b64encode(item).decode("ascii") for item in tensor]  # type: ignore[arg-type]
        kind = Parameters(content_type=BASE64)
    else:
        items, kind = [str(item) for item in tensor], Parameters(content_type="str")
    return ResponseOutput(name=name, shape=[len(items)], datatype="BYTES", parameters=kind, data=items)
