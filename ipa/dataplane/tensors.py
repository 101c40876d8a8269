"""V2 tensors as they travel in JSON: cut into rows, merged into batches, and split again.

Data may be flat or nested; either way its length is a multiple of the items, so rows are slices of the list
and nothing is copied element by element.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from ipa.model.errors import InputError, Problem

FAN_OUT = "fan_out"


@dataclass(frozen=True, slots=True)
class Tensor:
    """One named tensor; its first dimension counts the items."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]
    parameters: dict[str, Any] | None = None

    @property
    def items(self) -> int:
        """Rows of the tensor."""
        return self.shape[0]

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows start to stop."""
        if start == 0 and stop == self.items:
            return self
        width = len(self.data) // self.items if self.items else 0
        shape = (stop - start, *self.shape[1:])
        data = self.data[start * width : stop * width]
        return Tensor(self.name, self.datatype, shape, data, self.parameters)

    def to_json(self) -> dict[str, Any]:
        """The tensor as the V2 protocol writes it."""
        written = {"name": self.name, "datatype": self.datatype, "shape": self.shape, "data": self.data}
        return {**written, "parameters": self.parameters} if self.parameters else written

    @property
    def kind(self) -> Hashable:
        """Two tensors of equal kind can be merged."""
        is_nested = self.items > 0 and len(self.data) == self.items
        return self.name, self.datatype, self.shape[1:], is_nested, repr(self.parameters)


Tensors = tuple[Tensor, ...]


def kind_of(tensors: Tensors) -> Hashable:
    """Requests of equal kind can share a batch."""
    return tuple(tensor.kind for tensor in tensors)


def items_of(tensors: Tensors) -> int:
    """Items of a request: rows of its tensors, 0 without tensors."""
    return tensors[0].items if tensors else 0


def rows(tensors: Tensors, start: int, stop: int) -> Tensors:
    """Rows start to stop of every tensor."""
    return tuple(tensor.rows(start, stop) for tensor in tensors)


def parse(tensors: Any, where: str) -> Tensors:
    """The tensors of a JSON list; InputError names every one that is not a V2 tensor."""
    if not isinstance(tensors, list):
        raise InputError(f"{where} must be a list of tensors")
    problems: list[Problem] = []
    parsed: list[Tensor] = []
    for index, raw in enumerate(tensors):
        try:
            parsed.append(_tensor(raw))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            problems.append(Problem(f"{where}[{index}] {reason}", pointer=f"/{where}/{index}"))
    if problems:
        raise InputError(f"{where} are not V2 tensors", problems=problems)
    return tuple(parsed)


def parse_request(body: bytes) -> tuple[Tensors, str | None]:
    """The inputs and the id of a V2 request; InputError where they are not one or differ in items."""
    try:
        request = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InputError(f"the body is not JSON: {error}") from error
    if not isinstance(request, dict):
        raise InputError("the body must be a JSON object with `inputs`")
    inputs = parse(request.get("inputs"), "inputs")
    counts = {tensor.name: tensor.items for tensor in inputs}
    if len(set(counts.values())) > 1:
        raise InputError(f"the inputs differ in their first dimension, the items: {counts}")
    request_id = request.get("id")
    return inputs, request_id if isinstance(request_id, str) else None


def _tensor(raw: Any) -> Tensor:
    if not isinstance(raw, dict):
        raise TypeError("is not an object")
    shape, data, parameters = raw["shape"], raw["data"], raw.get("parameters")
    if not isinstance(shape, list) or not shape or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError("needs a shape of whole numbers with at least one dimension")
    if not isinstance(data, list) or len(data) not in {shape[0], math.prod(shape)}:
        raise ValueError(f"has data that does not fit the shape {shape}")
    if parameters is not None and not isinstance(parameters, dict):
        raise TypeError("has parameters that are not an object")
    return Tensor(str(raw["name"]), str(raw["datatype"]), tuple(shape), data, parameters or None)


def merge(parts: Sequence[Tensors]) -> Tensors:
    """The parts one after the other; parts without rows do not count. ValueError where kinds differ."""
    if len(parts) == 1:
        return parts[0]
    return tuple(_concatenated(column) for column in zip(*parts, strict=True))


def _concatenated(column: Sequence[Tensor]) -> Tensor:
    filled = [tensor for tensor in column if tensor.items] or [column[0]]
    first = filled[0]
    if len({tensor.kind for tensor in filled}) > 1:
        raise ValueError(f"tensor {first.name!r} is not alike in all parts")
    data = [value for tensor in filled for value in tensor.data]
    shape = (sum(tensor.items for tensor in filled), *first.shape[1:])
    return Tensor(first.name, first.datatype, shape, data, first.parameters)


def split(outputs: Tensors, counts: Sequence[int]) -> list[Tensors]:
    """The outputs of a batch per request, whose items in the batch are `counts`.

    ValueError where the outputs do not have one row an item, or as many as `fan_out` says.
    """
    items = sum(counts)
    fan_out = next((tensor for tensor in outputs if tensor.name == FAN_OUT), None)
    per_item = [int(n) for n in fan_out.data] if fan_out else [1] * items
    if len(per_item) != items:
        raise ValueError(f"fan_out has {len(per_item)} rows for a batch of {items}")
    for tensor in outputs:
        expected = items if tensor is fan_out else sum(per_item)
        if tensor.items != expected:
            raise ValueError(f"output {tensor.name!r} has {tensor.items} rows, not {expected}")
    answers: list[Tensors] = []
    start = row = 0
    for count in counts:
        stop = start + count
        end = row + sum(per_item[start:stop])
        answers.append(
            tuple(
                tensor.rows(start, stop) if tensor is fan_out else tensor.rows(row, end) for tensor in outputs
            )
        )
        start, row = stop, end
    return answers


def dump(key: str, tensors: Iterable[Tensor], **members: Any) -> bytes:
    """The JSON body with the tensors under `key` and the other members that are not None."""
    others = {name: value for name, value in members.items() if value is not None}
    return orjson.dumps({**others, key: [tensor.to_json() for tensor in tensors]})
