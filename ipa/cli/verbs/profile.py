"""`ipa profile`: measure the variants of a pipeline's stages on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import typer

from ipa.cli.options.planning import PIPELINE
from ipa.cli.output import OUTPUT, Output, printed
from ipa.cli.progress import progress
from ipa.model.errors import UsageError
from ipa.model.pipeline import Stage, Variant
from ipa.model.profile import StageProfile
from ipa.profiling import measure
from ipa.settings import Settings

Number = TypeVar("Number", int, float)

DEFAULT_CORES = "0.25,0.5,1"
DEFAULT_BATCHES = "1,2,4,8"


def profile(
    pipeline: str = PIPELINE,
    *,
    stage: list[str] = typer.Option([], "--stage", "-s", help="only this stage; may be repeated"),
    variants: str = typer.Option("", help="only these variants, separated by commas"),
    batches: str = typer.Option(DEFAULT_BATCHES, help="batch sizes to measure"),
    cores: str = typer.Option(DEFAULT_CORES, help="cores of a replica to measure"),
    repeats: int = typer.Option(
        measure.MeasurementEffort().repeats, min=1, help="most batches for each point"
    ),
    budget: float = typer.Option(
        measure.MeasurementEffort().budget_s, help="about how many seconds for each point"
    ),
    seed: int = typer.Option(1, min=0, help="seed of the workload"),
    folder: Path | None = typer.Option(None, "--folder", help="write a file for each stage into this folder"),
    write: bool = typer.Option(False, "--write", help="replace the profiles of the pipeline"),
    output: Output = OUTPUT,
) -> None:
    """Measure accuracy, latency, throughput and readiness of every variant with real model servers.

    Requests and accuracy come from pipelines/PIPELINE/bench.py. Run nothing else on the machine meanwhile.
    """
    settings = Settings.from_env()
    if write and (variants or folder):
        raise UsageError("--write replaces whole profiles, so leave out --variants and --folder")
    from ipa.bootstrap.targets import measurement_bench
    from ipa.files import load_pipeline
    from ipa.service.measuring import MeasureRequest, bench_workload, measure_stage

    described = load_pipeline(settings.pipelines_dir / pipeline / "pipeline.yaml")
    stages = [described.stage(name) for name in stage] or list(described.stages)
    chosen = {it.name: _chosen(it, variants) for it in stages}
    request = MeasureRequest(
        _numbers(cores, float, "--cores"),
        _numbers(batches, int, "--batches"),
        measure.MeasurementEffort(repeats, budget),
        described.sla.latency_s,
    )
    place = settings.profiles_dir / pipeline if write else folder
    found: list[tuple[StageProfile, Path | None]] = []
    with progress(f"measuring {pipeline}", sum(map(len, chosen.values())) * len(request.cores)) as step:
        for it in stages:
            workload = bench_workload(settings.pipelines_dir, pipeline, it.name, seed)
            with measurement_bench(described) as bench:
                profile = measure_stage(bench, described, it, chosen[it.name], workload, request, step, _say)
            found.append((profile, _written(profile, place)))
    _show(output, found)


def _chosen(stage: Stage, names: str) -> list[Variant]:
    if not names:
        return list(stage.variants)
    return [stage.variant(name.strip()) for name in names.split(",")]


def _numbers(text: str, kind: type[Number], option: str) -> tuple[Number, ...]:
    try:
        values = tuple(kind(word) for word in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text!r} is not a list of numbers, as in {option} 1,2,4") from error
    if min(values) <= 0:
        raise UsageError(f"{option} {text!r}: every number must be above 0")
    return values


def _written(profile: StageProfile, folder: Path | None) -> Path | None:
    """Write the profile into the folder and return its file; None if there is no folder."""
    from ipa.files import dump_profile

    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{profile.stage}.yaml"
    path.write_text(dump_profile(profile), encoding="utf-8")
    _say(f"wrote {path}")
    return path


def _show(output: Output, found: Sequence[tuple[StageProfile, Path | None]]) -> None:
    """Print the profiles as files have them; as text only those that were not written."""
    from ipa.files import dump_profile
    from ipa.files.document import parse

    texts = [dump_profile(profile) for profile, _ in found]
    if printed(
        output, [parse(text, profile.stage).data for text, (profile, _) in zip(texts, found, strict=True)]
    ):
        return
    for text, (_, path) in zip(texts, found, strict=True):
        if path is None:
            typer.echo(text, nl=False)


def _say(line: str) -> None:
    typer.echo(line, err=True)
