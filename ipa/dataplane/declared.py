"""The inputs and outputs that a model declares: read from its server, and held against requests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import orjson

from ipa.dataplane.binary import CONTENT_KIND
from ipa.dataplane.client import ConnectionLostError, OversizedAnswerError
from ipa.dataplane.tensors import MAX_DIMENSIONS, MAX_NAME_LENGTH, MAX_TENSORS, VALUES, Tensor, Tensors
from ipa.model.errors import InputError, Problem

log = logging.getLogger("ipa.dataplane")

# Any size of a dimension.
ANY_SIZE = -1
# Sizes are 64 bits in other servers.
MAX_SIZE = 2**63 - 1
# A new ready pod is used after this, plus the 5 to 30 s for which the DNS of a cluster caches answers; a
# model that did not say what it declares is asked again.
LOOK_EVERY_S = 1.0
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
        """True if a tensor of that shape is one of these.

        The first dimension counts the items. Last dimensions of size 1 may be left out, and so may the one of
        the items where the first is not declared as -1: model files differ in whether they have it.
        """
        rows = [self.shape[1:]] if self.shape[0] == ANY_SIZE else [self.shape[1:], self.shape]
        return any(_fits(row, shape[1:]) for row in rows)

    def to_json(self) -> dict[str, Any]:
        """As in V2's metadata of a model."""
        found = {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}
        return {**found, "parameters": {CONTENT_KIND: self.content_type}} if self.content_type else found

    def __str__(self) -> str:
        return f"{self.name} {self.datatype} {list(self.shape)}"


def _fits(wanted: Sequence[int], given: Sequence[int]) -> bool:
    return all(size in (ANY_SIZE, other) for size, other in zip_longest(wanted, given, fillvalue=1))


@dataclass(frozen=True, slots=True)
class DeclaredModel:
    """The declaration of a model: its inputs and outputs, empty where not known."""

    platform: str = ""
    inputs: tuple[DeclaredTensor, ...] = ()
    outputs: tuple[DeclaredTensor, ...] = ()

    def content_type(self, name: str) -> str | None:
        """The content type of the input of that name; None if none is declared."""
        return next((it.content_type for it in self.inputs if it.name == name), None)

    def check_inputs(self, inputs: Tensors) -> None:
        """Raise InputError if a declared input is missing, or has another datatype or shape.

        Inputs beside the declared ones are passed on: a stage is given all outputs of the one before it.
        """
        given = {tensor.name: tensor for tensor in inputs}
        problems = [text for it in self.inputs if (text := _difference(it, given.get(it.name)))]
        if problems:
            wanted = ", ".join(str(it) for it in self.inputs[:MOST_QUOTED])
            raise InputError(
                f"the inputs do not match the model's metadata: {'; '.join(problems)} (it takes {wanted})",
                problems=[Problem(text, pointer="/inputs") for text in problems],
            )

    def to_json(self, name: str, version: str) -> dict[str, Any]:
        """V2's metadata of a model."""
        return {
            **{"name": name, "versions": [version], "platform": self.platform},
            "inputs": [it.to_json() for it in self.inputs],
            "outputs": [it.to_json() for it in self.outputs],
        }


UNDECLARED = DeclaredModel()


def _difference(wanted: DeclaredTensor, given: Tensor | None) -> str:
    if given is None:
        return f"input {wanted.name!r} is missing"
    if given.datatype != wanted.datatype:
        return f"input {wanted.name!r} is {given.datatype}, not {wanted.datatype}"
    if not wanted.fits(given.shape):
        return f"input {wanted.name!r} has the shape {list(given.shape)}, not {list(wanted.shape)}"
    return ""


def parse_model(body: bytes) -> DeclaredModel:
    """Return what V2's metadata of a model declares. Entries that are no declaration are left out."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return UNDECLARED
    if not isinstance(found, dict):
        return UNDECLARED
    platform = found.get("platform")
    return DeclaredModel(
        platform if isinstance(platform, str) else "",
        _tensors(found.get("inputs")),
        _tensors(found.get("outputs")),
    )


def _tensors(given: Any) -> tuple[DeclaredTensor, ...]:
    """The declarations of a list; none if one is not understood, since the others would refuse requests."""
    entries = given if isinstance(given, list) and len(given) <= MAX_TENSORS else []
    found = [_tensor(entry) for entry in entries]
    return tuple(it for it in found if it) if all(found) else ()


def _tensor(entry: Any) -> DeclaredTensor | None:
    if not isinstance(entry, Mapping):
        return None
    name, datatype, shape = entry.get("name"), entry.get("datatype"), entry.get("shape")
    if not (isinstance(name, str) and 0 < len(name) <= MAX_NAME_LENGTH and datatype in VALUES):
        return None
    if not (isinstance(shape, list) and 0 < len(shape) <= MAX_DIMENSIONS):
        return None
    if not all(type(size) is int and ANY_SIZE <= size <= MAX_SIZE for size in shape):
        return None
    parameters = entry.get("parameters")
    kind = parameters.get(CONTENT_KIND) if isinstance(parameters, Mapping) else None
    return DeclaredTensor(name, str(datatype), tuple(shape), kind if isinstance(kind, str) else None)


class Declarations:
    """The declaration of a stage's model: asked of its replicas until one answers, and again after changes.

    `ask` returns the metadata of a replica's model; ConnectionLostError if there is none. None: it cannot be
    asked, and nothing is known.
    """

    def __init__(self, ask: Callable[[], Awaitable[bytes]] | None) -> None:
        self.model = UNDECLARED
        self._ask = ask
        self._changed = asyncio.Event()

    def change(self) -> None:
        """Ask again: there are other replicas, or other variants."""
        self._changed.set()

    async def look(self) -> bool:
        """Ask once. Return True if a replica answered, or cannot be asked."""
        if self._ask is None:
            return True
        try:
            self.model = parse_model(await self._ask())
        except (ConnectionLostError, OversizedAnswerError) as error:
            log.debug("the metadata of the model cannot be read: %s", error)
            return False
        return True

    async def run(self) -> None:
        """Ask until cancelled, after each change."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            while not await self.look():
                await asyncio.sleep(LOOK_EVERY_S)
