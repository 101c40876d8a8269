"""The messages of the V2 protocol over gRPC, made from their fields as open_inference_grpc.proto has them.

They are in a pool of their own: other packages of the same process register messages of the same names.
https://github.com/open-inference/open-inference-protocol/blob/main/specification/protocol/open_inference_grpc.proto
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"
# The fields of each message in the order of their numbers, which begin at 1. `*` repeats, `map` is by text,
# and `|` begins a choice of one. Messages that are nested in the file are not here: the bytes are the same.
MESSAGES: Mapping[str, str] = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "bool live",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "bool ready",
    "ModelReadyRequest": "string name, string version",
    "ModelReadyResponse": "bool ready",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "string name, string version, string* extensions",
    "ModelMetadataRequest": "string name, string version",
    "TensorMetadata": "string name, string datatype, int64* shape, map parameters",
    "ModelMetadataResponse": "string name, string* versions, string platform, TensorMetadata* inputs, "
    "TensorMetadata* outputs",
    "InferParameter": "|bool bool_param, |int64 int64_param, |string string_param, |double double_param, "
    "|uint64 uint64_param",
    "InferTensorContents": "bool* bool_contents, int32* int_contents, int64* int64_contents, "
    "uint32* uint_contents, uint64* uint64_contents, float* fp32_contents, double* fp64_contents, "
    "bytes* bytes_contents",
    "InferTensor": "string name, string datatype, int64* shape, map parameters, InferTensorContents contents",
    "InferRequestedOutputTensor": "string name, map parameters",
    "ModelInferRequest": "string model_name, string model_version, string id, map parameters, "
    "InferTensor* inputs, InferRequestedOutputTensor* outputs, bytes* raw_input_contents",
    "ModelInferResponse": "string model_name, string model_version, string id, map parameters, "
    "InferTensor* outputs, bytes* raw_output_contents",
}
Field = descriptor_pb2.FieldDescriptorProto
SCALARS = {
    **{"bool": Field.TYPE_BOOL, "string": Field.TYPE_STRING, "bytes": Field.TYPE_BYTES},
    **{"int32": Field.TYPE_INT32, "int64": Field.TYPE_INT64},
    **{"uint32": Field.TYPE_UINT32, "uint64": Field.TYPE_UINT64},
    **{"float": Field.TYPE_FLOAT, "double": Field.TYPE_DOUBLE},
}


def _classes() -> Mapping[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="ipa.proto", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, text in enumerate(filter(None, fields.split(", ")), 1):
            _add_field(message, number, text)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = (pool.FindMessageTypeByName(f"{PACKAGE}.{name}") for name in MESSAGES)
    return {each.name: message_factory.GetMessageClass(each) for each in found}


def _add_field(message: Any, number: int, text: str) -> None:
    kind, name = text.lstrip("|").split()
    is_repeated = kind.endswith("*") or kind == "map"
    label = Field.LABEL_REPEATED if is_repeated else Field.LABEL_OPTIONAL
    field = message.field.add(name=name, number=number, label=label)
    kind = kind.rstrip("*")
    if kind == "map":
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        _add_field(entry, 1, "string key")
        _add_field(entry, 2, "InferParameter value")
        field.type, field.type_name = Field.TYPE_MESSAGE, f".{PACKAGE}.{message.name}.ParametersEntry"
    elif kind in SCALARS:
        field.type = SCALARS[kind]
    else:
        field.type, field.type_name = Field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    if text.startswith("|"):
        if not message.oneof_decl:
            message.oneof_decl.add(name="parameter_choice")
        field.oneof_index = 0


CLASSES = _classes()
# The field of typed contents by datatype. FP16 and BF16 have none: they are raw.
CONTENTS: Mapping[str, str] = {
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    **{"BOOL": "bool_contents", "INT64": "int64_contents", "UINT64": "uint64_contents"},
    **{"FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents"},
}


# The number of the field of the inputs in a request, and of the contents in an input.
NESTED = 5


def count_fields(message: memoryview, most: int, depth: int = 2) -> int:
    """Return the number of fields of a message, with those of its inputs and their contents, up to `most`.

    ValueError, IndexError: it is no message.
    """
    at = found = 0
    while at < len(message) and found <= most:
        tag, at = _varint(message, at)
        found += 1
        kind = tag & 7
        if kind not in _FIXED:
            raise ValueError(f"a field of wire type {kind}")
        size = _FIXED[kind]
        if size is None:
            size, at = _varint(message, at)
        if kind == _DELIMITED:
            if tag >> 3 == NESTED and depth:
                found += count_fields(message[at : at + size], most - found, depth - 1)
            at += size
        elif kind:
            at += size
    return found


# The wire types of protobuf: the bytes of a fixed field, None if a number follows.
_DELIMITED = 2
_FIXED: Mapping[int, int | None] = {0: None, 1: 8, _DELIMITED: None, 5: 4}


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """The number that begins there, and where it ends."""
    found = shift = 0
    while (byte := message[at]) & 128:
        found |= (byte & 127) << shift
        shift, at = shift + 7, at + 1
        if shift > 63:
            raise ValueError("a number of more than ten bytes")
    return found | byte << shift, at + 1


def parameters_of(message: Any) -> dict[str, Any]:
    """Return the parameters of a message by name."""
    chosen = (
        (name, value, value.WhichOneof("parameter_choice")) for name, value in message.parameters.items()
    )
    return {name: getattr(value, choice) for name, value, choice in chosen if choice}


def set_parameters(message: Any, parameters: Iterable[tuple[str, Any]]) -> None:
    """Set the parameters of a message, but for those that are lists or objects, for which it has no form."""
    kinds = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}
    for name, value in parameters:
        if type(value) in kinds:
            setattr(message.parameters[name], kinds[type(value)], value)
