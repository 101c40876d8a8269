"""`ipa profile` measures the variants of a pipeline's stages; `ipa fit` shows how well profiles fit."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import typer

from ipa.cli.options import FILE_PIPELINE, FileFolders, complete_stages
from ipa.cli.output import OUTPUT, Output, print_values, progress, say, show
from ipa.model.errors import ExitCode, InfeasibleError, InputError, NotFoundError, UsageError
from ipa.model.masking import mask_url
from ipa.model.profile import StageProfile
from ipa.profiling import measure
from ipa.settings import Settings

Number = TypeVar("Number", int, float)
DEFAULT_CORES = "0.25,0.5,1"
DEFAULT_BATCHES = "1,2,4,8"


def fit(
    pipeline: str = FILE_PIPELINE,
    *,
    stage: list[str] = typer.Option(
        [], "--stage", "-s", help="only this stage; may be repeated", autocompletion=complete_stages
    ),
    strict: bool = typer.Option(False, "--strict", help="exit code 3 if there is a finding"),
    output: Output = OUTPUT,
    folders: FileFolders,
) -> None:
    """Show how well profiles fit, where they come from, and what to correct in them.

    One row for each variant and number of cores. R² is "flat" if the latency hardly depends on the batch.
    "left out" is the mean error on inner batch sizes, each predicted from the others; the latencies are those
    of the smallest and the largest batch, rps the throughput of the largest. Exit code 3 with --strict: there
    is a finding.
    """
    from ipa.cli.views.result_text import fit_lines
    from ipa.profiling.findings import findings, overview

    described, profiles, _ = folders.load(pipeline)
    there = list(dict.fromkeys((*(each.name for each in described.served), *profiles)))
    if unknown := [name for name in stage if name not in there]:
        raise NotFoundError(
            f"pipeline {described.name!r} has no stage {', '.join(map(repr, unknown))} with variants",
            hint=f"It has: {', '.join(there)}",
        )
    today = datetime.now(UTC).date()
    shown = [each for each in there if each in profiles and (not stage or each in stage)]
    stages = [overview(profiles[each], today) for each in shown]
    remarks = findings(
        described.name,
        described.stages,
        described.sla.latency_s,
        profiles,
        today,
        stage,
        planned_only=not described.runnable,
    )
    values = {
        "pipeline": described.name,
        "stages": stages,
        "findings": [asdict(each) for each in remarks],
    }
    show(output, values, fit_lines(described.name, stages, remarks))
    if strict and remarks:
        raise typer.Exit(ExitCode.INFEASIBLE)


def profile(
    pipeline: str = FILE_PIPELINE,
    *,
    stage: list[str] = typer.Option([], "--stage", "-s", help="only this stage; may be repeated"),
    variants: str = typer.Option("", help="only these variants, separated by commas"),
    batches: str = typer.Option(DEFAULT_BATCHES, help="batch sizes to measure"),
    cores: str = typer.Option(DEFAULT_CORES, help="cores of a replica to measure"),
    repeats: int = typer.Option(measure.MeasurementEffort().repeats, min=1, help="most batches per point"),
    budget: float = typer.Option(
        measure.MeasurementEffort().budget_s,
        help="seconds per point, about; up to four times as many while its p99 scatters",
    ),
    seed: int = typer.Option(1, min=0, help="seed of the workload"),
    folder: Path | None = typer.Option(None, "--folder", help="write a file for each stage into this folder"),
    write: bool = typer.Option(False, "--write", help="replace the profiles of the pipeline"),
    force: bool = typer.Option(
        False, "--force", help="with --write: replace a credible profile by one that is not"
    ),
    at: str | None = typer.Option(
        None,
        "--at",
        metavar="URL",
        help="address of V2 inference of servers that run already, with {stage}, {variant} and {cores} in it "
        "if there are several; this machine starts its own if not given",
    ),
    output: Output = OUTPUT,
) -> None:
    """Measure accuracy, latency, throughput and readiness of every variant with real model servers.

    Requests and accuracy come from pipelines/PIPELINE/bench.py. Run nothing else on the machine meanwhile:
    else p99s scatter, which the command reports, and the profile is less credible. Exit code 3 with
    --write: a credible profile was not replaced by one that is not.

    With --at each variant is asked where it runs already, as one replica on --cores that gets no other
    requests: http://detect-{variant}.models:9000/v2/models/detect/infer.
    """
    settings = Settings.from_env()
    if force and not write:
        raise UsageError("--force needs --write")
    if write and (variants or folder):
        raise UsageError("--write replaces whole profiles, so leave out --variants and --folder")
    from ipa.bootstrap.targets import measurement_bench
    from ipa.files import dump_profile, load_pipeline, parse
    from ipa.profiling.findings import doubt_of, measure_command
    from ipa.service.measuring import MeasureRequest, bench_workload, measure_stage

    described = load_pipeline(settings.pipelines_dir / pipeline / "pipeline.yaml")
    if not described.runnable and at is None:
        command = measure_command(pipeline, stage[0] if stage else "", planned_only=True)
        raise UsageError(
            f"{pipeline} is only planned, so it cannot be measured here: {described.not_runnable_because}",
            hint=f"Measure it where its models run: `{command}`",
        )
    stages = [described.stage(name) for name in stage] or list(described.stages)
    names = [name.strip() for name in variants.split(",")] if variants else []
    chosen = {it.name: [it.variant(name) for name in names] or it.variants for it in stages}
    request = MeasureRequest(
        _numbers(cores, float, "--cores"),
        _numbers(batches, int, "--batches"),
        measure.MeasurementEffort(repeats, budget),
        described.sla.latency_s,
    )
    most = {"stage": len(stages), "variant": max(map(len, chosen.values())), "cores": len(request.cores)}
    several = [f"{{{name}}}" for name, count in most.items() if count > 1 and f"{{{name}}}" not in (at or "")]
    if at is not None and several:
        raise UsageError(
            f"--at {mask_url(at)} is one server for several values of {', '.join(several)}",
            hint="Put these words into the URL, or measure one with --stage, --variants and --cores.",
        )
    place = settings.profiles_dir / pipeline if write else folder
    results: list[tuple[StageProfile, Path | None]] = []
    unreplaced: list[str] = []
    points = sum(map(len, chosen.values())) * len(request.cores) * len(request.batches)
    with progress(f"measuring {pipeline}, points", points) as step:
        for it in stages:
            workload = bench_workload(settings.pipelines_dir, pipeline, it.name, seed)
            with measurement_bench(described, at or "") as bench:
                profile = measure_stage(bench, described, it, chosen[it.name], workload, request, step, say)
            keeps = write and not force and _is_worse(profile, place)
            results.append((profile, None if keeps else _written(profile, place)))
            unreplaced += [it.name] if keeps else []
    # In the form of files; as text only those that were not written.
    texts = [dump_profile(profile) for profile, _ in results]
    if not print_values(output, [parse(text, "").data for text in texts]):
        typer.echo(
            "".join(text for text, (_, path) in zip(texts, results, strict=True) if not path), nl=False
        )
    for measured, _ in results:
        if doubt := doubt_of(measured):
            say(
                f"warning: {doubt}\n  → measure it again when the machine is quiet, by the same command; "
                f"`ipa fit {measured.pipeline}` shows where"
            )
    if unreplaced:
        raise InfeasibleError(
            f"the profile of {', '.join(unreplaced)} was not replaced: it is credible, the new one is not",
            hint="Measure again on a quiet machine, or replace it anyway with --force.",
        )


def _numbers(text: str, kind: type[Number], option: str) -> tuple[Number, ...]:
    try:
        values = tuple(kind(word) for word in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text!r} is not a list of numbers, as in {option} 1,2,4") from error
    if min(values) <= 0:
        raise UsageError(f"{option} {text!r}: every number must be above 0")
    return values


def _is_worse(profile: StageProfile, folder: Path | None) -> bool:
    """True if the profile is not credible, and the one in the folder's file is."""
    from ipa.files import load_profile
    from ipa.profiling.findings import doubt_of

    path = folder / f"{profile.stage}.yaml" if folder else None
    if path is None or not path.is_file() or doubt_of(profile) is None:
        return False
    try:
        return doubt_of(load_profile(path)) is None
    except InputError:
        return False


def _written(profile: StageProfile, folder: Path | None) -> Path | None:
    """Write the profile into the folder and return its file; None if there is no folder."""
    from ipa.files import dump_profile

    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{profile.stage}.yaml"
    path.write_text(dump_profile(profile), encoding="utf-8")
    say(f"wrote {path}")
    return path
