"""V2 over gRPC at the port of an application: each call is answered as the same request over HTTP would be.

Raw contents become binary tensors, and typed ones JSON, both ways; an answer is as its request. A deadline of
the caller bounds the time budget. Needs the packages grpcio and protobuf.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from ipa.dataplane import binary
from ipa.dataplane.expectation import PUID_HEADER, TIMING_HEADER
from ipa.dataplane.http import (
    BUDGET_HEADER,
    KEEP_ALIVE_S,
    MAX_BODY_BYTES,
    MAX_BUDGET_S,
    Application,
    Call,
    Response,
)
from ipa.dataplane.tensors import BINARY_OUTPUT
from ipa.serving.relay import HOST

# What a message has beside its contents.
MAX_MESSAGE_BYTES = MAX_BODY_BYTES + 1024 * 1024
PASSED_HEADERS = (BUDGET_HEADER, PUID_HEADER)
TOLD_HEADERS = (PUID_HEADER, TIMING_HEADER)
# The codes of gRPC by status; any other is INTERNAL.
CODES = {
    **{400: "INVALID_ARGUMENT", 404: "NOT_FOUND", 405: "UNIMPLEMENTED", 501: "UNIMPLEMENTED"},
    **{413: "RESOURCE_EXHAUSTED", 503: "UNAVAILABLE", 504: "DEADLINE_EXCEEDED"},
}
Method = Callable[[Any, Any], Awaitable[Any]]


class GrpcServer:
    """A gRPC server that asks the application: it starts with the first connection that wants it.

    It listens at a port of this machine that connections are passed on to.
    """

    def __init__(self, application: Application, drain_s: float) -> None:
        self._application, self._drain_s = application, drain_s
        self._messages: Any = None
        self._server: Any = None
        self._port = 0
        self._starting = asyncio.Lock()

    async def start(self) -> int:
        """Listen, if it does not yet, and return the port. OSError: it cannot, or gRPC is not installed."""
        async with self._starting:
            if self._server is None:
                await self._start()
        return self._port

    async def _start(self) -> None:
        try:
            import grpc

            from ipa.dataplane import grpc_messages
        except ImportError as error:
            raise OSError(f"gRPC needs the packages grpcio and protobuf: {error}") from error
        self._messages = grpc_messages
        size = MAX_MESSAGE_BYTES
        options = (
            ("grpc.max_receive_message_length", size),
            ("grpc.max_send_message_length", size),
            ("grpc.max_connection_idle_ms", 1000 * KEEP_ALIVE_S),
        )
        server = grpc.aio.server(options=options)
        methods: Mapping[str, Method] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(
                method,
                request_deserializer=grpc_messages.CLASSES[f"{name}Request"].FromString,
                response_serializer=grpc_messages.CLASSES[f"{name}Response"].SerializeToString,
            )
            for name, method in methods.items()
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(grpc_messages.SERVICE, handlers),)
        )
        try:
            self._port = server.add_insecure_port(f"{HOST}:0")
        except RuntimeError as error:
            raise OSError(f"gRPC cannot listen: {error}") from error
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Accept no more calls, and wait for those in progress."""
        if self._server is not None:
            await self._server.stop(self._drain_s)

    async def _server_live(self, _request: Any, context: Any) -> Any:
        await self._get(context, "/v2/health/live")
        return self._messages.CLASSES["ServerLiveResponse"](live=True)

    async def _server_ready(self, _request: Any, context: Any) -> Any:
        found = await self._get(context, "/v2/health/ready", waits=True)
        return self._messages.CLASSES["ServerReadyResponse"](ready=found is not None)

    async def _model_ready(self, request: Any, context: Any) -> Any:
        found = await self._get(context, f"{_path(request.name, request.version)}/ready", waits=True)
        return self._messages.CLASSES["ModelReadyResponse"](ready=found is not None)

    async def _server_metadata(self, _request: Any, context: Any) -> Any:
        return self._messages.CLASSES["ServerMetadataResponse"](**(await self._get(context, "/v2") or {}))

    async def _model_metadata(self, request: Any, context: Any) -> Any:
        found = await self._get(context, _path(request.name, request.version)) or {}
        answer = self._messages.CLASSES["ModelMetadataResponse"](
            name=found["name"], versions=found["versions"], platform=found["platform"]
        )
        for key in ("inputs", "outputs"):
            for tensor in found[key]:
                parameters = tensor.pop("parameters", {})
                self._messages.set_parameters(getattr(answer, key).add(**tensor), parameters.items())
        return answer

    async def _get(self, context: Any, path: str, *, waits: bool = False) -> Any:
        """The JSON at that path. With `waits` None where it is not ready; other errors end the call."""
        response = await self._application.call("GET", Call(path, {}, b"", ""))
        if waits and response.status == 503:
            return None
        await self._end_if_failed(context, response)
        return orjson.loads(response.body)

    async def _infer(self, request: Any, context: Any) -> Any:
        given = {name: value for name, value in context.invocation_metadata() if name in PASSED_HEADERS}
        left_s = context.time_remaining()
        if left_s is not None and BUDGET_HEADER not in given:
            given[BUDGET_HEADER] = f"{min(max(0.0, left_s), MAX_BUDGET_S) * 1000:.3f}"
        try:
            text, raw = self._body(request)
        except ValueError as error:
            await self._abort(context, 400, str(error))
        headers = {**given, binary.JSON_LENGTH_HEADER: str(len(text))} if raw else given
        path = f"{_path(request.model_name, request.model_version)}/infer"
        response = await self._application.call("POST", Call(path, headers, b"".join((text, *raw)), ""))
        told = [(name, value) for name in TOLD_HEADERS if (value := response.headers.get(name))]
        context.set_trailing_metadata(tuple(told))
        await self._end_if_failed(context, response)
        try:
            return self._answer(response)
        except ValueError as error:
            return await self._abort(context, 501, str(error))

    def _body(self, request: Any) -> tuple[bytes, list[bytes]]:
        """The request over HTTP: its JSON and the bytes after it. ValueError: the contents do not fit."""
        raw = list(request.raw_input_contents)
        if raw and len(raw) != len(request.inputs):
            raise ValueError(f"there are {len(raw)} raw_input_contents for {len(request.inputs)} inputs")
        parts: list[bytes] = []
        inputs = []
        for index, tensor in enumerate(request.inputs):
            head = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
            parameters = self._messages.parameters_of(tensor)
            values = raw[index] if raw else self._values(tensor)
            if isinstance(values, bytes):
                parts.append(values)
                inputs.append({**head, "parameters": {**parameters, binary.SIZE: len(values)}})
            else:
                inputs.append({**head, "parameters": parameters, "data": values})
        parameters = self._messages.parameters_of(request)
        parameters |= {BINARY_OUTPUT: True} if raw else {}
        body: dict[str, Any] = {"inputs": inputs}
        body |= {"id": request.id} if request.id else {}
        body |= {"parameters": parameters} if parameters else {}
        # How an answer is laid out is of the call, not of each output.
        body |= {"outputs": [{"name": output.name} for output in request.outputs]} if request.outputs else {}
        return orjson.dumps(body), parts

    def _values(self, tensor: Any) -> list[Any] | bytes:
        """The typed contents; those of BYTES as in a binary tensor, since they may be no text."""
        field = self._messages.CONTENTS.get(tensor.datatype)
        if field is None:
            raise ValueError(f"input {tensor.name!r}: {tensor.datatype} must be in raw_input_contents")
        values = getattr(tensor.contents, field)
        return binary.pack_elements(values) if tensor.datatype == "BYTES" else list(values)

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
                f"output {tensor.name!r} is {tensor.datatype}, which has raw contents only: send raw ones too"
            )
        while values and isinstance(values[0], list):
            values = [value for row in values for value in row]
        is_text = tensor.datatype == "BYTES"
        getattr(tensor.contents, field).extend([str(it).encode() for it in values] if is_text else values)

    async def _end_if_failed(self, context: Any, response: Response) -> None:
        if response.status != 200:
            await self._abort(context, response.status, orjson.loads(response.body)["detail"])

    async def _abort(self, context: Any, status: int, detail: str) -> Any:
        import grpc

        await context.abort(getattr(grpc.StatusCode, CODES.get(status, "INTERNAL")), detail)


def _path(model: str, version: str) -> str:
    return f"/v2/models/{model}/versions/{version}" if version else f"/v2/models/{model}"
