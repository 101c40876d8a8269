"""The binary tensor extension of the V2 protocol: values as bytes after the JSON part of a body.

The header `Inference-Header-Content-Length` has the length of the JSON part. There a tensor has no `data`,
but the parameter `binary_data_size`; the bytes follow in the order of the tensors, little-endian. An element
of BYTES is preceded by its length, four bytes.
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import base64
import math
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson

from ipa.dataplane.tensors import FLOATS, VALUE_BYTES, Tensor, Tensors, check_shape
from ipa.model.errors import InputError

JSON_LENGTH_HEADER = "inference-header-content-length"
CONTENT_TYPE = "application/octet-stream"
SIZE = "binary_data_size"
# Of struct. BF16 is the upper half of an FP32.
CODES: Mapping[str, str] = {
    **{"BOOL": "?", "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q"},
    **{"UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q"},
    **{"FP16": "e", "FP32": "f", "FP64": "d"},
}
# The parameter of a BYTES tensor that says how its text stands for bytes.
CONTENT_KIND, BASE64 = "content_type", "base64"


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
    """Return the bytes of memory that `fill` takes at most; 0 for what it refuses."""
    made = 0
    for tensor in tensors if isinstance(tensors, list) else ():
        if not isinstance(tensor, dict) or SIZE not in (tensor.get("parameters") or ()):
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

    `kind_of(name)` is the content type that the model declares for an input of BYTES: with base64, or where
    they are no text, its bytes are passed on as base64. InputError: sizes, shapes and bytes do not fit.
    """
    start = 0
    for tensor in tensors if isinstance(tensors, list) else ():
        parameters = tensor.get("parameters") if isinstance(tensor, dict) else None
        if not isinstance(parameters, dict) or SIZE not in parameters:
            continue
        name, size = tensor.get("name"), parameters.pop(SIZE)
        if not (type(size) is int and 0 <= size <= len(rest) - start):
            raise InputError(f"input {name!r}: {SIZE} {size!r} is not a size within the body")
        if "data" in tensor:
            raise InputError(f"input {name!r} has both data and {SIZE}")
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
    datatype = tensor["datatype"]
    if datatype == "BYTES":
        return _text(_elements(raw, values), parameters, kind)
    code = CODES.get(datatype, "H" if datatype == "BF16" else "") if isinstance(datatype, str) else ""
    if not code:
        raise ValueError(f"has the datatype {datatype!r}, which has no binary form")
    if len(raw) != values * struct.calcsize(f"<{code}"):
        raise ValueError(f"has {len(raw)} bytes, which do not fit {datatype} of shape {tensor['shape']}")
    found = [*struct.unpack(f"<{values}{code}", raw)]
    if datatype == "BF16":
        words = struct.pack(f"<{values}I", *(value << 16 for value in found))
        found = [*struct.unpack(f"<{values}f", words)]
    # A sum is quicker than a look at each; that of finite numbers may be infinite too.
    if datatype in (*FLOATS,) and not math.isfinite(sum(found)) and not all(map(math.isfinite, found)):
        raise ValueError("has NaN or infinity, which models are not sent")
    return found


def _elements(raw: bytes, values: int) -> list[bytes]:
    """The elements of BYTES, no more than the shape has."""
    found: list[bytes] = []
    start = 0
    while start < len(raw) and len(found) < values:
        length = int.from_bytes(raw[start : start + 4], "little")
        end = start + 4 + length
        if end > len(raw):
            raise ValueError("has an element of BYTES that is longer than its bytes")
        found.append(raw[start + 4 : end])
        start = end
    if start < len(raw) or len(found) < values:
        raise ValueError(f"has {len(raw)} bytes, which are not {values} elements of BYTES, as its shape says")
    return found


def pack_elements(elements: Iterable[bytes]) -> bytes:
    """Return the bytes of a tensor of BYTES."""
    return b"".join(part for it in elements for part in (len(it).to_bytes(4, "little"), it))


def _text(elements: list[bytes], parameters: dict[str, Any], kind: str | None) -> list[str]:
    if CONTENT_KIND in parameters or kind != BASE64:
        try:
            return [element.decode() for element in elements]
        except UnicodeDecodeError:
            if CONTENT_KIND in parameters:
                raise ValueError(f"has BYTES that are not {CONTENT_KIND} text") from None
    parameters[CONTENT_KIND] = BASE64
    return [base64.b64encode(element).decode("ascii") for element in elements]


def dump_with_bytes(
    outputs: Tensors, is_binary: Callable[[str], bool], **members: Any
) -> tuple[bytes, int | None]:
    """Return the body of an answer and the length of its JSON part, None if it is nothing but JSON.

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
            # Its bytes stand for themselves here.
            del parameters[CONTENT_KIND]
        head = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        written.append({**head, "parameters": {**parameters, SIZE: len(raw)}})
        parts.append(raw)
    others = {name: value for name, value in members.items() if value is not None}
    text = orjson.dumps({**others, "outputs": written})
    return b"".join((text, *parts)), len(text) if parts else None


def _raw(tensor: Tensor) -> bytes | None:
    """The values as bytes; None if they have none: BYTES that are numbers."""
    values = tensor.scalars()
    if tensor.datatype == "BYTES":
        if not all(isinstance(value, str) for value in values):
            return None
        is_base64 = (tensor.parameters or {}).get(CONTENT_KIND) == BASE64
        try:
            found = [base64.b64decode(it, validate=True) if is_base64 else it.encode() for it in values]
        except ValueError:
            return None
        return pack_elements(found)
    if tensor.datatype == "BF16":
        words = struct.unpack(f"<{len(values)}I", struct.pack(f"<{len(values)}f", *values))
        return struct.pack(f"<{len(values)}H", *(word >> 16 for word in words))
    try:
        return struct.pack(f"<{len(values)}{CODES[tensor.datatype]}", *values)
    except (OverflowError, struct.error):
        return None
