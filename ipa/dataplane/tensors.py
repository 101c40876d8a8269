"""V2 tensors in JSON or as bytes: checked, cut into rows, merged into batches, and split again.

Requests and answers are untrusted. `parse_request` and `parse_answer` accept only tensors that can be merged
with and split from those of other requests without shifting a row. Data may be flat or nested; its length is
a multiple of the number of items in both cases, so rows are slices of the list and no element is copied.

In V2's binary extension the header `Inference-Header-Content-Length` has the length of a body's JSON part.
There a tensor has no `data`, but the parameter `binary_data_size`; the bytes follow in the order of the
tensors, little-endian. An element of BYTES is preceded by its length, four bytes.
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import orjson

from ipa.model.errors import InputError, Problem
from ipa.model.serving import FAN_OUT

# A model has a handful of tensors; NumPy takes no more than 64 dimensions.
MAX_TENSORS = 64
MAX_DIMENSIONS = 16
MAX_NAME_LENGTH = 256
# Of an answer; a request has fewer. 50 pictures of 224 × 224 × 3 are fewer too.
MAX_VALUES = 8 * 1024 * 1024
# Work on more than this takes over a millisecond, in which a thread lets other requests go on: bytes of a
# body, or values to be written.
INLINE_BYTES = 64 * 1024
INLINE_VALUES = INLINE_BYTES // 8
# A value as an object, with its place in a list.
VALUE_BYTES = 32
# Values that are written as JSON in one go, within a few milliseconds, in which nothing else runs.
WRITTEN_VALUES = 64 * 1024
# Bytes of the parameters of a tensor, or of a request, as JSON.
MAX_PARAMETERS_BYTES = 64 * 1024

# The parameter of a request that wants the values of all outputs as bytes.
BINARY_OUTPUT = "binary_data_output"
# Parameters of an output that other servers honour; another answer than was asked for is an error.
UNSUPPORTED = frozenset({"classification", "shared_memory_region"})

# https://kserve.github.io/website/docs/concepts/architecture/data-plane/v2-protocol: tensor data types
INTEGERS = {
    **{f"INT{bits}": (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{f"UINT{bits}": (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
}
FLOATS = ("FP16", "BF16", "FP32", "FP64")
# The JSON values of a datatype. BYTES are text or, as MLServer also has them, numbers.
VALUES: Mapping[str, frozenset[type]] = {
    **dict.fromkeys(INTEGERS, frozenset({int})),
    **dict.fromkeys(FLOATS, frozenset({int, float})),
    "BOOL": frozenset({bool}),
    "BYTES": frozenset({str, int}),
}
JSON_LENGTH_HEADER = "inference-header-content-length"
BINARY_CONTENT_TYPE = "application/octet-stream"
BINARY_SIZE = "binary_data_size"
# The binary forms, of struct. BF16 is the upper half of an FP32.
CODES: Mapping[str, str] = {
    **{"BOOL": "?", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q"},
    **{"UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q"},
    **{"FP16": "e", "BF16": "H", "FP32": "f", "FP64": "d"},
}
# The parameter of a BYTES tensor that says how its text stands for bytes.
CONTENT_KIND, BASE64 = "content_type", "base64"
# JSON has null for NaN and infinity. Only a model's answer may have it: its row, not its batch, fails.
NULL = type(None)


@dataclass(frozen=True, slots=True)
class Tensor:
    """A named tensor; its first dimension counts the items.

    `depth` is the number of levels that its data is nested below the first. `has_null` is True if some of its
    numbers are null.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: list[Any]
    parameters: dict[str, Any] | None = None
    depth: int = 0
    has_null: bool = False

    @property
    def items(self) -> int:
        """The number of rows of the tensor."""
        return self.shape[0]

    def rows(self, start: int, stop: int) -> Tensor:
        """The rows `start` to `stop`."""
        if start == 0 and stop == self.items:
            return self
        width = len(self.data) // self.items if self.items else 0
        shape = (stop - start, *self.shape[1:])
        data = self.data[start * width : stop * width]
        has_null = self.has_null and None in _scalars(data, self.depth)
        return Tensor(self.name, self.datatype, shape, data, self.parameters, self.depth, has_null)

    def to_json(self) -> dict[str, Any]:
        """The tensor in the JSON form of the V2 protocol."""
        data: list[Any] | orjson.Fragment = self.data
        if len(self.data) > WRITTEN_VALUES:
            # Written in parts, so that other threads run in between.
            starts = range(0, len(self.data), WRITTEN_VALUES)
            parts = [orjson.dumps(self.data[start : start + WRITTEN_VALUES])[1:-1] for start in starts]
            data = orjson.Fragment(b"".join((b"[", b",".join(parts), b"]")))
        written = {"name": self.name, "datatype": self.datatype, "shape": self.shape, "data": data}
        return {**written, "parameters": self.parameters} if self.parameters else written

    @property
    def kind(self) -> Hashable:
        """The key under which tensors can be merged: name, type, shape of a row, nesting, parameters."""
        parameters = orjson.dumps(self.parameters) if self.parameters else b""
        return self.name, self.datatype, self.shape[1:], self.depth, parameters


Tensors = tuple[Tensor, ...]
NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class InferRequest:
    """A V2 request: its inputs, its id, and the members that are passed to the model with them.

    `wanted` maps the outputs that it names to True if their values are to be bytes, None if it wants all
    outputs; `wants_bytes` is the default for every output.
    """

    inputs: Tensors
    request_id: str | None = None
    members: Mapping[str, Any] = field(default_factory=lambda: NOTHING)
    wanted: Mapping[str, bool] | None = None
    wants_bytes: bool = False

    def is_binary(self, output: str) -> bool:
        """True if the values of that output are to follow the JSON part of the answer as bytes."""
        return self.wants_bytes if self.wanted is None else self.wanted[output]

    def select(self, outputs: Tensors) -> Tensors:
        """Return the outputs that the request names, in its order; InputError lists unknown ones."""
        if self.wanted is None:
            return outputs
        by_name = {tensor.name: tensor for tensor in outputs}
        check_outputs(self.wanted, by_name)
        return tuple(by_name[name] for name in self.wanted)


class UnknownOutputError(InputError):
    """A request names an unknown output."""

    code = "input.output"


def check_outputs(wanted: Iterable[str], known: Iterable[str]) -> None:
    """Raise UnknownOutputError unless all wanted outputs are known."""
    names = [*known]
    if unknown := [name for name in wanted if name not in names]:
        given = ", ".join(map(repr, unknown))
        raise UnknownOutputError(f"there is no output {given}; the outputs are {', '.join(names)}")


def kind_of(tensors: Tensors, members: Mapping[str, Any] = NOTHING) -> Hashable:
    """Return the key under which requests can share a batch."""
    return (orjson.dumps(dict(members)) if members else b"", *(tensor.kind for tensor in tensors))


def items_of(tensors: Tensors) -> int:
    """Return the number of items of a request: the rows of its tensors, 0 without tensors."""
    return tensors[0].items if tensors else 0


def values_of(tensors: Tensors) -> int:
    """Return the number of values of all tensors."""
    return sum(math.prod(tensor.shape) for tensor in tensors)


def parse(tensors: Any, where: str, *, allow_null: bool = False, most_values: int = MAX_VALUES) -> Tensors:
    """Return the tensors of a JSON list; InputError names every entry that is not a V2 tensor."""
    if not isinstance(tensors, list):
        raise InputError(f"{where} must be a list of tensors")
    if len(tensors) > MAX_TENSORS:
        raise InputError(f"{where} has {len(tensors)} tensors; at most {MAX_TENSORS} are accepted")
    problems: list[Problem] = []
    parsed: list[Tensor] = []
    for index, raw in enumerate(tensors):
        try:
            parsed.append(_tensor(raw, allow_null, most_values))
        except (KeyError, TypeError, ValueError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            problems.append(Problem(f"{where}[{index}] {reason}", pointer=f"/{where}/{index}"))
    if problems:
        raise InputError(f"{where} are not V2 tensors", problems=problems)
    names = [tensor.name for tensor in parsed]
    if len(set(names)) < len(names):
        raise InputError(f"{where} has two tensors of one name: {', '.join(names)}")
    return tuple(parsed)


def parse_request(request: Mapping[str, Any], most_values: int = MAX_VALUES) -> InferRequest:
    """Return the V2 request; InputError if it is invalid, or its inputs differ in their number of items."""
    inputs = parse(request.get("inputs"), "inputs", most_values=most_values)
    if not inputs:
        raise InputError("inputs must have at least one tensor")
    counts = {tensor.name: tensor.items for tensor in inputs}
    if len(set(counts.values())) > 1:
        raise InputError(f"the inputs differ in their first dimension, the items: {counts}")
    request_id, parameters = request.get("id"), request.get("parameters")
    if request_id is not None and not (isinstance(request_id, str) and len(request_id) <= MAX_NAME_LENGTH):
        raise InputError(f"id must be a string of at most {MAX_NAME_LENGTH} characters")
    try:
        checked = _parameters(parameters)
    except (TypeError, ValueError) as error:
        raise InputError(f"the request {error}") from error
    # For this server, not for the model: requests that differ in it share batches.
    wants_bytes = bool(checked.pop(BINARY_OUTPUT, False)) if checked else False
    members = {"parameters": checked} if checked else NOTHING
    return InferRequest(
        inputs, request_id, members, wanted_outputs(request.get("outputs"), wants_bytes), wants_bytes
    )


def wanted_outputs(outputs: Any, wants_bytes: bool) -> dict[str, bool] | None:
    """Return the `outputs` of a request by name, True for those wanted as bytes; None if all are wanted.

    InputError: they are not a list of outputs, or request something unsupported.
    """
    if outputs is None:
        return None
    if not isinstance(outputs, list) or len(outputs) > MAX_TENSORS:
        raise InputError(f"outputs must be a list of at most {MAX_TENSORS} outputs")
    wanted: dict[str, bool] = {}
    for index, output in enumerate(outputs):
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str):
            raise InputError(f"outputs[{index}] needs a name")
        parameters = output.get("parameters")
        parameters = parameters if isinstance(parameters, dict) else {}
        if refused := UNSUPPORTED & parameters.keys():
            raise InputError(
                f"outputs[{index}] asks for {', '.join(sorted(refused))}, which is not supported"
            )
        wanted[name] = bool(parameters.get("binary_data", wants_bytes))
    return wanted or None


def parse_answer(body: bytes) -> Tensors:
    """Return the outputs of a V2 response; InputError if it is invalid."""
    outputs = parse(parse_object(body, "the answer").get("outputs"), "outputs", allow_null=True)
    if not outputs:
        raise InputError("outputs must have at least one tensor")
    return outputs


def parse_object(body: bytes, what: str) -> dict[str, Any]:
    """Return the JSON object of the body; InputError if it has none, naming it `what`."""
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InputError(f"{what} is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise InputError(f"{what} must be a JSON object")
    return parsed


def _tensor(raw: Any, allow_null: bool, most_values: int) -> Tensor:
    if not isinstance(raw, dict):
        raise TypeError("is not an object")
    name, datatype, shape, data = raw["name"], raw["datatype"], raw["shape"], raw["data"]
    if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_LENGTH:
        raise ValueError(f"needs a name of 1 to {MAX_NAME_LENGTH} characters")
    if not isinstance(datatype, str) or datatype not in VALUES:
        raise ValueError(f"needs one of the datatypes {', '.join(VALUES)}")
    check_shape(shape, most_values)
    if not isinstance(data, list):
        raise TypeError("needs its data as a list")
    depth = _depth(data, shape)
    scalars = _scalars(data, depth)
    is_float = datatype in FLOATS
    types = set(map(type, scalars))
    has_null = allow_null and is_float and NULL in types
    if not types <= VALUES[datatype] | ({NULL} if has_null else set()):
        wrong = ", ".join(sorted(_NAMES.get(each, each.__name__) for each in types - VALUES[datatype]))
        raise ValueError(f"has data that is not {datatype}: {wrong}")
    if datatype in INTEGERS and scalars:
        low, high = INTEGERS[datatype]
        if min(scalars) < low or max(scalars) > high:
            raise ValueError(f"has numbers outside {datatype}, {low} to {high}")
    parameters = _parameters(raw.get("parameters"))
    return Tensor(name, datatype, tuple(shape), data, parameters, depth, has_null)


def check_shape(shape: Any, most_values: int) -> int:
    """Return the number of values of the shape; ValueError: it is invalid, or has too many."""
    # JSON true is no number, though a bool is an int in Python.
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape[: MAX_DIMENSIONS + 1]):
        raise ValueError("needs a shape of whole numbers")
    if not 1 <= len(shape) <= MAX_DIMENSIONS:
        raise ValueError(f"needs a shape of 1 to {MAX_DIMENSIONS} dimensions")
    if (values := math.prod(shape)) > most_values:
        raise ValueError(f"has more than {most_values} values")
    return values


_NAMES = {NULL: "null", bool: "true or false", dict: "an object", list: "a list", str: "a string"}


def _parameters(raw: Any) -> dict[str, Any] | None:
    if raw is not None and not isinstance(raw, dict):
        raise TypeError("has parameters that are not an object")
    if raw:
        try:
            size = len(orjson.dumps(raw))
        except TypeError as error:  # nested deeper than orjson writes, though it read it
            raise ValueError(f"has parameters that cannot be passed on: {error}") from error
        if size > MAX_PARAMETERS_BYTES:
            raise ValueError(f"has parameters of {size} bytes; at most {MAX_PARAMETERS_BYTES} are accepted")
    return raw or None


def _depth(data: list[Any], shape: Sequence[int]) -> int:
    """The number of levels that the data is nested below the first; ValueError if it does not fit the shape.

    All rows must have the same form: nested down to one dimension, and flat below it.
    """
    lists = [data]
    for depth, size in enumerate(shape):
        lengths = set(map(len, lists))
        types = set(map(type, chain.from_iterable(lists)))
        if list not in types:
            if lengths <= {math.prod(shape[depth:])}:
                return depth
            break
        if types != {list} or lengths != {size}:
            break
        lists = list(chain.from_iterable(lists))
    raise ValueError(f"has data that does not fit the shape {list(shape)}")


def _scalars(data: list[Any], depth: int) -> list[Any]:
    for _ in range(depth):
        data = list(chain.from_iterable(data))
    return data


def merge(parts: Sequence[Tensors]) -> Tensors:
    """Concatenate the parts, ignoring those without rows. ValueError: their kinds differ."""
    if len(parts) == 1:
        return parts[0]
    merged = []
    for column in zip(*parts, strict=True):
        filled = [tensor for tensor in column if tensor.items] or [column[0]]
        first = filled[0]
        if len({tensor.kind for tensor in filled}) > 1:
            raise ValueError(f"tensor {first.name!r} differs between the parts")
        shape = (sum(tensor.items for tensor in filled), *first.shape[1:])
        data = [value for tensor in filled for value in tensor.data]
        merged.append(replace(first, shape=shape, data=data, has_null=any(it.has_null for it in filled)))
    return tuple(merged)


def split(outputs: Tensors, counts: Sequence[int]) -> list[Tensors]:
    """Split the outputs of a batch by request; `counts` are the items of each in the batch.

    ValueError: the number of rows is not that of the items, or of the tensor `fan_out`.
    """
    items = sum(counts)
    fan_out = next((tensor for tensor in outputs if tensor.name == FAN_OUT), None)
    per_item = [1] * items
    if fan_out:
        per_item = fan_out.data
        if fan_out.datatype not in INTEGERS or len(fan_out.shape) != 1 or min(per_item, default=0) < 0:
            raise ValueError(f"{FAN_OUT} must have one whole number, 0 or more, per item")
        if len(per_item) != items:
            raise ValueError(f"fan_out has {len(per_item)} rows for a batch of {items}")
    total = sum(per_item)
    for tensor in outputs:
        expected = items if tensor is fan_out else total
        if tensor.items != expected:
            raise ValueError(f"output {tensor.name!r} has {tensor.items} rows, not {expected}")
    answers: list[Tensors] = []
    start = row = 0
    for count in counts:
        stop, end = start + count, row + sum(per_item[start : start + count])
        answers.append(tuple(it.rows(start, stop) if it is fan_out else it.rows(row, end) for it in outputs))
        start, row = stop, end
    return answers


def dump(key: str, tensors: Iterable[Tensor], **members: Any) -> bytes:
    """Return the JSON body with the tensors under `key`, and the members that are not None."""
    others = {name: value for name, value in members.items() if value is not None}
    return orjson.dumps({**others, key: [tensor.to_json() for tensor in tensors]})


def json_part(body: bytes, length: str | None) -> tuple[bytes, bytes]:
    """Return the JSON part of a body and the bytes after it; InputError: the header is not a valid length."""
    if length is None:
        return body, b""
    if not (length.isascii() and length.isdecimal()) or int(length[:20]) > len(body):
        raise InputError(
            f"{JSON_LENGTH_HEADER}: {length[:40]!r} is not a length within the body of {len(body)} bytes"
        )
    return body[: int(length)], body[int(length) :]


def made_bytes(tensors: Any, rest: bytes, most_values: int) -> int:
    """Return the most bytes of memory that `fill` allocates; 0 for tensors that it refuses."""
    made = 0
    for tensor in tensors if isinstance(tensors, list) else ():
        if not isinstance(tensor, dict) or BINARY_SIZE not in (tensor.get("parameters") or ()):
            continue
        try:
            values = check_shape(tensor.get("shape"), most_values)
        except ValueError:
            return 0
        # An element is three objects' worth: bytes, text, and their places.
        made += VALUE_BYTES * (3 * values if tensor.get("datatype") == "BYTES" else values)
    return made + 2 * len(rest)


def fill(tensors: Any, rest: bytes, kind_of: Callable[[str], str | None], most_values: int) -> None:
    """Give each tensor of a JSON list whose values are in `rest` its `data`, and remove `binary_data_size`.

    `kind_of(name)` is the content type that the model declares for an input of BYTES: if that is base64, or
    if the bytes are not text, they are passed on as base64. InputError: sizes, shapes and bytes do not fit.
    """
    start = 0
    for tensor in tensors if isinstance(tensors, list) else ():
        parameters = tensor.get("parameters") if isinstance(tensor, dict) else None
        if not isinstance(parameters, dict) or BINARY_SIZE not in parameters:
            continue
        name, size = tensor.get("name"), parameters.pop(BINARY_SIZE)
        if not (type(size) is int and 0 <= size <= len(rest) - start):
            raise InputError(f"input {name!r}: {BINARY_SIZE} {size!r} is not a size within the body")
        if "data" in tensor:
            raise InputError(f"input {name!r} has both data and {BINARY_SIZE}")
        raw = rest[start : start + size]
        start += size
        try:
            values = check_shape(tensor["shape"], most_values)
            tensor["data"] = _values(tensor, values, raw, parameters, kind_of(str(name)))
        except (ValueError, TypeError, KeyError) as error:
            reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            raise InputError(f"input {name!r} {reason}") from error
    if start < len(rest):
        raise InputError(f"{len(rest) - start} bytes after the tensors belong to no tensor")


def _values(
    tensor: dict[str, Any], values: int, raw: bytes, parameters: dict[str, Any], kind: str | None
) -> Sequence[Any]:
    """The values of a tensor; BYTES become base64 if they are not text, or the model declares so."""
    datatype = tensor["datatype"]
    if datatype == "BYTES":
        elements = _elements(raw, values)
        if CONTENT_KIND in parameters or kind != BASE64:
            try:
                return [element.decode() for element in elements]
            except UnicodeDecodeError:
                if CONTENT_KIND in parameters:
                    raise ValueError(f"has BYTES that are not {CONTENT_KIND} text") from None
        parameters[CONTENT_KIND] = BASE64
        return [base64.b64encode(element).decode("ascii") for element in elements]
    code = CODES.get(datatype, "") if isinstance(datatype, str) else ""
    if not code:
        raise ValueError(f"has the datatype {datatype!r}, which has no binary form")
    if len(raw) != values * struct.calcsize(f"<{code}"):
        raise ValueError(f"has {len(raw)} bytes, which do not fit {datatype} of shape {tensor['shape']}")
    numbers = [*struct.unpack(f"<{values}{code}", raw)]
    if datatype == "BF16":
        words = struct.pack(f"<{values}I", *(value << 16 for value in numbers))
        numbers = [*struct.unpack(f"<{values}f", words)]
    # A sum is quicker than a look at each; that of finite numbers may be infinite too.
    if datatype in FLOATS and not math.isfinite(sum(numbers)) and not all(map(math.isfinite, numbers)):
        raise ValueError("has NaN or infinity, which models are not sent")
    return numbers


def _elements(raw: bytes, values: int) -> list[bytes]:
    """The elements of BYTES, at most as many as the shape has."""
    elements: list[bytes] = []
    start = 0
    while start < len(raw) and len(elements) < values:
        begin = start + 4
        start = begin + int.from_bytes(raw[start:begin], "little")
        if start > len(raw):
            raise ValueError("has an element of BYTES that is longer than the rest of the data")
        elements.append(raw[begin:start])
    if start < len(raw) or len(elements) < values:
        raise ValueError(f"has {len(raw)} bytes, which are not {values} elements of BYTES, as its shape says")
    return elements


def dump_with_bytes(
    outputs: Tensors, is_binary: Callable[[str], bool], **members: Any
) -> tuple[bytes, int | None]:
    """Return the body of an answer and the length of its JSON part, None if it is only JSON.

    `is_binary(name)` is true for the outputs whose values are to follow as bytes.
    """
    parts: list[bytes] = []
    written = []
    for tensor in outputs:
        raw = _raw(tensor) if is_binary(tensor.name) else None
        if raw is None:
            written.append(tensor.to_json())
            continue
        parameters = dict(tensor.parameters or {})
        if tensor.datatype == "BYTES" and parameters.get(CONTENT_KIND) == BASE64:
            # In binary form the bytes need no content type.
            del parameters[CONTENT_KIND]
        head = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        written.append({**head, "parameters": {**parameters, BINARY_SIZE: len(raw)}})
        parts.append(raw)
    others = {name: value for name, value in members.items() if value is not None}
    text = orjson.dumps({**others, "outputs": written})
    return b"".join((text, *parts)), len(text) if parts else None


def _raw(tensor: Tensor) -> bytes | None:
    """The values as bytes; None if they have no binary form, as BYTES that are numbers."""
    values, kind = _scalars(tensor.data, tensor.depth), tensor.datatype
    try:
        if kind == "BYTES":
            is_base64 = (tensor.parameters or {}).get(CONTENT_KIND) == BASE64
            parts = [base64.b64decode(it, validate=True) if is_base64 else it.encode() for it in values]
            return b"".join(part for it in parts for part in (len(it).to_bytes(4, "little"), it))
        if kind == "BF16":
            words = struct.unpack(f"<{len(values)}I", struct.pack(f"<{len(values)}f", *values))
            values = [word >> 16 for word in words]
        return struct.pack(f"<{len(values)}{CODES[kind]}", *values)
    except (AttributeError, TypeError, ValueError, OverflowError, struct.error):
        return None
