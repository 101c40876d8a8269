"""`ipa validate` checks the files of every kind; `ipa schema` prints their schemas."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ipa.cli.output import OUTPUT, Output, print_values
from ipa.model.errors import InputError

if TYPE_CHECKING:
    from ipa.files.check import Checked


class SchemaKind(StrEnum):
    """The kinds of files."""

    PIPELINE = "pipeline"
    PROFILE = "profile"


def validate(
    paths: list[Path] = typer.Argument(
        None, help="files or folders; all pipelines and profiles if not given"
    ),
    output: Output = OUTPUT,
) -> None:
    """Check pipeline, profile and settings files; list every problem with its file and line.

    A usable profile that is not credible gets WARNING instead of OK, with the reasons.
    """
    from ipa.files.check import check_files
    from ipa.settings import Settings

    settings = Settings.from_env()
    checked = check_files(paths or [], settings.pipelines_dir, settings.profiles_dir)
    if not checked:
        raise InputError(
            "there is no pipeline or profile file to check",
            hint="Give files or folders, or set IPA_PIPELINES_DIR and IPA_PROFILES_DIR.",
        )
    if not print_values(output, [_values(each) for each in checked]):
        for each in checked:
            _show(each)
    problems = [problem for each in checked for problem in each.problems]
    if problems:
        bad = sum(bool(each.problems) for each in checked)
        raise InputError(f"{bad} of {len(checked)} files cannot be used", problems=problems)


def schema(kind: SchemaKind = typer.Argument(..., help="kind of file")) -> None:
    """Print the JSON Schema (2020-12) of pipeline, profile or settings files."""
    from ipa.files.forms import schema_text

    typer.echo(schema_text(kind.value), nl=False)


def _values(checked: Checked) -> dict[str, Any]:
    """The result for a file as plain values: its problems, warnings and notes."""
    from ipa.profiling.findings import doubt_of, lint_profile

    remarks = lint_profile(checked.profile) if checked.profile is not None else ()
    return {
        "path": str(checked.path),
        "ok": not checked.problems,
        "problems": [asdict(problem) for problem in checked.problems],
        "warnings": [
            {"variant": each.variant, "kind": each.kind, "topic": each.topic, "detail": each.detail}
            for each in remarks
        ],
        "doubts": list(doubt.reasons if (doubt := checked.profile and doubt_of(checked.profile)) else ()),
        "notes": target_notes(checked),
    }


def target_notes(checked: Checked) -> list[str]:
    """Notes for the pipeline's owner on how it runs on each target that has a section in its file."""
    from ipa.bootstrap.targets import targets
    from ipa.model.serving import unbatched_notes

    pipeline = checked.pipeline
    if pipeline is None:
        return []
    planned_only = [] if pipeline.runnable else [f"planned only: {pipeline.not_runnable_because}"]
    placed = [it for it in targets() if it.sections.pipeline is not None and it.placed(pipeline)]
    shaped = [it.shape(pipeline, checked.measured) for it in placed]
    notes = [note for each in shaped for note in unbatched_notes(each, with_remedies=True)]
    return (
        planned_only
        + notes
        + [f"refused on {it.title}: {fault}" for it in placed for fault in it.unhonoured(pipeline)]
    )


def _show(checked: Checked) -> None:
    from ipa.cli.layout import counted
    from ipa.profiling.findings import doubt_of, lint_profile, remedy_of_doubt, summarise_fit

    if checked.problems:
        return
    path, pipeline, profile = checked.path, checked.pipeline, checked.profile
    if pipeline is not None:
        count = sum(len(stage.variants) for stage in pipeline.stages)
        typer.echo(
            f"OK {path}: {counted(len(pipeline.stages), 'stage')}, {counted(count, 'variant')}, "
            f"SLA {pipeline.sla.latency_s:g} s at p{pipeline.sla.percentile:g}, "
            f"objectives {', '.join(pipeline.objectives)}"
        )
        for note in target_notes(checked):
            typer.echo(f"note: {path}: {note}", err=True)
    if profile is None:
        return
    points = sum(len(variant.points) for variant in profile.variants)
    variants = counted(len(profile.variants), "variant")
    doubt = doubt_of(profile)
    verdict = "WARNING" if doubt else "OK"
    typer.echo(f"{verdict} {path}: {variants}, {counted(points, 'point')}, {summarise_fit(profile)}")
    if doubt:
        typer.echo(f"warning: {path}: it is not credible: {'; '.join(doubt.reasons)}", err=True)
        remedy = remedy_of_doubt(profile.pipeline, profile.stage, planned_only=checked.planned_only)
        typer.echo(f"  → {remedy}; `ipa fit {profile.pipeline}` shows where", err=True)
    for topic, count in Counter(remark.topic for remark in lint_profile(profile)).items():
        typer.echo(f"warning: {path}: {topic} ({count} of {variants})", err=True)
