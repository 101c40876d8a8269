"""A smoke request to a pipeline on Seldon: the addresses of its shape and protocol, and the clients."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ipa.adapters.processes import child_environment, run
from ipa.model.errors import InputError, UnavailableError, UsageError
from ipa.model.masking import mask_url, without_user
from ipa.model.pipeline import Pipeline
from ipa.model.probe import ProbeRequest, ProbeResult, ProbeTransport, RequestAddress
from ipa.settings import Settings
from ipa.targets.requests import Judge, check_url, probe_http, shown, v2_fault
from ipa.targets.seldon.locate import target_of
from ipa.targets.seldon.section import SeldonTarget, WireProtocol
from ipa.targets.seldon.split import PartRole, is_split, parts_of

# The ports of the Service that the operator makes for a predictor's orchestrator.
REST_PORT, GRPC_PORT = 8000, 5001
PREDICTIONS = "/api/v1.0/predictions"
# A pipeline's graph is called by this name; the orchestrator calls each node by its own.
V2_INFER = "/v2/models/infer"
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
    target, asked = target_of(pipeline), _through_gateway(pipeline, asked, settings)
    _check(pipeline, target, asked)
    door = _door(pipeline, target, asked)
    if asked.native or asked.transport is ProbeTransport.GRPC:
        # An orchestrator calls each node by its own name, whatever this one is; the router answers to one.
        model = pipeline.name if is_split(pipeline) else target.name
        return _by_worker(target, model, asked, door, settings.client_python or sys.executable)
    return probe_http(asked, door.url, target.protocol, _judge_of(target))


def address(pipeline: Pipeline, settings: Settings) -> RequestAddress:
    """The URL by the gateway of the settings, or by the Service of the pipeline's shape."""
    target, asked = target_of(pipeline), _through_gateway(pipeline, ProbeRequest({}), settings)
    try:
        _check(pipeline, target, asked)
        door = _door(pipeline, target, asked)
    except UsageError as error:
        return RequestAddress(protocol=target.protocol, note=f"{error.message}. {error.hint}")
    note = ""
    if not asked.gateway:
        service, port = urlsplit(door.base).hostname or "", urlsplit(door.base).port
        forward = f"kubectl -n {target.namespace} port-forward svc/{service.partition('.')[0]} {port}"
        note = f"reachable from within the cluster, or at http://127.0.0.1:{port} by `{forward}`"
    return RequestAddress(door.url, target.protocol, note)


def _through_gateway(pipeline: Pipeline, asked: ProbeRequest, settings: Settings) -> ProbeRequest:
    """The request by the gateway of the settings if it names no address, and a gateway leads there."""
    if asked.address or asked.gateway or is_split(pipeline):
        return asked
    return replace(asked, gateway=settings.gateway_url)


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


def _judge_of(target: SeldonTarget) -> Judge:
    return v2_fault if target.protocol is WireProtocol.V2 else seldon_fault


def _check(pipeline: Pipeline, target: SeldonTarget, asked: ProbeRequest) -> None:
    is_v2 = target.protocol is WireProtocol.V2
    if asked.address and asked.gateway:
        raise UsageError("--url and --gateway cannot be given together")
    if asked.native and asked.transport is ProbeTransport.REST and is_v2:
        raise UsageError(
            f"{CLIENT} does not speak protocol v2 over REST",
            hint="Leave out --native: plain HTTP is sent then.",
        )
    if not asked.address and not asked.gateway and pipeline.sets:
        raise UsageError(
            "several predictors share its requests, each with its own Service",
            hint="Give the gateway in front of them: --gateway or IPA_GATEWAY_URL.",
        )
    if is_split(pipeline) and asked.gateway:
        raise UsageError(
            "a gateway has no path to the router of shape split", hint="Give its address with --url."
        )


def _door(pipeline: Pipeline, target: SeldonTarget, asked: ProbeRequest) -> Door:
    given = asked.gateway or asked.address
    if given:
        check_url(given)
    if is_split(pipeline):
        (router,) = (part for part in parts_of(pipeline) if part.role is PartRole.ROUTER)
        return Door(given or router.service, f"/v2/models/{pipeline.name}/infer")
    port = GRPC_PORT if asked.transport is ProbeTransport.GRPC else REST_PORT
    path = V2_INFER if target.protocol is WireProtocol.V2 else PREDICTIONS
    service = f"http://{target.name}-{target.predictor}.{target.namespace}:{port}"
    prefix = f"/seldon/{target.namespace}/{target.name}" if asked.gateway else ""
    return Door(given or service, prefix + path)


def _by_worker(target: SeldonTarget, model: str, asked: ProbeRequest, door: Door, python: str) -> ProbeResult:
    """The result of the request by `client_worker` in that interpreter."""
    address = urlsplit(without_user(door.base))
    if address.scheme != "http":
        raise UsageError(
            f"{mask_url(door.base)} is not a plain HTTP address, and {CLIENT} and gRPC use no TLS here",
            hint="Leave out --native and --transport, or give an http address.",
        )
    question = {
        "protocol": str(target.protocol),
        "transport": str(asked.transport),
        "endpoint": address.netloc,
        "gateway": bool(asked.gateway),
        "namespace": target.namespace,
        "name": target.name,
        "model": model,
        "body": dict(asked.body),
        "timeout_s": asked.timeout_s,
    }
    found = _run(python, question, START_S + asked.timeout_s)
    detail = found["detail"] or _judge_of(target)(found["answer"])
    url = address.netloc if asked.transport is ProbeTransport.GRPC else mask_url(door.url)
    by = CLIENT if target.protocol is WireProtocol.SELDON else "grpc"
    return ProbeResult(
        url,
        target.protocol,
        asked.transport,
        by,
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
        raise InputError(f"the request cannot be sent by {CLIENT} or gRPC: {last}")
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    if "lacks" in found:
        raise UsageError(f"{python} lacks the client: {found['lacks']}", hint=NO_CLIENT_HINT)
    return found
