"""The V2 server shared by router and queue, and the inputs and outputs that models declare."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import orjson

import ipa
from ipa.dataplane.client import Client
from ipa.dataplane.http import Application, BodyLimits, Call, Response
from ipa.dataplane.metrics import Exposition
from ipa.dataplane.tensors import (
    BINARY_CONTENT_TYPE,
    CONTENT_KIND,
    JSON_LENGTH_HEADER,
    MAX_DIMENSIONS,
    MAX_NAME_LENGTH,
    MAX_TENSORS,
    VALUES,
    Tensor,
    Tensors,
    parse_object,
)
from ipa.model.errors import InputError, Problem

# A pipeline has one version: how it is served changes without its clients' knowledge.
VERSION = "1"
# Triton's name of the binary tensor extension (`ipa.dataplane.tensors`).
EXTENSIONS = ("binary_tensor_data",)
# Any size of a dimension.
ANY_SIZE = -1
# Sizes are 64 bits in other servers.
MAX_SIZE = 2**63 - 1
# The most of a model's declarations that is quoted in an error.
MOST_QUOTED = 8


@dataclass(frozen=True, slots=True)
class DeclaredTensor:
    """An input or output as a model declares it; -1 in the shape is any size."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content_type: str | None = None

    def fits(self, shape: Sequence[int]) -> bool:
        """True if a tensor of that shape matches this declaration.

        The first dimension counts the items. Last dimensions of size 1 may be left out, and so may the one of
        the items unless the first is declared as -1: model files differ in whether they have it.
        """
        rows = [self.shape[1:]] if self.shape[0] == ANY_SIZE else [self.shape[1:], self.shape]
        return any(
            all(size in (ANY_SIZE, given) for size, given in zip_longest(row, shape[1:], fillvalue=1))
            for row in rows
        )

    def difference(self, given: Tensor | None) -> str:
        """The reason why the given input does not match this declaration, in words; empty if it does."""
        if given is None:
            return f"input {self.name!r} is missing"
        if given.datatype != self.datatype:
            return f"input {self.name!r} is {given.datatype}, not {self.datatype}"
        if not self.fits(given.shape):
            return f"input {self.name!r} has the shape {list(given.shape)}, not {list(self.shape)}"
        return ""

    def to_json(self) -> dict[str, Any]:
        """The tensor in the form of V2's metadata of a model."""
        entry = {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}
        return {**entry, "parameters": {CONTENT_KIND: self.content_type}} if self.content_type else entry


@dataclass(frozen=True, slots=True)
class DeclaredModel:
    """The inputs and outputs that a model declares, empty if not known."""

    platform: str = ""
    inputs: tuple[DeclaredTensor, ...] = ()
    outputs: tuple[DeclaredTensor, ...] = ()

    def content_type(self, name: str) -> str | None:
        """The declared content type of the input of that name; None without one."""
        return next((it.content_type for it in self.inputs if it.name == name), None)

    def check_inputs(self, inputs: Tensors) -> None:
        """Raise InputError if a declared input is missing, or has another datatype or shape.

        Undeclared inputs are passed on: a stage is given all outputs of the stage before it.
        """
        given = {tensor.name: tensor for tensor in inputs}
        problems = [text for it in self.inputs if (text := it.difference(given.get(it.name)))]
        if problems:
            quoted = self.inputs[:MOST_QUOTED]
            wanted = ", ".join(f"{it.name} {it.datatype} {list(it.shape)}" for it in quoted)
            raise InputError(
                f"the inputs do not match the model's metadata: {'; '.join(problems)} (it takes {wanted})",
                problems=[Problem(text, pointer="/inputs") for text in problems],
            )

    def to_json(self, name: str) -> dict[str, Any]:
        """V2's metadata of a model."""
        return {
            **{"name": name, "versions": [VERSION], "platform": self.platform},
            "inputs": [it.to_json() for it in self.inputs],
            "outputs": [it.to_json() for it in self.outputs],
        }


UNDECLARED = DeclaredModel()


def parse_model(body: bytes) -> DeclaredModel:
    """Return the declaration in V2's metadata of a model, without the parts that are invalid."""
    try:
        given = parse_object(body, "the metadata")
    except InputError:
        return UNDECLARED
    platform = given.get("platform")
    inputs, outputs = (_declared(given.get(key)) for key in ("inputs", "outputs"))
    return DeclaredModel(platform if isinstance(platform, str) else "", inputs, outputs)


def _declared(given: Any) -> tuple[DeclaredTensor, ...]:
    """The declarations of a list; none if one is invalid: the rest alone would refuse valid requests."""
    entries = given if isinstance(given, list) and len(given) <= MAX_TENSORS else []
    tensors = [_tensor(entry) if isinstance(entry, dict) else None for entry in entries]
    return tuple(it for it in tensors if it) if all(tensors) else ()


def _tensor(entry: dict[str, Any]) -> DeclaredTensor | None:
    name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_LENGTH:
        return None
    if not isinstance(datatype, str) or datatype not in VALUES:
        return None
    if not isinstance(shape, list) or not 0 < len(shape) <= MAX_DIMENSIONS:
        return None
    if not all(type(size) is int and ANY_SIZE <= size <= MAX_SIZE for size in shape):
        return None
    parameters = entry.get("parameters")
    kind = parameters.get(CONTENT_KIND) if isinstance(parameters, dict) else None
    return DeclaredTensor(name, datatype, tuple(shape), kind if isinstance(kind, str) else None)


class V2Server(ABC):
    """The HTTP server of one model, a pipeline or a stage: the routes of V2, metrics and admin.

    `hosts` are the accepted host names, empty for any; `admin_token` enables the admin address.
    """

    def __init__(
        self, name: str, metrics: Exposition, *, hosts: frozenset[str], limits: BodyLimits, admin_token: str
    ) -> None:
        self._name, self._exposition = name, metrics
        self._hosts, self._limits, self._admin_token = hosts, limits, admin_token
        self._client = Client()
        self.registry = metrics.registry

    def application(self) -> Application:
        """The ASGI application."""
        # A model answers with and without its version.
        paths = [f"/v2/models/{self._name}{version}" for version in ("", f"/versions/{VERSION}")]
        return Application(
            {
                ("GET", "/v2"): self._server,
                ("GET", "/v2/health/live"): self._live,
                ("GET", "/v2/health/ready"): self._ready,
                **{("POST", f"{path}/infer"): self._infer for path in paths},
                **{("GET", path): self._metadata for path in paths},
                **{("GET", f"{path}/ready"): self._model_ready for path in paths},
                ("GET", "/metrics"): self._exposition.handle,
                ("GET", "/admin/config"): self._read_config,
                ("PUT", "/admin/config"): self._write_config,
            },
            start=self._start,
            stop=self._stop,
            hosts=self._hosts,
            served=f"the model here is {self._name!r}, version {VERSION}",
            limits=self._limits,
            passing=self._client.__len__,
        )

    async def _start(self) -> None:
        await self._client.open()

    async def _stop(self) -> None:
        await self._client.close()

    async def _server(self, _call: Call) -> Response:
        return json_response({"name": "ipa", "version": ipa.__version__, "extensions": EXTENSIONS})

    async def _live(self, _call: Call) -> Response:
        return json_response({"live": True})

    @abstractmethod
    async def _ready(self, call: Call) -> Response: ...

    @abstractmethod
    async def _infer(self, call: Call) -> Response: ...

    @abstractmethod
    async def _metadata(self, call: Call) -> Response: ...

    async def _model_ready(self, call: Call) -> Response:
        return await self._ready(call)

    @abstractmethod
    async def _read_config(self, call: Call) -> Response: ...

    @abstractmethod
    async def _write_config(self, call: Call) -> Response: ...


def json_response(content: Any) -> Response:
    """Return the answer with that JSON."""
    return Response(orjson.dumps(content))


def v2_response(body: bytes, json_length: int | str | None) -> Response:
    """Return the answer with that body; `json_length` is that of its JSON part, None if it is only JSON."""
    if json_length is None:
        return Response(body)
    return Response(body, content_type=BINARY_CONTENT_TYPE, headers={JSON_LENGTH_HEADER: str(json_length)})
