"""`ipa url`, `ipa infer` and `ipa probe`: the address of a pipeline's requests, and a request to it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import typer

from ipa.cli import options
from ipa.cli.options import PIPELINES_DIR, Place, duration_s
from ipa.cli.output import OUTPUT, Output, json_text, print_values, show
from ipa.model.errors import ExitCode, InputError, NotFoundError, UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.probe import USUAL_TIMEOUT_S, ProbeRequest, ProbeTransport
from ipa.settings import Settings

# As in a pipeline's file.
MOST_S = 60.0
# Statuses of a request that is refused for what it is; sent again it would be refused again.
REFUSED = range(400, 500)
TIMEOUT = typer.Option(None, "--timeout", help="time limit for the answer, such as 2s; 5s if not given")


def url(
    pipeline: str = options.PIPELINE,
    *,
    curl: bool = typer.Option(False, "--curl", help="print a curl command that sends request.json"),
    place: Place,
) -> None:
    """Print the URL that takes the requests of a pipeline.

    A note on from where it is reached goes to standard error.
    """
    with place.client() as service:
        address = service.address(pipeline)
    if not address.url:
        raise NotFoundError(f"the requests of pipeline {pipeline!r} have no URL: {address.note}")
    if print_values(place.output, address):
        return
    command = f"curl -sS {shlex.quote(address.url)} -H 'Content-Type: application/json' -d @request.json"
    typer.echo(command if curl else address.url)
    if address.note:
        typer.echo(f"note: {address.note}", err=True)


def infer(
    pipeline: str = options.PIPELINE,
    *,
    file: Path | None = typer.Option(
        None,
        "--file",
        "-f",
        metavar="FILE",
        help="JSON body of the request, - for standard input; `probe:` of its file, or the first of its "
        "bench.py, if not given",
    ),
    example: bool = typer.Option(
        False, "--example", help="print the request that is sent without --file, and send nothing"
    ),
    timeout: str | None = TIMEOUT,
    place: Place,
    pipelines_dir: Path | None = PIPELINES_DIR,
) -> None:
    """Send one request to a running pipeline, and print the answer.

    It is posted in the Open Inference Protocol (V2) to the address that `ipa url` prints. Exit codes: 5 not
    answered, or by an error; 65 the pipeline refuses the request.
    """
    from ipa.bootstrap.targets import infer_at
    from ipa.files.pipelines import find_pipeline
    from ipa.files.reading import is_file

    timeout_s = _timeout_s(timeout, USUAL_TIMEOUT_S)
    if file is not None and example:
        raise UsageError("--example and --file cannot both be given")
    if file is None:
        folder = Settings.from_env(pipelines_dir=pipelines_dir).pipelines_dir
        described = find_pipeline(pipeline, folder)
        pipeline = described.name
        if described.probe is None and is_file(folder / pipeline / "bench.py"):
            from ipa.service.measuring import bench_workload

            workload = bench_workload(folder, pipeline, described.served[0].name, 0)
            body: Mapping[str, Any] = {"inputs": workload.items[0]}
        else:
            body = _body(described, None)
        if example:
            show(place.output, body, json_text(body))
            return
    else:
        body = _read(file)
    with place.client() as service:
        address = service.address(pipeline)
    result = infer_at(address, body, timeout_s)
    if result.answered:
        show(place.output, result.answer, json_text(result.answer))
        if result.timing:
            typer.echo(f"milliseconds: {result.timing}", err=True)
        return
    if result.status in REFUSED:
        raise InputError(f"{result.url} refused the request: {result.detail}")
    typer.echo(f"error: {result.fault}", err=True)
    raise typer.Exit(ExitCode.DEGRADED)


def probe(
    pipeline: str = options.FILE_PIPELINE,
    *,
    request: Path | None = typer.Option(
        None,
        "--request",
        "-r",
        metavar="FILE",
        help="JSON body to send; `probe: {request: ...}` if not given",
    ),
    target: str | None = typer.Option(
        None, "--target", help="target that runs it; the one in its file if not given"
    ),
    url: str = typer.Option("", "--url", help="base URL that takes its requests; the target's if not given"),
    gateway: str = typer.Option("", "--gateway", help="base URL of a gateway; IPA_GATEWAY_URL if not given"),
    transport: ProbeTransport = typer.Option(ProbeTransport.REST, "--transport", help="rest or grpc"),
    timeout: str | None = TIMEOUT,
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
    if url and gateway:
        raise UsageError("--url and --gateway cannot be given together")
    described = find_pipeline(pipeline, settings.pipelines_dir)
    place = target_named(target) if target else default_target(described)
    if namespace is not None:
        described = place.in_namespace(described, namespace)
    settings = replace(settings, gateway_url=gateway or settings.gateway_url)
    if gateway and not place.address(described, settings).url.startswith(gateway):
        raise UsageError(f"{place.place(described)} has no gateway", hint="Give its address with --url.")
    timeout_s = _timeout_s(timeout, described.probe.timeout_s if described.probe else USUAL_TIMEOUT_S)
    question = ProbeRequest(_body(described, request), timeout_s, url, transport)
    result = place.probe(described, question, settings)
    values = {"pipeline": described.name, "answered": result.answered, **asdict(result)}
    words = f"answered in {result.latency_s * 1e3:.0f} ms" if result.answered else f"failed: {result.detail}"
    lines = [f"{described.name}: {words} ({result.protocol} over {result.transport}, {result.url})"]
    if result.answered:
        lines.append(json.dumps(result.answer, ensure_ascii=False))
    show(output, values, *lines)
    if result.fault:
        raise typer.Exit(ExitCode.DEGRADED)


def _timeout_s(given: str | None, usual_s: float) -> float:
    timeout_s = usual_s if given is None else duration_s("--timeout", given)
    if not 0 < timeout_s <= MOST_S:
        raise UsageError(f"--timeout {given} must be above 0 and at most {MOST_S:g}s")
    return timeout_s


def _body(pipeline: Pipeline, file: Path | None) -> Mapping[str, Any]:
    """The body to send: the file's, else the pipeline's example."""
    if file is not None:
        return _read(file)
    if pipeline.probe is None:
        raise UsageError(
            f"pipeline {pipeline.name!r} has no request to send",
            hint="Give one as a file, or as `probe: {request: ...}` in the pipeline's file.",
        )
    return pipeline.probe.request


def _read(file: Path) -> Mapping[str, Any]:
    """The JSON object in the file, or for `-` from standard input."""
    from ipa.files.reading import read_json

    try:
        body = json.load(sys.stdin) if str(file) == "-" else read_json(file)
    except ValueError as error:
        raise InputError(f"standard input is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise InputError(f"{file} is not a JSON object", hint='For example {"inputs": [...]}.')
    return body
