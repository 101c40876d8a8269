"""`ipa probe` sends a request to a pipeline as its clients do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from ipa.cli.options import running as options
from ipa.cli.options.parsing import duration_s
from ipa.cli.options.planning import PIPELINE, PIPELINES_DIR
from ipa.cli.output import OUTPUT, Output, show
from ipa.model.errors import InputError, UsageError
from ipa.model.exits import ExitCode
from ipa.model.pipeline import Pipeline
from ipa.model.probe import USUAL_TIMEOUT_S, ProbeRequest, ProbeResult, ProbeTransport
from ipa.settings import Settings

# As in a pipeline's file.
MOST_S = 60.0


def probe(
    pipeline: str = PIPELINE,
    *,
    request: Path | None = typer.Option(
        None,
        "--request",
        "-r",
        metavar="FILE",
        help="JSON body to send; `probe: {request: ...}` if not given",
    ),
    target: str | None = typer.Option(
        None, "--target", help="target that runs it; the one that its file has a section for if not given"
    ),
    url: str = typer.Option(
        "", "--url", help="base URL that takes its requests; the one that the target knows if not given"
    ),
    gateway: str = typer.Option("", "--gateway", help="base URL of a gateway; IPA_GATEWAY_URL if not given"),
    transport: ProbeTransport = typer.Option(ProbeTransport.REST, "--transport", help="rest or grpc"),
    native: bool = typer.Option(
        False, "--native", help="send it by the client package of the target, found by IPA_CLIENT_PYTHON"
    ),
    reward: float | None = typer.Option(
        None, "--reward", help="then give the answer this reward by a feedback request"
    ),
    timeout: str | None = typer.Option(
        None, "--timeout", help="most time for the answer, as 2s; 5s if not given"
    ),
    output: Output = OUTPUT,
    namespace: str | None = options.NAMESPACE,
    pipelines_dir: Path | None = PIPELINES_DIR,
) -> None:
    """Send one request to a pipeline, as its clients do, and show the answer.

    It goes through the gateway or the Service of the pipeline, in the protocol of its file. Exit code 5: it
    was not answered, or not as its protocol says.
    """
    from ipa.bootstrap.targets import default_target, target_named
    from ipa.files.pipelines import find_pipeline

    settings = Settings.from_env(pipelines_dir=pipelines_dir)
    described = find_pipeline(pipeline, settings.pipelines_dir)
    place = target_named(target) if target else default_target(described)
    if namespace is not None:
        described = place.in_namespace(described, namespace)
    known_s = described.probe.timeout_s if described.probe else USUAL_TIMEOUT_S
    timeout_s = known_s if timeout is None else duration_s("--timeout", timeout)
    if not 0 < timeout_s <= MOST_S:
        raise UsageError(f"--timeout {timeout} is not above 0 and at most {MOST_S:g}s")
    body = _body(described, request)
    asked = ProbeRequest(body, timeout_s, url, gateway, transport, native, reward)
    found = place.probe(described, asked, settings)
    show(output, {"pipeline": described.name, **_fields(found)}, *_lines(described.name, found))
    if found.fault:
        raise typer.Exit(ExitCode.DEGRADED)


def _body(pipeline: Pipeline, file: Path | None) -> Mapping[str, Any]:
    """The body to send, of the file or of the pipeline."""
    if file is None:
        if pipeline.probe is None:
            raise UsageError(
                f"pipeline {pipeline.name!r} has no request to send",
                hint="Give one with --request FILE, or as `probe: {request: ...}` in its file.",
            )
        return pipeline.probe.request
    from ipa.files.reading import read_json

    body = read_json(file)
    if not isinstance(body, dict):
        raise InputError(f"{file} is no JSON object", hint='For example {"inputs": [...]}.')
    return body


def _fields(found: ProbeResult) -> dict[str, Any]:
    """The result as JSON has it."""
    return {
        "answered": found.answered,
        "url": found.url,
        "protocol": found.protocol,
        "transport": found.transport.value,
        "client": found.client,
        "status": found.status,
        "latency_s": round(found.latency_s, 6),
        "detail": found.detail,
        "feedback": found.feedback,
        "answer": found.answer,
    }


def _lines(pipeline: str, found: ProbeResult) -> list[str]:
    """The result in words."""
    by = f"{found.protocol} over {found.transport} by {found.client}"
    words = f"answered in {found.latency_s * 1e3:.0f} ms" if found.answered else f"failed: {found.detail}"
    lines = [f"{pipeline}: {words} ({by}, {found.url})"]
    if found.feedback is not None:
        lines.append(f"feedback: {found.feedback or 'accepted'}")
    if found.answered:
        lines.append(json.dumps(found.answer, ensure_ascii=False))
    return lines
