"""A chain orchestrator that does what Seldon's executor does, over REST (executor/api/rest of 1.17).

    POST /v2/models/infer       protocol v2: each node of the chain is called by its own name, with the
                                outputs of the one before as its inputs
    POST /api/v1.0/predictions  Seldon's own protocol: each node is given the answer of the one before
    GET  /ready                 200 once a pod of every node accepts a connection
    GET  /prometheus            its metrics, which start with its first request

It keeps two idle connections to each node, as Go's client does, and opens others as it needs them: each leads
to a pod of its own. It has no queue, no deadline and no second try.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import time
import uuid
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry, GCCollector, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily

IDLE_CONNECTIONS = 2
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
SERVER = "seldon_api_executor_server_requests_seconds"
CLIENT = "seldon_api_executor_client_requests_seconds"
OF_ALL = ("deployment_name", "predictor_name", "predictor_version", "service")
OF_MODEL = ("model_name", "model_image", "model_version")
# Where clients send requests, by the protocol.
ENTRIES = {"v2": "/v2/models/infer", "seldon": "/api/v1.0/predictions"}
# Requests under way have that to end, once it is asked to.
GRACEFUL_S = 15.0
OK = 200

Json = dict[str, Any]


class Process:
    """The metrics that every Go process serves, requests or none."""

    def collect(self) -> Any:
        """Its one gauge."""
        yield GaugeMetricFamily("go_goroutines", "Number of goroutines that currently exist.", value=12)


class BrokenError(Exception):
    """The connection ended; `reused` where it was an idle one, which the server may have closed."""

    def __init__(self, *, reused: bool) -> None:
        super().__init__("the connection to the model server ended")
        self.reused = reused


class Connections:
    """Connections to one host and port."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, float]:
        """Status, body, and when the headers of the answer came; OSError or BrokenError without an answer.

        An idle connection that the server has closed is replaced by a new one, as Go's client does.
        """
        try:
            return await self._post(path, body, headers)
        except BrokenError as error:
            if not error.reused:
                raise
            self._idle.clear()
            return await self._post(path, body, headers)

    async def _post(self, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, float]:
        reused = bool(self._idle)
        reader, writer = self._idle.pop() if reused else await asyncio.open_connection(self._host, self._port)
        lines = {"Host": f"{self._host}:{self._port}", "Content-Length": str(len(body)), **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        try:
            writer.write(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
            await writer.drain()
            answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            came_s = time.perf_counter()
            answer_headers = dict(line.lower().split(": ", 1) for line in answer[1:] if ": " in line)
            content = await reader.readexactly(int(answer_headers["content-length"]))
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()
            raise BrokenError(reused=reused) from None
        except BaseException:
            writer.close()
            raise
        if answer_headers.get("connection") != "close" and len(self._idle) < IDLE_CONNECTIONS:
            self._idle.append((reader, writer))
        else:
            writer.close()
        return int(answer[0].split()[1]), content, came_s


class Executor:
    """The orchestrator of one predictor, whose graph is a chain of models that speak `protocol`."""

    def __init__(self, predictor: Json, deployment: str, protocol: str = "v2") -> None:
        self.protocol = protocol
        self._nodes: list[Json] = []
        node: Json | None = predictor["graph"]
        while node:
            self._nodes.append(node)
            node = next(iter(node.get("children", [])), None)
        self._images = {
            container["name"]: container.get("image", "").partition(":")
            for component in predictor.get("componentSpecs", [])
            for container in component["spec"]["containers"]
        }
        self._labels = {
            "deployment_name": deployment,
            "predictor_name": predictor["name"],
            "predictor_version": predictor.get("annotations", {}).get("version", ""),
        }
        self.registry = CollectorRegistry()
        self.registry.register(Process())
        GCCollector(self.registry)
        own = {"buckets": BUCKETS, "registry": self.registry}
        self._server = Histogram(SERVER, "Requests.", (*OF_ALL, "method", "code"), **own)
        self._client = Histogram(CLIENT, "Calls.", (*OF_ALL, *OF_MODEL, "method", "code"), **own)
        self._connections: dict[str, Connections] = {}
        self._is_leaving = False

    async def leave(self, _: web.Application) -> None:
        """Tell each client from now on that its connection ends with the answer, as Go's server does."""
        self._is_leaving = True

    async def infer(self, request: web.Request) -> web.Response:
        """The answer of the last node, or that of the first one that fails."""
        began_s = time.perf_counter()
        body = await request.read()
        puid = request.headers.get("Seldon-Puid") or str(uuid.uuid4())
        status = OK
        for position, node in enumerate(self._nodes):
            try:
                status, body = await self._ask(node, body, puid)
            except (OSError, BrokenError) as error:
                status, body = 500, json.dumps({"status": {"code": 500, "info": str(error)}}).encode()
            if status != OK:
                break
            if self.protocol == "v2" and position < len(self._nodes) - 1:
                body = as_inputs(body)
        labels = {**self._labels, "service": "predictions", "method": "post", "code": str(status)}
        self._server.labels(**labels).observe(time.perf_counter() - began_s)
        response = web.Response(
            body=body, status=status, content_type="application/json", headers={"Seldon-Puid": puid}
        )
        if self._is_leaving:
            response.force_close()
        return response

    async def _ask(self, node: Json, body: bytes, puid: str) -> tuple[int, bytes]:
        name, endpoint = node["name"], node["endpoint"]
        if name not in self._connections:
            self._connections[name] = Connections(endpoint["service_host"], endpoint["httpPort"])
        path = f"/v2/models/{name}/infer" if self.protocol == "v2" else "/predict"
        began_s = time.perf_counter()
        headers = {"Content-Type": "application/json", "Seldon-Puid": puid}
        status, answer, came_s = await self._connections[name].post(path, body, headers)
        image, _, version = self._images.get(name, ("", "", ""))
        labels = {**self._labels, "service": path, "model_name": name, "model_image": image}
        labels |= {"model_version": version, "method": "post", "code": str(status)}
        self._client.labels(**labels).observe(came_s - began_s)
        return status, answer

    async def ready(self, _: web.Request) -> web.Response:
        """200 once a pod of every node accepts a connection."""
        for node in self._nodes:
            try:
                endpoint = node["endpoint"]
                _, writer = await asyncio.open_connection(endpoint["service_host"], endpoint["httpPort"])
            except OSError:
                return web.Response(status=503)
            writer.close()
        return web.Response()

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self.registry), content_type="text/plain")


def as_inputs(body: bytes) -> bytes:
    """The V2 request of the next node: the answer of this one, with its outputs as inputs."""
    answer = json.loads(body)
    answer["inputs"] = answer.pop("outputs")
    return json.dumps(answer).encode()


def app_of(executor: Executor) -> web.Application:
    """The application that serves it."""
    app = web.Application(client_max_size=1 << 26)
    app.on_shutdown.append(executor.leave)
    app.add_routes(
        [
            web.get("/ready", executor.ready),
            web.get("/prometheus", executor.metrics),
            web.post(ENTRIES[executor.protocol], executor.infer),
        ]
    )
    return app


def main() -> None:
    """Serve the predictor of ENGINE_PREDICTOR."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--sdep", required=True)
    parser.add_argument("--protocol", choices=ENTRIES, default="seldon")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--http_port", type=int, default=8000)
    options = parser.parse_args()
    predictor = json.loads(base64.b64decode(os.environ["ENGINE_PREDICTOR"]))
    app = app_of(Executor(predictor, options.sdep, options.protocol))
    web.run_app(app, host=options.host, port=options.http_port, print=None, shutdown_timeout=GRACEFUL_S)


if __name__ == "__main__":
    main()
