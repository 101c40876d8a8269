"""`ipa fit`: the fit, the origin and the faults of a pipeline's profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer

from ipa.cli import shell_completion as completing
from ipa.cli.lookup import load, service_at
from ipa.cli.options.planning import PIPELINE, PIPELINES_DIR, PROFILES_DIR
from ipa.cli.output import OUTPUT, Output, printed, printer
from ipa.model.errors import NotFoundError, UnavailableError, UsageError
from ipa.model.exits import ExitCode
from ipa.model.pipeline import Edge, Stage, Variant
from ipa.model.profile import StageProfile


@dataclass(frozen=True, slots=True)
class ProfiledPipeline:
    """A pipeline with its profiles by stage."""

    pipeline: str
    stages: Sequence[Stage]
    sla_s: float
    profiles: Mapping[str, StageProfile]


def fit(
    pipeline: str = PIPELINE,
    *,
    stage: list[str] = typer.Option(
        [], "--stage", "-s", help="only this stage; may be repeated", autocompletion=completing.stages
    ),
    strict: bool = typer.Option(False, "--strict", help="exit code 3 if there is a finding"),
    at: str | None = typer.Option(
        None, "--at", metavar="URL", help="URL of a service whose profiles are read; files if not given"
    ),
    output: Output = OUTPUT,
    pipelines_dir: Path | None = PIPELINES_DIR,
    profiles_dir: Path | None = PROFILES_DIR,
) -> None:
    """Show how well profiles fit, where they come from, and what to correct in them.

    One row for each variant and number of cores. "left out" is the mean error on inner batch sizes, each
    predicted from the others; the latencies are those of the smallest and the largest batch, rps the
    throughput of the largest. Exit code 3 with --strict: there is a finding.
    """
    from ipa.cli.views.fit_text import FitResult, print_fits
    from ipa.profiling.findings import findings
    from ipa.profiling.overview import overview

    known = _known(pipeline, at, pipelines_dir, profiles_dir)
    wanted = _wanted(known, stage)
    today = datetime.now(UTC).date()
    found = FitResult(
        known.pipeline,
        tuple(overview(known.profiles[each], today) for each in wanted if each in known.profiles),
        findings(known.pipeline, known.stages, known.sla_s, known.profiles, today, stage),
    )
    if not printed(output, found.to_json()):
        print_fits(found, printer(output))
    if strict and found.findings:
        raise typer.Exit(ExitCode.INFEASIBLE)


def _known(
    pipeline: str, at: str | None, pipelines_dir: Path | None, profiles_dir: Path | None
) -> ProfiledPipeline:
    """The pipeline and its profiles, from files or from the service."""
    if at is None:
        described, profiles, _ = load(pipeline, pipelines_dir, profiles_dir)
        return ProfiledPipeline(described.name, described.stages, described.sla.latency_s, profiles)
    if pipelines_dir is not None or profiles_dir is not None:
        raise UsageError(
            "--at reads from a service, so --pipelines-dir and --profiles-dir cannot be given with it"
        )
    from ipa.clients.http import is_service

    if not is_service(at):
        raise UsageError(f"--at {at!r} is no URL of a service", hint="For example http://127.0.0.1:8080")
    with service_at(at, "fit") as service:
        view, documents = service.definition(pipeline), service.profiles(pipeline)
    stages = [_stage(each) for each in view["stages"]]
    return ProfiledPipeline(view["pipeline"], stages, view["sla_s"], _profiles(documents))


def _stage(view: Mapping[str, Any]) -> Stage:
    """The stage with what the API shows of it."""
    after = tuple(Edge(each["parent"], each["fan_out"], each["share"]) for each in view["after"])
    return Stage(view["stage"], tuple(Variant(name) for name in view["variants"]), after)


def _profiles(documents: Mapping[str, Any]) -> dict[str, StageProfile]:
    """The profiles of a service's answer; UnavailableError if the service has another version."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(dict[str, StageProfile]).validate_python(documents)
    except ValidationError as error:
        raise UnavailableError(
            f"the service's profiles cannot be read: {error}", hint="Is it of the same version as this ipa?"
        ) from error


def _wanted(known: ProfiledPipeline, names: Sequence[str]) -> list[str]:
    """The stages to show, in the pipeline's order; NotFoundError names those there are."""
    there = [each.name for each in known.stages if each.variants]
    there += [name for name in known.profiles if name not in there]
    unknown = [name for name in names if name not in there]
    if unknown:
        raise NotFoundError(
            f"pipeline {known.pipeline!r} has no stage {', '.join(map(repr, unknown))} with variants",
            hint=f"It has: {', '.join(there)}",
        )
    return [name for name in there if not names or name in names]
