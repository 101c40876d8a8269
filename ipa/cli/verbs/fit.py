"""`ipa profile` measures the variants of a pipeline's stages; `ipa fit` shows how well profiles fit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from ipa.cli.options import FILE_PIPELINE, FileFolders, complete_stages, rate_range
from ipa.cli.output import OUTPUT, Output, print_values, progress, say, show
from ipa.model.errors import ExitCode, InfeasibleError, InputError, NotFoundError, UsageError
from ipa.model.masking import mask_url
from ipa.model.profile import StageProfile
from ipa.profiling import measure
from ipa.settings import Settings

if TYPE_CHECKING:
    from ipa.profiling.next_points import Grid

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
    next_: str | None = typer.Option(
        None,
        "--next",
        metavar="LOW:HIGH",
        help="measure only the points that plans for rates between these rest on",
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

    With --next few of the points are measured: one of each variant, then those that plans would use
    if all others were as quick as is credible, until none is left. Points in the files
    that --write or --folder writes stay if they were measured on this machine, so that it can be interrupted.

    With --at each variant is asked where it runs already, as one replica on --cores that gets no other
    requests: http://detect-{variant}.models:9000/v2/models/detect/infer.
    """
    settings = Settings.from_env()
    if force and not write:
        raise UsageError("--force needs --write")
    if write and (variants or folder):
        raise UsageError("--write replaces whole profiles, so leave out --variants and --folder")
    if next_ is not None and (stage or variants):
        raise UsageError("--next plans the whole pipeline, so leave out --stage and --variants")
    from ipa.bootstrap.targets import measurement_bench
    from ipa.files import dump_profile, load_pipeline, parse
    from ipa.profiling.findings import measure_command
    from ipa.service.measuring import bench_workload, measure_next, measure_stage, plans_over

    described = load_pipeline(settings.pipelines_dir / pipeline / "pipeline.yaml")
    if not described.runnable and at is None:
        raise UsageError(
            f"{pipeline} is only planned, so it cannot be measured here: {described.not_runnable_because}",
            hint="Measure it where its models run: "
            f"`{measure_command(pipeline, stage[0] if stage else '', planned_only=True)}`",
        )
    stages = [described.stage(name) for name in stage] or list(described.served)
    names = [name.strip() for name in variants.split(",")] if variants else []
    sizes = dict.fromkeys(_numbers(cores, float, "--cores"), _numbers(batches, int, "--batches"))
    chosen = {it.name: [it.variant(name) for name in names] or it.variants for it in stages}
    grids = {name: dict.fromkeys([each.name for each in those], sizes) for name, those in chosen.items()}
    _check_covered(at, grids)
    place = settings.profiles_dir / pipeline if write else folder
    rates_rps = rate_range("--next", next_) if next_ is not None else None
    results: dict[str, tuple[StageProfile, Path | None]] = {}

    def measured(name: str, grid: Grid, known: StageProfile | None) -> StageProfile:
        workload = bench_workload(settings.pipelines_dir, pipeline, name, seed)
        effort = measure.MeasurementEffort(repeats, budget)
        with measurement_bench(described, at or "") as bench:
            profile = measure_stage(
                bench, described, described.stage(name), workload, grid, effort, step, say, known
            )
        keeps = write and not force and _is_worse(profile, place)
        results[name] = profile, None if keeps else _written(profile, place)
        return profile

    points = sum(len(those) * sum(map(len, sizes.values())) for those in grids.values())
    with progress(f"measuring {pipeline}, points", None if rates_rps else points) as step:
        if rates_rps is None:
            for name, grid in grids.items():
                measured(name, grid, None)
        else:
            with measurement_bench(described, at or "") as bench:
                known = _known(place, grids, bench.hardware)
            plans = partial(plans_over, described, rates_rps, settings.solver, settings.solver_deadline_s)
            profiles = measure_next(grids, known, plans, measured)
            count = sum(len(variant.points) for each in profiles.values() for variant in each.variants)
            say(f"{count} points are enough to plan for {next_} rps; the whole grid has {points}")
    unreplaced = [name for name, (_, path) in results.items() if write and path is None]
    # In the form of files; as text only those that were not written.
    texts = [dump_profile(profile) for profile, _ in results.values()]
    if not print_values(output, [parse(text, "").data for text in texts]):
        typer.echo(
            "".join(text for text, (_, path) in zip(texts, results.values(), strict=True) if not path),
            nl=False,
        )
    _warn(profile for profile, _ in results.values())
    if unreplaced:
        raise InfeasibleError(
            f"the profile of {', '.join(unreplaced)} was not replaced: it is credible, the new one is not",
            hint="Measure again on a quiet machine, or replace it anyway with --force.",
        )


def _warn(profiles: Iterable[StageProfile]) -> None:
    """Tell which of the measured profiles are not credible."""
    from ipa.profiling.findings import doubt_of

    for each in profiles:
        if doubt := doubt_of(each):
            say(
                f"warning: {doubt}\n  → measure it again when the machine is quiet, by the same command; "
                f"`ipa fit {each.pipeline}` shows where"
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


def _check_covered(at: str | None, grids: Mapping[str, Grid]) -> None:
    """UsageError if one URL stands for several of what is measured."""
    several_cores = any(len(sizes) > 1 for grid in grids.values() for sizes in grid.values())
    most = {"stage": len(grids), "variant": max(map(len, grids.values())), "cores": 1 + several_cores}
    several = [f"{{{name}}}" for name, count in most.items() if count > 1 and f"{{{name}}}" not in (at or "")]
    if at is not None and several:
        raise UsageError(
            f"--at {mask_url(at)} is one server for several values of {', '.join(several)}",
            hint="Put these words into the URL, or measure one with --stage, --variants and --cores.",
        )


def _known(folder: Path | None, stages: Iterable[str], hardware: str) -> dict[str, StageProfile]:
    """The measured variants of the folder's profiles of these stages, those of this machine."""
    from ipa.files import load_profile

    paths = [folder / f"{name}.yaml" for name in stages] if folder else []
    profiles = [load_profile(path) for path in paths if path.is_file()]
    own = {
        it.stage: tuple(each for each in it.variants if each.assumed_ratio is None)
        for it in profiles
        if it.hardware == hardware
    }
    return {it.stage: replace(it, variants=own[it.stage]) for it in profiles if own.get(it.stage)}


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
