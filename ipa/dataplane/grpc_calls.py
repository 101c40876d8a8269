"""V2 over gRPC at the port of an application: each call is answered as the same request over HTTP would be.

A call is a request of HTTP/2 (`ipa.serving.http2`), whose body is one message and whose status is in the
trailers. Contents become binary tensors; an answer has raw contents if its request has, else typed ones. A
deadline of the caller bounds the time budget. Needs the package protobuf.
https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import re
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import orjson

from ipa.dataplane import binary, compression
from ipa.dataplane.expectation import PUID_HEADER, TIMING_HEADER
from ipa.dataplane.http import (
    BUDGET_HEADER,
    GRPC_TYPE,
    LIST_VALUES,
    MAX_BUDGET_S,
    Application,
    Call,
    HttpError,
    Response,
    inflate,
)
from ipa.dataplane.tensors import BINARY_OUTPUT, INLINE_BYTES, VALUE_BYTES
from ipa.serving.body_budget import aside

PASSED_HEADERS = (BUDGET_HEADER, PUID_HEADER)
TOLD_HEADERS = (PUID_HEADER, TIMING_HEADER)
# The numbers of gRPC's statuses by those of HTTP; any other is INTERNAL.
STATUSES = {
    **{400: 3, 404: 5, 405: 12, 501: 12},  # INVALID_ARGUMENT, NOT_FOUND, UNIMPLEMENTED
    **{413: 8, 503: 14, 504: 4},  # RESOURCE_EXHAUSTED, UNAVAILABLE, DEADLINE_EXCEEDED
}
OK, INTERNAL = 0, 13
# Before a message: a flag that is set if it is compressed, and its length.
PREFIX = struct.Struct(">BI")
TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")
UNITS_S = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
Method = Callable[[Any, Call], Awaitable[tuple[Any, Mapping[str, str]]]]


class GrpcCalls:
    """The calls of gRPC, each answered as the application answers the same request."""

    def __init__(self, application: Application) -> None:
        self._application = application
        self._methods: Mapping[str, Method] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }

    async def answer(self, call: Call) -> Response:
        """Answer a call. HttpError: it cannot be answered."""
        try:
            from ipa.dataplane import grpc_messages
        except ImportError as error:
            raise HttpError(501, "unsupported", f"gRPC needs the package protobuf: {error}") from error
        self._messages = grpc_messages
        service, _, name = call.path.strip("/").partition("/")
        method, most_fields = self._methods.get(name), call.limits.values // LIST_VALUES
        if method is None or service != grpc_messages.SERVICE:
            raise HttpError(501, "unsupported", f"there is no {call.path[:100]!r} here")
        parse, write = (grpc_messages.CLASSES[f"{name}{kind}"] for kind in ("Request", "Response"))
        message = await self._message(call)
        try:
            # Each is an object, however short.
            fields = await aside(call.is_large, grpc_messages.count_fields, message, most_fields)
            if fields > most_fields:
                raise HttpError(413, "too_large", f"the message has more than {most_fields} fields")
            # The request has a copy of its contents.
            call.hold(len(message) + VALUE_BYTES * fields)
            request = await aside(call.is_large, parse.FromString, message)
        except (ValueError, IndexError) as error:  # protobuf's DecodeError is one
            raise HttpError(400, "input", f"the message is not a {name}Request: {error}") from error
        del message
        try:
            answer, trailers = await method(request, call)
        except FailedCallError as failed:
            return failed.response
        body = write.SerializeToString(answer)
        framed = b"".join((PREFIX.pack(0, len(body)), body))
        return Response(framed, content_type=GRPC_TYPE, trailers={"grpc-status": str(OK), **trailers})

    async def _message(self, call: Call) -> memoryview:
        """The one message of a call."""
        if len(call.body) < PREFIX.size:
            raise HttpError(400, "input", "the call has no message")
        is_compressed, size = PREFIX.unpack_from(call.body)
        if len(call.body) != PREFIX.size + size:
            raise HttpError(400, "input", f"the call has {len(call.body)} bytes, not one message of {size}")
        message = memoryview(call.body)[PREFIX.size :]
        if not is_compressed:
            return message
        try:
            layer = compression.layer_of(call.headers.get("grpc-encoding", ""))
        except ValueError as error:
            raise HttpError(501, "unsupported", f"grpc-encoding: {error}") from error
        return memoryview(await inflate(message, layer, call.limits, call.hold)) if layer else message

    def with_status(self, response: Response) -> Response:
        """The response, with the status that gRPC has for it."""
        if response.trailers is not None:
            return response
        detail = orjson.loads(response.body).get("detail", "")
        status = STATUSES.get(response.status, INTERNAL)
        trailers = {
            "grpc-status": str(status),
            "grpc-message": quote(detail, safe=" !#$&'()*+,/:;<=>?@[]^`{|}\"\\"),
        }
        headers = {name: value for name, value in response.headers.items() if name in TOLD_HEADERS}
        return Response(b"", 200, GRPC_TYPE, trailers={**trailers, **headers})

    async def _server_live(self, _request: Any, _call: Call) -> Any:
        await self._get("/v2/health/live")
        return self._made("ServerLiveResponse", live=True)

    async def _server_ready(self, _request: Any, _call: Call) -> Any:
        found = await self._get("/v2/health/ready", waits=True)
        return self._made("ServerReadyResponse", ready=found is not None)

    async def _model_ready(self, request: Any, _call: Call) -> Any:
        found = await self._get(f"{_path(request.name, request.version)}/ready", waits=True)
        return self._made("ModelReadyResponse", ready=found is not None)

    async def _server_metadata(self, _request: Any, _call: Call) -> Any:
        return self._made("ServerMetadataResponse", **(await self._get("/v2") or {}))

    async def _model_metadata(self, request: Any, _call: Call) -> Any:
        found = await self._get(_path(request.name, request.version)) or {}
        whole = {key: found[key] for key in ("name", "versions", "platform")}
        answer, _ = made = self._made("ModelMetadataResponse", **whole)
        for key in ("inputs", "outputs"):
            for tensor in found[key]:
                parameters = tensor.pop("parameters", {})
                self._messages.set_parameters(getattr(answer, key).add(**tensor), parameters.items())
        return made

    def _made(self, message: str, /, **fields: Any) -> tuple[Any, Mapping[str, str]]:
        """A message without trailers."""
        return self._messages.CLASSES[message](**fields), {}

    async def _get(self, path: str, *, waits: bool = False) -> Any:
        """The JSON at that path. With `waits` None where it is not ready; other errors end the call."""
        response = await self._application.call("GET", Call(path, {}, b"", ""))
        if waits and response.status == 503:
            return None
        _check(response)
        return orjson.loads(response.body)

    async def _infer(self, request: Any, call: Call) -> Any:
        given = {name: value for name in PASSED_HEADERS if (value := call.headers.get(name))}
        left = TIMEOUT.fullmatch(call.headers.get("grpc-timeout", ""))
        if left is not None and BUDGET_HEADER not in given:
            left_s = int(left[1]) * UNITS_S[left[2]]
            given[BUDGET_HEADER] = f"{min(left_s, MAX_BUDGET_S) * 1000:.3f}"
        call.hold(len(call.body))
        try:
            text, body = await aside(call.is_large, self._body, request, call.limits.values)
        except (ValueError, struct.error) as error:
            raise HttpError(400, "input", str(error)) from error
        headers = {**given, binary.JSON_LENGTH_HEADER: str(text)}
        path = f"{_path(request.model_name, request.model_version)}/infer"
        response = await self._application.call("POST", replace(call, path=path, headers=headers, body=body))
        _check(response)
        trailers = {name: value for name in TOLD_HEADERS if (value := response.headers.get(name))}
        try:
            return await aside(len(response.body) > INLINE_BYTES, self._answer, response), trailers
        except ValueError as error:
            raise HttpError(501, "unsupported", str(error)) from error

    def _body(self, request: Any, most_values: int) -> tuple[int, bytes]:
        """The length of the JSON of the request over HTTP, and its body. ValueError: it does not fit."""
        raw = request.raw_input_contents
        if raw and len(raw) != len(request.inputs):
            raise ValueError(f"there are {len(raw)} raw_input_contents for {len(request.inputs)} inputs")
        parts: list[bytes] = []
        inputs = []
        for index, tensor in enumerate(request.inputs):
            parts.append(raw[index] if raw else self._packed(tensor, most_values))
            inputs.append(
                {
                    **{"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)},
                    "parameters": {**self._messages.parameters_of(tensor), binary.SIZE: len(parts[-1])},
                }
            )
        parameters = self._messages.parameters_of(request)
        parameters |= {BINARY_OUTPUT: True} if raw else {}
        body: dict[str, Any] = {"inputs": inputs}
        body |= {"id": request.id} if request.id else {}
        body |= {"parameters": parameters} if parameters else {}
        # How an answer is laid out is of the call, not of each output.
        body |= {"outputs": [{"name": output.name} for output in request.outputs]} if request.outputs else {}
        text = orjson.dumps(body)
        return len(text), b"".join((text, *parts))

    def _packed(self, tensor: Any, most_values: int) -> bytes:
        """The typed contents as those of a binary tensor."""
        field = self._messages.CONTENTS.get(tensor.datatype)
        if field is None:
            raise ValueError(f"input {tensor.name!r}: {tensor.datatype} must be in raw_input_contents")
        values = getattr(tensor.contents, field)
        if len(values) > most_values:
            raise ValueError(f"input {tensor.name!r} has more than {most_values} values")
        if tensor.datatype == "BYTES":
            return binary.pack_elements(values)
        return struct.pack(f"<{len(values)}{binary.CODES[tensor.datatype]}", *values)

    def _answer(self, response: Response) -> Any:
        text, rest = binary.json_part(response.body, response.headers.get(binary.JSON_LENGTH_HEADER))
        found = orjson.loads(text)
        answer = self._messages.CLASSES["ModelInferResponse"](
            model_name=found["model_name"], id=found.get("id", "")
        )
        start = 0
        for output in found["outputs"]:
            tensor = answer.outputs.add(
                name=output["name"], datatype=output["datatype"], shape=output["shape"]
            )
            parameters = output.get("parameters", {})
            if (size := parameters.pop(binary.SIZE, None)) is not None:
                answer.raw_output_contents.append(rest[start : start + size])
                start += size
            else:
                self._fill(tensor, output["data"])
            self._messages.set_parameters(tensor, parameters.items())
        return answer

    def _fill(self, tensor: Any, values: list[Any]) -> None:
        field = self._messages.CONTENTS.get(tensor.datatype)
        if field is None:
            raise ValueError(
                f"output {tensor.name!r} is {tensor.datatype}, which has only raw contents: send raw ones"
            )
        while values and isinstance(values[0], list):
            values = [value for row in values for value in row]
        is_text = tensor.datatype == "BYTES"
        getattr(tensor.contents, field).extend([str(it).encode() for it in values] if is_text else values)


class FailedCallError(Exception):
    """The application's answer to a call is an error: the response."""

    def __init__(self, response: Response) -> None:
        super().__init__()
        self.response = response


def _check(response: Response) -> None:
    if response.status != 200:
        raise FailedCallError(response)


def _path(model: str, version: str) -> str:
    return f"/v2/models/{model}/versions/{version}" if version else f"/v2/models/{model}"
