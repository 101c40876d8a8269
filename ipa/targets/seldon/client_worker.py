"""One request by Seldon's own client, as a program: JSON in on standard input, JSON out.

It runs in the interpreter that has seldon-core, which may be another than the service's: seldon-core 1.17.1,
the last under the Apache License, wants older versions of packages that the service has. So nothing of this
package is imported. `SeldonClient` has no timeouts: an alarm ends it.

V2 over gRPC, which `SeldonClient` does not speak, needs grpcio and protobuf alone.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from importlib import import_module
from types import FrameType
from typing import Any

# Of a V2 tensor: the field that holds its values, by datatype.
CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
# Numbers of types and labels in descriptor.proto.
DOUBLE, FLOAT, INT64, UINT64, INT32, BOOL, STRING, MESSAGE, BYTES, UINT32 = 1, 2, 3, 4, 5, 8, 9, 11, 12, 13
OPTIONAL, REPEATED = 1, 3
_CONTENT_TYPES = (BOOL, INT32, INT64, UINT32, UINT64, FLOAT, DOUBLE, BYTES)
# The part of grpc_service.proto that an inference needs: fields by message, as (name, number, type, label,
# type name).
MESSAGES: dict[str, list[tuple[str, int, int, int, str]]] = {
    "InferParameter": [
        ("bool_param", 1, BOOL, OPTIONAL, ""),
        ("int64_param", 2, INT64, OPTIONAL, ""),
        ("string_param", 3, STRING, OPTIONAL, ""),
    ],
    "InferTensorContents": [
        (name, number, kind, REPEATED, "")
        for number, (name, kind) in enumerate(
            zip(dict.fromkeys(CONTENTS.values()), _CONTENT_TYPES, strict=True), 1
        )
    ],
    # A map is a repeated message of its entries.
    "ParametersEntry": [
        ("key", 1, STRING, OPTIONAL, ""),
        ("value", 2, MESSAGE, OPTIONAL, "InferParameter"),
    ],
    "Tensor": [
        ("name", 1, STRING, OPTIONAL, ""),
        ("datatype", 2, STRING, OPTIONAL, ""),
        ("shape", 3, INT64, REPEATED, ""),
        ("parameters", 4, MESSAGE, REPEATED, "ParametersEntry"),
        ("contents", 5, MESSAGE, OPTIONAL, "InferTensorContents"),
    ],
    "ModelInferRequest": [
        ("model_name", 1, STRING, OPTIONAL, ""),
        ("id", 3, STRING, OPTIONAL, ""),
        ("parameters", 4, MESSAGE, REPEATED, "ParametersEntry"),
        ("inputs", 5, MESSAGE, REPEATED, "Tensor"),
    ],
    "ModelInferResponse": [
        ("model_name", 1, STRING, OPTIONAL, ""),
        ("id", 3, STRING, OPTIONAL, ""),
        ("outputs", 5, MESSAGE, REPEATED, "Tensor"),
        ("raw_output_contents", 6, BYTES, REPEATED, ""),
    ],
}
INFER = "/inference.GRPCInferenceService/ModelInfer"


class Late(Exception):  # noqa: N818  (no error: the answer to the alarm)
    """The alarm: there is no answer in time."""


def main() -> None:
    """Send the request that standard input describes, and print its result."""
    asked = json.load(sys.stdin)
    send = _v2_grpc if (asked["protocol"], asked["transport"]) == ("v2", "grpc") else _by_client
    try:
        found = send(asked)
    except ImportError as error:
        found = {"lacks": str(error)}
    print(json.dumps(found, default=str))  # noqa: T201


def _ring(_signal: int, _frame: FrameType | None) -> None:
    raise Late


def _within(timeout_s: float, call: Any) -> tuple[Any, str, float]:
    """The result of the call, the fault, and the time that it took."""
    signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    started_s, result, fault = time.perf_counter(), None, ""
    try:
        result = call()
    except Exception as error:
        fault = f"no answer: {_brief(str(error) or type(error).__name__)}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    took_s = time.perf_counter() - started_s
    if took_s >= timeout_s:
        # The client turns exceptions of all kinds into a message.
        result, fault = None, f"no answer within {timeout_s:g} s"
    return result, fault, took_s


def _brief(message: str) -> str:
    """The details of gRPC's error, whose text has many lines; else the message."""
    found = re.search(r'details = "([^"]*)"', message)
    return found.group(1) if found else message


def _by_client(asked: dict[str, Any]) -> dict[str, Any]:
    """The result of a request by `SeldonClient`."""
    client = import_module("seldon_core.seldon_client").SeldonClient(
        gateway="istio" if asked["gateway"] else "seldon",
        transport=asked["transport"],
        namespace=asked["namespace"],
        deployment_name=asked["name"],
        gateway_endpoint=asked["endpoint"],
    )
    result, fault, latency_s = _within(asked["timeout_s"], lambda: client.predict(raw_data=asked["body"]))
    if result is not None and not result.success:
        fault = f"it answered {_brief(result.msg)}"
    return {"answer": getattr(result, "response", None), "detail": fault, "latency_s": latency_s}


def _v2_grpc(asked: dict[str, Any]) -> dict[str, Any]:
    """The result of a V2 request over gRPC."""
    grpc = import_module("grpc")
    request_class, response_class = _v2_classes()
    request = _v2_request(request_class, asked)
    metadata = (("seldon", asked["name"]), ("namespace", asked["namespace"]))
    with grpc.insecure_channel(asked["endpoint"]) as channel:
        infer = channel.unary_unary(INFER, request_class.SerializeToString, response_class.FromString)
        result, fault, latency_s = _within(
            # The alarm is for a name that does not resolve.
            asked["timeout_s"] + 1.0,
            lambda: infer(request, timeout=asked["timeout_s"], metadata=metadata),
        )
    if result is None:
        return {"answer": None, "detail": fault, "latency_s": latency_s}
    outputs = [_v2_output(tensor) for tensor in result.outputs]
    answer = {"model_name": result.model_name, "outputs": outputs}
    return {"answer": answer, "detail": "", "latency_s": latency_s}


def _v2_output(tensor: Any) -> dict[str, Any]:
    """The output in the JSON form of V2; without data if its values came raw."""
    values = list(getattr(tensor.contents, CONTENTS.get(tensor.datatype, "bytes_contents")))
    data = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]
    found = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    return {**found, "data": data} if data else found


def _v2_request(request_class: Any, asked: dict[str, Any]) -> Any:
    body = asked["body"]
    request = request_class(model_name=asked["model"], id=str(body.get("id") or ""))
    _add_parameters(request, body.get("parameters"))
    for given in body.get("inputs") or ():
        field = CONTENTS.get(given["datatype"])
        if field is None:
            raise SystemExit(f"datatype {given['datatype']} has no field in a gRPC request")
        tensor = request.inputs.add(name=given["name"], datatype=given["datatype"], shape=given["shape"])
        values = _flat(given["data"])
        if field == "bytes_contents":
            values = [str(value).encode() for value in values]
        getattr(tensor.contents, field).extend(values)
        _add_parameters(tensor, given.get("parameters"))
    return request


def _add_parameters(message: Any, parameters: Any) -> None:
    for key, value in (parameters or {}).items():
        entry = message.parameters.add(key=key)
        kind = {bool: "bool_param", int: "int64_param"}.get(type(value), "string_param")
        setattr(entry.value, kind, value if kind != "string_param" else str(value))


def _flat(data: Any) -> list[Any]:
    return [value for each in data for value in _flat(each)] if isinstance(data, list) else [data]


def _v2_classes() -> tuple[Any, Any]:
    """The classes of the request and its response, made of `MESSAGES`."""
    descriptors = import_module("google.protobuf.descriptor_pb2")
    factory = import_module("google.protobuf.message_factory")
    pool = import_module("google.protobuf.descriptor_pool").DescriptorPool()
    file = descriptors.FileDescriptorProto(name="v2.proto", package="inference", syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        if name == "InferParameter":
            message.oneof_decl.add(name="parameter_choice")
        for field_name, number, kind, label, type_name in fields:
            field = message.field.add(name=field_name, number=number, type=kind, label=label)
            if type_name:
                field.type_name = f".inference.{type_name}"
            if name == "InferParameter":
                field.oneof_index = 0
    pool.AddSerializedFile(file.SerializeToString())
    found = [pool.FindMessageTypeByName(f"inference.{name}") for name in list(MESSAGES)[-2:]]
    if hasattr(factory, "GetMessageClass"):
        first, second = map(factory.GetMessageClass, found)
    else:
        # protobuf 3.20, which seldon-core 1.17.1 wants.
        first, second = map(factory.MessageFactory(pool).GetPrototype, found)
    return first, second


if __name__ == "__main__":
    main()
