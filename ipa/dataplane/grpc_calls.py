"""V2 over gRPC at the port of an application: each call is answered as the same request over HTTP would be.

Connections are relayed to grpcio (`ipa.serving.http2`), which speaks the protocol. Contents become binary
tensors; an answer has raw contents if its request has, else typed ones. A deadline of the caller bounds the
time budget.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

import grpc
import orjson

from ipa.dataplane import binary, grpc_messages
from ipa.dataplane.expectation import PUID_HEADER, TIMING_HEADER
from ipa.dataplane.http import (
    BUDGET_HEADER,
    KEEP_ALIVE_S,
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
# The statuses of gRPC by those of HTTP; any other is INTERNAL.
STATUSES = {
    **{400: grpc.StatusCode.INVALID_ARGUMENT, 404: grpc.StatusCode.NOT_FOUND},
    **{405: grpc.StatusCode.UNIMPLEMENTED, 501: grpc.StatusCode.UNIMPLEMENTED},
    **{413: grpc.StatusCode.RESOURCE_EXHAUSTED, 503: grpc.StatusCode.UNAVAILABLE},
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
# The slowest client that is waited for, as over HTTP.
BYTES_A_S = 1_000_000
# So much of the bytes of all bodies is for messages that are arriving, whose sizes are not known before.
ARRIVING_RATIO = 0.5
# A connection is ended after that, so that a call whose client does not take part keeps its place no longer.
OLDEST_S = 300
MOST_CALLS = 1000
WINDOW_BYTES = 64 << 10
# The first byte of gzip and of zlib, with which no message of V2 begins.
COMPRESSED = (b"\x1f", b"\x78")
Trailers = Mapping[str, str]
Method = Callable[[Any, Call], Awaitable[tuple[Any, Trailers]]]


class GrpcServer(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc is not checked
    """The server of an application's gRPC calls, at an address of Unix sockets that no other process has."""

    def __init__(self, application: Application) -> None:
        self._application, self.address = application, f"\0ipa-{uuid4()}"
        self._limits = application.limits
        arriving = ARRIVING_RATIO * self._limits.held_bytes / self._limits.body_bytes
        self._arriving = asyncio.Semaphore(max(1, int(arriving)))
        self._server: Any = None
        self._has_memory = False
        self._methods: Mapping[str, Method] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }

    async def start(self) -> None:
        """Start listening."""
        options = {
            "grpc.max_receive_message_length": self._limits.body_bytes,
            "grpc.max_send_message_length": -1,
            # Calls that wait for their turn have no more in memory, nor have connections.
            "grpc.http2.bdp_probe": 0,
            "grpc.http2.lookahead_bytes": WINDOW_BYTES,
            "grpc.experimental.tcp_max_read_chunk_size": WINDOW_BYTES,
            # What is compressed is inflated here, within the bounds of bodies.
            "grpc.per_message_decompression": 0,
            "grpc.max_connection_idle_ms": 1000 * KEEP_ALIVE_S,
            "grpc.max_connection_age_ms": 1000 * OLDEST_S,
            "grpc.max_connection_age_grace_ms": 1000 * KEEP_ALIVE_S,
        }
        self._server = grpc.aio.server(options=[*options.items()], maximum_concurrent_rpcs=MOST_CALLS)
        self._server.add_generic_rpc_handlers((self,))
        self._server.add_insecure_port(f"unix-abstract:{self.address[1:]}")
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no further call, and end once those that came are answered, after `grace_s` at the latest."""
        await self._server.stop(grace_s)

    def take_usage(self) -> bool:
        """True if large messages have ended since this was called last: their memory may be given back."""
        is_used, self._has_memory = self._has_memory and not self._arriving.locked(), False
        return is_used

    def service(self, handler_call_details: Any) -> Any:
        """The handler of a call; None: there is no such method. A message is taken when there is room."""
        service, _, name = handler_call_details.method.strip("/").partition("/")
        if service != grpc_messages.SERVICE or name not in self._methods:
            return None
        headers = {it.key: it.value for it in handler_call_details.invocation_metadata}
        return grpc.stream_stream_rpc_method_handler(partial(self._answer, name, headers))

    async def _answer(self, name: str, headers: dict[str, Any], _requests: Any, context: Any) -> None:
        with self._application.holding() as hold:
            answered = self._answered(name, headers, context, hold)
            response = await self._application.guard("gRPC", name, answered)
            trailers = {it: value for it in TOLD_HEADERS if (value := response.headers.get(it))}
            if response.status != 200:
                status = STATUSES.get(response.status, grpc.StatusCode.INTERNAL)
                detail = orjson.loads(response.body).get("detail", "")
                await context.abort(status, detail, tuple(trailers.items()))
            context.set_trailing_metadata(tuple(trailers.items()))
            async with asyncio.timeout(KEEP_ALIVE_S):
                await context.write(response.body)

    async def _answered(
        self, name: str, headers: dict[str, Any], context: Any, hold: Callable[[int], None]
    ) -> Response:
        """The response whose body is the message of the answer. HttpError: the call cannot be answered."""
        parse, most_fields = grpc_messages.CLASSES[f"{name}Request"], self._limits.values // LIST_VALUES
        message = await self._message(context, hold)
        left_s = context.time_remaining()
        if left_s is not None:
            headers.setdefault(BUDGET_HEADER, f"{min(max(0.0, left_s), MAX_BUDGET_S) * 1000:.3f}")
        call = Call("", headers, message, "", hold, self._limits)
        try:
            # Each is an object, however short.
            fields = await aside(call.is_large, grpc_messages.count_fields, memoryview(message), most_fields)
            if fields > most_fields:
                raise HttpError(413, "too_large", f"the message has more than {most_fields} fields")
            # The request has a copy of its contents.
            hold(len(message) + VALUE_BYTES * fields)
            request = await aside(call.is_large, parse.FromString, message)
        except (ValueError, IndexError) as error:  # protobuf's DecodeError is one
            raise HttpError(400, "input", f"the message is not a {name}Request: {error}") from error
        try:
            answer, trailers = await self._methods[name](request, call)
        except FailedCallError as failed:
            return failed.response
        return Response(answer.SerializeToString(), headers=trailers)

    async def _message(self, context: Any, hold: Callable[[int], None]) -> bytes:
        """The one message of a call, inflated."""
        most = self._limits.body_bytes
        async with self._arriving:
            hold(most)
            try:
                async with asyncio.timeout(max(1.0, most / BYTES_A_S)):
                    message = await context.read()
            except TimeoutError as error:
                raise HttpError(504, "dropped", "the message did not arrive in time") from error
        if message is grpc.aio.EOF:
            raise HttpError(400, "input", "the call has no message")
        hold(len(message) - most)
        self._has_memory |= len(message) > INLINE_BYTES
        is_compressed = message[:1] in COMPRESSED
        return await inflate(message, "gzip", self._limits, hold) if is_compressed else bytes(message)

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
                grpc_messages.set_parameters(getattr(answer, key).add(**tensor), parameters.items())
        return made

    def _made(self, message: str, /, **fields: Any) -> tuple[Any, Trailers]:
        """A message without trailers."""
        return grpc_messages.CLASSES[message](**fields), {}

    async def _get(self, path: str, *, waits: bool = False) -> Any:
        """The JSON at that path. With `waits` None where it is not ready; other errors end the call."""
        response = await self._application.call("GET", Call(path, {}, b"", ""))
        if waits and response.status == 503:
            return None
        _check(response)
        return orjson.loads(response.body)

    async def _infer(self, request: Any, call: Call) -> Any:
        given = {name: value for name in PASSED_HEADERS if (value := call.headers.get(name))}
        call.hold(len(call.body))
        try:
            text, body = await aside(call.is_large, self._body, request, call.limits.values)
        except (ValueError, struct.error) as error:
            raise HttpError(400, "input", str(error)) from error
        headers = {**given, binary.JSON_LENGTH_HEADER: str(text)}
        path = f"{_path(request.model_name, request.model_version)}/infer"
        response = await self._application.call("POST", replace(call, path=path, headers=headers, body=body))
        _check(response)
        try:
            is_large = len(response.body) > INLINE_BYTES
            return await aside(is_large, self._outputs, response), response.headers
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
                    "parameters": {**grpc_messages.parameters_of(tensor), binary.SIZE: len(parts[-1])},
                }
            )
        parameters = grpc_messages.parameters_of(request)
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
        field = grpc_messages.CONTENTS.get(tensor.datatype)
        if field is None:
            raise ValueError(f"input {tensor.name!r}: {tensor.datatype} must be in raw_input_contents")
        values = getattr(tensor.contents, field)
        if len(values) > most_values:
            raise ValueError(f"input {tensor.name!r} has more than {most_values} values")
        if tensor.datatype == "BYTES":
            return binary.pack_elements(values)
        return struct.pack(f"<{len(values)}{binary.CODES[tensor.datatype]}", *values)

    def _outputs(self, response: Response) -> Any:
        text, rest = binary.json_part(response.body, response.headers.get(binary.JSON_LENGTH_HEADER))
        found = orjson.loads(text)
        answer = grpc_messages.CLASSES["ModelInferResponse"](
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
            grpc_messages.set_parameters(tensor, parameters.items())
        return answer

    def _fill(self, tensor: Any, values: list[Any]) -> None:
        field = grpc_messages.CONTENTS.get(tensor.datatype)
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
