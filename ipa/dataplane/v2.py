"""The server of the V2 protocol that router and queue have alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

import ipa
from ipa.dataplane.client import Client
from ipa.dataplane.http import Application, BodyLimits, Call, Response
from ipa.dataplane.metrics import Exposition

# A pipeline has one version: how it is served changes without its clients' knowledge.
VERSION = "1"
# Triton's name of the binary tensor extension (`ipa.dataplane.binary`).
EXTENSIONS = ("binary_tensor_data",)


class V2Server(ABC):
    """The HTTP server of one model, which is a pipeline or a stage: the addresses of V2, metrics and admin.

    `hosts` are the accepted host names, empty for any; `admin_token` enables the admin address.
    """

    def __init__(
        self, name: str, metrics: Exposition, *, hosts: frozenset[str], limits: BodyLimits, admin_token: str
    ) -> None:
        self._name, self._exposition = name, metrics
        self._hosts, self._limits, self._admin_token = hosts, limits, admin_token
        self._client = Client()

    @property
    def registry(self) -> CollectorRegistry:
        """Its metrics."""
        return self._exposition.registry

    def application(self) -> Application:
        """The ASGI application."""
        # A model answers with and without its version.
        paths = [f"/v2/models/{self._name}{version}" for version in ("", f"/versions/{VERSION}")]
        return Application(
            {
                ("GET", "/v2"): _server,
                ("GET", "/v2/health/live"): _live,
                ("GET", "/v2/health/ready"): self._ready,
                **{("POST", f"{path}/infer"): self._infer for path in paths},
                **{("GET", path): self._metadata for path in paths},
                **{("GET", f"{path}/ready"): self._model_ready for path in paths},
                ("GET", "/metrics"): self._exposition.handle,
                ("GET", "/admin/config"): self._read_config,
                ("PUT", "/admin/config"): self._write_config,
            },
            start=self._start,
            stop=self._stop,
            hosts=self._hosts,
            served=f"the model here is {self._name!r}, version {VERSION}",
            limits=self._limits,
            passing=self._client.__len__,
        )

    async def _start(self) -> None:
        await self._client.open()

    async def _stop(self) -> None:
        await self._client.close()

    @abstractmethod
    async def _ready(self, call: Call) -> Response: ...

    @abstractmethod
    async def _infer(self, call: Call) -> Response: ...

    @abstractmethod
    async def _metadata(self, call: Call) -> Response: ...

    @abstractmethod
    async def _model_ready(self, call: Call) -> Response: ...

    @abstractmethod
    async def _read_config(self, call: Call) -> Response: ...

    @abstractmethod
    async def _write_config(self, call: Call) -> Response: ...


def model_ready(model: str) -> Response:
    """Return the answer of a model that is ready."""
    return json_response({"name": model, "ready": True})


def json_response(content: Any) -> Response:
    """Return the answer with that JSON."""
    return Response(orjson.dumps(content))


async def _server(_call: Call) -> Response:
    return json_response({"name": "ipa", "version": ipa.__version__, "extensions": EXTENSIONS})


async def _live(_call: Call) -> Response:
    return json_response({"live": True})
