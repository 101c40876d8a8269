"""The addresses of the V2 protocol that router and queue have alike."""

from __future__ import annotations

from typing import Any

import orjson

import ipa
from ipa.dataplane.http import Call, Handler, HttpError, Response

# A pipeline has one version: how it is served changes without its clients' knowledge.
VERSION = "1"
# Triton's name of the binary tensor extension (`ipa.dataplane.binary`).
EXTENSIONS = ("binary_tensor_data",)
# Addresses of a model that only Triton answers, and what has the same here.
TRITON_ONLY = {"config": "its metadata is at the address without /config", "stats": "figures are at /metrics"}


def model_paths(method: str, model: str, end: str, handler: Handler) -> dict[tuple[str, str], Handler]:
    """Return the routes of an address of a model, with and without its version."""
    path = f"/v2/models/{model}"
    return {(method, f"{path}{end}"): handler, (method, f"{path}/versions/{VERSION}{end}"): handler}


def server_routes(ready: Handler) -> dict[tuple[str, str], Handler]:
    """Return the routes of the server itself; `ready` answers if it is ready."""
    return {("GET", "/v2"): _server, ("GET", "/v2/health/live"): _live, ("GET", "/v2/health/ready"): ready}


def unsupported(model: str) -> dict[tuple[str, str], Handler]:
    """Return the routes of a model that only Triton has: they answer 501."""
    found: dict[tuple[str, str], Handler] = {}
    for name, instead in TRITON_ONLY.items():
        found |= model_paths("GET", model, f"/{name}", _refusal(name, instead))
    return found


def _refusal(name: str, instead: str) -> Handler:
    async def refuse(_call: Call) -> Response:
        raise HttpError(501, "unsupported", f"a model's {name} is an extension of Triton's; {instead}")

    return refuse


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
