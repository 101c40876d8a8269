"""A smoke request to a pipeline on Seldon: its address by shape, protocol and gateway, and the clients."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ipa.adapters.processes import child_environment, run
from ipa.model.errors import InputError, UnavailableError, UsageError
from ipa.model.masking import mask_url, without_user
from ipa.model.pipeline import Pipeline
from ipa.model.probe import ProbeRequest, ProbeResult, ProbeTransport, RequestAddress
from ipa.settings import Settings
from ipa.targets.requests import check_url, probe_http, shown
from ipa.targets.seldon.layouts import PartRole, is_split, parts_of
from ipa.targets.seldon.locate import target_of
from ipa.targets.seldon.section import WireProtocol

# The ports of the Service that the operator makes for a predictor's orchestrator.
REST_PORT, GRPC_PORT = 8000, 5001
# A pipeline's graph is called by this name; the orchestrator calls each node by its own.
V2_INFER = "/v2/models/infer"
PREDICTIONS = "/api/v1.0/predictions"
WORKER = Path(__file__).with_name("client_worker.py")
CLIENT = "SeldonClient"
# For an interpreter to start and import seldon-core on a busy machine.
START_S = 30.0
# One of these is in each message of Seldon's own protocol that is an answer.
PAYLOADS = ("data", "strData", "jsonData", "binData", "customData")
NO_CLIENT_HINT = (
    "Install seldon-core, or name in IPA_CLIENT_PYTHON an interpreter that has it "
    "(1.17.1 is the last version under the Apache License)."
)


@dataclass(frozen=True, slots=True)
class Door:
    """The address of a pipeline: the base URL, and the path of a request in it."""

    base: str
    path: str

    @property
    def url(self) -> str:
        """The URL of a request."""
        return self.base.rstrip("/") + self.path


def probe(pipeline: Pipeline, asked: ProbeRequest, settings: Settings) -> ProbeResult:
    """The result of the request. UsageError for what the protocol, the shape or the client cannot do."""
    door = _door(pipeline, asked, settings)
    if target_of(pipeline).protocol is WireProtocol.V2:
        if asked.native:
            raise UsageError(f"{CLIENT} does not speak protocol v2", hint="Leave out --native.")
        if asked.transport is ProbeTransport.GRPC:
            raise UsageError("protocol v2 is sent over HTTP", hint="Leave out --transport.")
        return probe_http(asked, door.url)
    if asked.native or asked.transport is ProbeTransport.GRPC:
        return _by_client(pipeline, asked, door, settings)
    return probe_http(asked, door.url, WireProtocol.SELDON, seldon_fault)


def address(pipeline: Pipeline, settings: Settings) -> RequestAddress:
    """The URL by the gateway of the settings, or by the Service of the pipeline's shape."""
    target = target_of(pipeline)
    try:
        door = _door(pipeline, ProbeRequest({}), settings)
    except UsageError as error:
        return RequestAddress(protocol=target.protocol, note=f"{error.message}. {error.hint}")
    note = ""
    if is_split(pipeline) or not settings.gateway_url:
        service, port = urlsplit(door.base).hostname or "", urlsplit(door.base).port
        forward = f"kubectl -n {target.namespace} port-forward svc/{service.partition('.')[0]} {port}"
        note = f"reachable from within the cluster, or at http://127.0.0.1:{port} by `{forward}`"
    return RequestAddress(door.url, target.protocol, note)


def seldon_fault(answer: Any) -> str:
    """The reason why the document is no answer of Seldon's own protocol; empty if it is one."""
    if not isinstance(answer, Mapping):
        return f"the answer is not a message: {shown(answer)}"
    status = answer.get("status")
    # The protocol's enumerations come as their names or as their numbers.
    if isinstance(status, Mapping) and status.get("status") in ("FAILURE", 1):
        return f"its status is a failure: {status.get('info') or status.get('reason') or shown(status)}"
    if not any(payload in answer for payload in PAYLOADS):
        return f"the answer has none of {', '.join(PAYLOADS)}: {shown(answer)}"
    return ""


def _door(pipeline: Pipeline, asked: ProbeRequest, settings: Settings) -> Door:
    target, gateway = target_of(pipeline), asked.gateway
    if asked.address and gateway:
        raise UsageError("--url and --gateway cannot be given together")
    if is_split(pipeline):
        if gateway:
            raise UsageError(
                "a gateway has no path to the router of shape split", hint="Give its address with --url."
            )
        (router,) = (part for part in parts_of(pipeline) if part.role is PartRole.ROUTER)
        return Door(_checked(asked.address) or router.service, f"/v2/models/{pipeline.name}/infer")
    path = V2_INFER if target.protocol is WireProtocol.V2 else PREDICTIONS
    if asked.address:
        return Door(_checked(asked.address), path)
    if gateway := gateway or settings.gateway_url:
        return Door(_checked(gateway), f"/seldon/{target.namespace}/{target.name}{path}")
    if pipeline.sets:
        raise UsageError(
            "several predictors share its requests, each with its own Service",
            hint="Give the gateway in front of them: --gateway or IPA_GATEWAY_URL.",
        )
    port = GRPC_PORT if asked.transport is ProbeTransport.GRPC else REST_PORT
    return Door(f"http://{target.name}-{target.predictor}.{target.namespace}:{port}", path)


def _checked(url: str) -> str:
    """The URL, or nothing; UsageError if it is none of http."""
    if url:
        check_url(url)
    return url


def _plain(door: Door) -> str:
    """The host and port of the address; UsageError unless it is of plain HTTP."""
    place = urlsplit(without_user(door.base))
    if place.scheme != "http":
        raise UsageError(
            f"{mask_url(door.base)} is not a plain HTTP address, and {CLIENT} and gRPC use no TLS here",
            hint="Leave out --native and --transport, or give an http address.",
        )
    return place.netloc


def _by_client(pipeline: Pipeline, asked: ProbeRequest, door: Door, settings: Settings) -> ProbeResult:
    """The result of the request by Seldon's own client, in an interpreter that has it."""
    target, endpoint = target_of(pipeline), _plain(door)
    question = {
        "transport": str(asked.transport),
        "endpoint": endpoint,
        "gateway": door.path.startswith("/seldon/"),
        "namespace": target.namespace,
        "name": target.name,
        "body": dict(asked.body),
        "timeout_s": asked.timeout_s,
    }
    found = _run(settings.client_python or sys.executable, question, START_S + asked.timeout_s)
    detail = found["detail"] or seldon_fault(found["answer"])
    return ProbeResult(
        endpoint if asked.transport is ProbeTransport.GRPC else mask_url(door.url),
        target.protocol,
        asked.transport,
        CLIENT,
        not detail,
        found["latency_s"],
        detail=shown(detail),
        answer=found["answer"],
    )


def _run(python: str, question: Mapping[str, Any], within_s: float) -> dict[str, Any]:
    """The worker's result. Errors: UsageError (no client there), InputError, UnavailableError."""
    # Isolated: neither the folder nor the environment of the service gets into its imports.
    command = [python, "-I", str(WORKER)]
    try:
        ended = run(command, given=json.dumps(question).encode(), env=child_environment(), limit_s=within_s)
    except TimeoutError as error:
        raise UnavailableError(f"{CLIENT} did not end within {within_s:g} s") from error
    except OSError as error:
        raise UsageError(f"{python} cannot be started: {error.strerror}", hint=NO_CLIENT_HINT) from error
    if ended.returncode:
        last = (ended.stderr.decode(errors="replace").strip().splitlines() or ["it printed nothing"])[-1]
        raise InputError(f"the request cannot be sent by {CLIENT}: {last}")
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    if "lacks" in found:
        raise UsageError(f"{python} lacks the client: {found['lacks']}", hint=NO_CLIENT_HINT)
    return found
