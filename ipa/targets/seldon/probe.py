"""Requests to a pipeline on Seldon: the address by shape, protocol and gateway, and a smoke request."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ipa.adapters.processes import child_environment, run
from ipa.model.errors import InputError, UnavailableError, UsageError
from ipa.model.masking import mask_url, without_user
from ipa.model.pipeline import Pipeline
from ipa.model.probe import ProbeRequest, ProbeResult, ProbeTransport, RequestAddress
from ipa.settings import Settings
from ipa.targets.kubernetes.target import port_forward_note
from ipa.targets.requests import check_url, probe_http, shown, v2_fault
from ipa.targets.seldon.layouts import parts_of
from ipa.targets.seldon.locate import target_of
from ipa.targets.seldon.section import WireProtocol, is_split

# The ports of the Service that the operator makes for a predictor's orchestrator.
REST_PORT, GRPC_PORT = 8000, 5001
# A pipeline's graph is called by the name `models`; the orchestrator calls each node by its own.
PATHS = {WireProtocol.V2: "/v2/models/infer", WireProtocol.SELDON: "/api/v1.0/predictions"}
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


def address(pipeline: Pipeline, settings: Settings, endpoint: str = "") -> RequestAddress:
    """The URL at `endpoint`, by the gateway of the settings, or by the Service of the pipeline's shape."""
    target = target_of(pipeline)
    protocol, gateway, path = target.protocol, settings.gateway_url, PATHS[target.protocol]
    if is_split(pipeline):
        *_, router = parts_of(pipeline)
        gateway, service, path = "", router.service, f"/v2/models/{pipeline.name}/infer"
    else:
        service = f"http://{target.name}-{target.predictor}.{target.namespace}:{REST_PORT}"
    if endpoint or gateway:
        base = endpoint or f"{gateway.rstrip('/')}/seldon/{target.namespace}/{target.name}"
        return RequestAddress(base.rstrip("/") + path, protocol)
    if pipeline.sets and not is_split(pipeline):
        why = "several predictors share its requests, each with its own Service"
        note = f"{why}. Give the gateway in front of them: --gateway or IPA_GATEWAY_URL."
        return RequestAddress(protocol=protocol, note=note)
    note = port_forward_note(service, target.namespace)
    return RequestAddress(service + path, protocol, note)


def probe(pipeline: Pipeline, request: ProbeRequest, settings: Settings) -> ProbeResult:
    """The result of the request: over HTTP, or by Seldon's own client over gRPC.

    UsageError: no address takes all requests, or protocol, shape or client does not support the request.
    """
    route = address(pipeline, settings, request.address)
    if not route.url:
        raise UsageError(route.note)
    check_url(route.url)
    if request.transport is ProbeTransport.REST:
        is_v2 = route.protocol == WireProtocol.V2
        return probe_http(request, route.url, route.protocol, v2_fault if is_v2 else seldon_fault)
    if route.protocol == WireProtocol.V2:
        raise UsageError("protocol v2 is sent over HTTP", hint="Leave out --transport.")
    place = urlsplit(without_user(route.url))
    if place.scheme != "http":
        raise UsageError(
            f"{mask_url(route.url)} is not a plain HTTP address, and gRPC uses no TLS here",
            hint="Leave out --transport, or give an http address.",
        )
    target, is_service = target_of(pipeline), not (request.address or settings.gateway_url)
    endpoint = f"{place.hostname}:{GRPC_PORT}" if is_service else place.netloc
    client = {"transport": "grpc", "gateway_endpoint": endpoint, "namespace": target.namespace}
    client |= {"gateway": "istio" if place.path.startswith("/seldon/") else "seldon"}
    client |= {"deployment_name": target.name}
    question = {"client": client, "body": dict(request.body), "timeout_s": request.timeout_s}
    answered = _run(settings.client_python or sys.executable, question, START_S + request.timeout_s)
    detail = answered["detail"] or seldon_fault(answered["answer"])
    return ProbeResult(
        endpoint,
        answered["latency_s"],
        shown(detail),
        answered["answer"],
        protocol=route.protocol,
        transport=request.transport,
    )


def seldon_fault(answer: Any) -> str:
    """The reason why the document is not an answer of Seldon's own protocol; empty if it is one."""
    if not isinstance(answer, Mapping):
        return f"the answer is not a message of Seldon's protocol: {shown(answer)}"
    status = answer.get("status")
    # The protocol's enumerations come as their names or as their numbers.
    if isinstance(status, Mapping) and status.get("status") in ("FAILURE", 1):
        return f"its status is a failure: {status.get('info') or status.get('reason') or shown(status)}"
    if not any(payload in answer for payload in PAYLOADS):
        return f"the answer has none of {', '.join(PAYLOADS)}: {shown(answer)}"
    return ""


def _run(python: str, question: Mapping[str, Any], within_s: float) -> dict[str, Any]:
    """The worker's result. Errors: UsageError (no client in that Python), InputError, UnavailableError."""
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
    result: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    if "lacks" in result:
        raise UsageError(f"{python} lacks the client: {result['lacks']}", hint=NO_CLIENT_HINT)
    return result
