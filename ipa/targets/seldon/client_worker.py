"""One request by Seldon's own client, as a program: JSON in on standard input, JSON out.

It runs in the interpreter that has seldon-core, which may be another than the service's: seldon-core 1.17.1,
the last under the Apache License, wants older versions of packages that the service has. So nothing that
needs those is imported. `SeldonClient` has no timeouts: an alarm ends it.

V2 over gRPC, which `SeldonClient` does not speak, needs grpcio and protobuf alone.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

# The messages of V2 over gRPC. The file is loaded by its path: it needs protobuf and nothing of this package.
MESSAGES = Path(__file__).parents[2] / "dataplane" / "grpc_messages.py"
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
    grpc, factory = import_module("grpc"), import_module("google.protobuf.message_factory")
    if not hasattr(factory, "GetMessageClass"):
        # protobuf 3.20, which seldon-core 1.17.1 wants.
        vars(factory)["GetMessageClass"] = factory.MessageFactory().GetPrototype
    spec = spec_from_file_location("grpc_messages", MESSAGES)
    assert spec is not None and spec.loader is not None
    v2 = module_from_spec(spec)
    spec.loader.exec_module(v2)
    request = _v2_request(v2, asked)
    metadata = (("seldon", asked["name"]), ("namespace", asked["namespace"]))
    with grpc.insecure_channel(asked["endpoint"]) as channel:
        read = v2.CLASSES["ModelInferResponse"].FromString
        infer = channel.unary_unary(INFER, type(request).SerializeToString, read)
        result, fault, latency_s = _within(
            # The alarm is for a name that does not resolve.
            asked["timeout_s"] + 1.0,
            lambda: infer(request, timeout=asked["timeout_s"], metadata=metadata),
        )
    if result is None:
        return {"answer": None, "detail": fault, "latency_s": latency_s}
    outputs = [_v2_output(v2, tensor) for tensor in result.outputs]
    answer = {"model_name": result.model_name, "outputs": outputs}
    return {"answer": answer, "detail": "", "latency_s": latency_s}


def _v2_output(v2: ModuleType, tensor: Any) -> dict[str, Any]:
    """The output in the JSON form of V2; without data if its values came raw."""
    values = list(getattr(tensor.contents, v2.CONTENTS.get(tensor.datatype, "bytes_contents")))
    data = [value.decode("utf-8", "replace") if isinstance(value, bytes) else value for value in values]
    found = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
    return {**found, "data": data} if data else found


def _v2_request(v2: ModuleType, asked: dict[str, Any]) -> Any:
    body = asked["body"]
    request = v2.CLASSES["ModelInferRequest"](model_name=asked["model"], id=str(body.get("id") or ""))
    v2.set_parameters(request, (body.get("parameters") or {}).items())
    for given in body.get("inputs") or ():
        field = v2.CONTENTS.get(given["datatype"])
        if field is None:
            raise SystemExit(f"datatype {given['datatype']} has no field in a gRPC request")
        tensor = request.inputs.add(name=given["name"], datatype=given["datatype"], shape=given["shape"])
        values = _flat(given["data"])
        if field == "bytes_contents":
            values = [str(value).encode() for value in values]
        getattr(tensor.contents, field).extend(values)
        v2.set_parameters(tensor, (given.get("parameters") or {}).items())
    return request


def _flat(data: Any) -> list[Any]:
    return [value for each in data for value in _flat(each)] if isinstance(data, list) else [data]


if __name__ == "__main__":
    main()
