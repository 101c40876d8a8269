"""`ipa profile`: measure the variants of a pipeline's stages on this machine."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from statistics import fmean, median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

import typer

from ipa.cli.options.planning import PIPELINE
from ipa.cli.output import OUTPUT, Output, printed
from ipa.cli.progress import Step, progress
from ipa.model.errors import NotFoundError, UnavailableError, UsageError
from ipa.model.pipeline import Pipeline, Stage, Variant
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.profiling import measure
from ipa.settings import Settings

if TYPE_CHECKING:
    import httpx

    from ipa.targets.local.bench import Bench

Number = TypeVar("Number", int, float)

DEFAULT_CORES = "0.25,0.5,1"
DEFAULT_BATCHES = "1,2,4,8"
# A fraction has so many digits in a profile: a sixty-page workload knows no more.
ACCURACY_DIGITS = 4
REQUEST_TIMEOUT_S = 60.0
METHOD = (
    "One MLServer replica as the local runtime starts it: its own CPU, below one core the CPU quota of "
    "ipa.dataplane.quota. One client sends batches back to back over HTTP on loopback, JSON coding included; "
    "latency is the p99 of a batch, throughput the batch size over the mean."
)


class HttpReplica:
    """A model server over V2 as a stage's queue asks it: merged inputs, JSON, answers split again."""

    def __init__(self, client: httpx.Client, url: str, stage: str) -> None:
        self._client = client
        self._url = f"{url}/v2/models/{stage}/infer"

    def infer(self, items: Sequence[measure.Item]) -> measure.BatchMeasurement:
        """The answer to the items as one batch; UnavailableError where there is none."""
        import time

        import orjson

        from ipa.dataplane import tensors

        parts = [tensors.parse(list(item), "inputs") for item in items]
        started_s = time.perf_counter()
        body = tensors.dump("inputs", tensors.merge(parts))
        response = self._client.post(self._url, content=body, headers={"content-type": "application/json"})
        if response.is_error:
            raise UnavailableError(f"{self._url} answered {response.status_code}: {response.text[:300]}")
        outputs = tensors.parse(orjson.loads(response.content)["outputs"], "outputs")
        split = tensors.split(outputs, [1] * len(items))
        latency_s = time.perf_counter() - started_s
        return measure.BatchMeasurement(
            latency_s, tuple({tensor.name: tensor.data for tensor in part} for part in split)
        )


@dataclass(frozen=True, slots=True)
class Request:
    """What to measure, and for how long."""

    cores: tuple[float, ...]
    batches: tuple[int, ...]
    effort: measure.MeasurementEffort
    limit_s: float


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command("profile")(profile)


def profile(
    pipeline: str = PIPELINE,
    *,
    stage: list[str] = typer.Option([], "--stage", "-s", help="Only this stage (repeatable)."),
    variants: str = typer.Option("", help="Only these variants, separated by commas."),
    batches: str = typer.Option(DEFAULT_BATCHES, help="Batch sizes."),
    cores: str = typer.Option(DEFAULT_CORES, help="Cores of a replica."),
    repeats: int = typer.Option(measure.MeasurementEffort().repeats, min=1, help="Batches a point, at most."),
    budget: float = typer.Option(measure.MeasurementEffort().budget_s, help="Seconds a point, about."),
    seed: int = typer.Option(1, min=0, help="Seed of the workload."),
    folder: Path | None = typer.Option(None, "--folder", help="Write into this folder, a file a stage."),
    write: bool = typer.Option(False, "--write", help="Write into the profiles of the pipeline."),
    output: Output = OUTPUT,
) -> None:
    """Measure accuracy, latency, throughput and readiness of every variant with real model servers.

    The requests and the score come from pipelines/PIPELINE/bench.py. The machine should do nothing else.
    """
    settings = Settings.from_env()
    if write and (variants or folder):
        raise UsageError("--write replaces whole profiles: leave --variants and --folder away")
    from ipa.files import load_pipeline

    described = load_pipeline(settings.pipelines_dir / pipeline / "pipeline.yaml")
    stages = [described.stage(name) for name in stage] or list(described.stages)
    chosen = {it.name: _chosen(it, variants) for it in stages}
    request = Request(
        _numbers(cores, float, "--cores"),
        _numbers(batches, int, "--batches"),
        measure.MeasurementEffort(repeats, budget),
        described.sla.latency_s,
    )
    place = settings.profiles_dir / pipeline if write else folder
    found: list[tuple[StageProfile, Path | None]] = []
    with progress(f"measuring {pipeline}", sum(map(len, chosen.values())) * len(request.cores)) as step:
        for it in stages:
            workload = _workload(settings.pipelines_dir, pipeline, it.name, seed)
            profile = _stage_profile(described, it, chosen[it.name], workload, request, step)
            found.append((profile, _written(profile, place)))
    _show(output, found)


def _stage_profile(
    pipeline: Pipeline,
    stage: Stage,
    variants: Sequence[Variant],
    workload: measure.MeasuredWorkload,
    request: Request,
    step: Step,
) -> StageProfile:
    from ipa.targets.local.bench import Bench

    with (
        TemporaryDirectory(prefix="ipa-profile-") as folder,
        closing(Bench(pipeline, Path(folder))) as bench,
    ):
        measured = [_variant_profile(bench, stage, one, workload, request, step) for one in variants]
    return StageProfile(
        pipeline=pipeline.name,
        stage=stage.name,
        variants=tuple(measured),
        hardware=_hardware(),
        measured_on=datetime.now(UTC).date(),
        method=METHOD,
        source=f"ipa profile {pipeline.name}",
    )


def _variant_profile(
    bench: Bench,
    stage: Stage,
    variant: Variant,
    workload: measure.MeasuredWorkload,
    request: Request,
    step: Step,
) -> VariantProfile:
    import httpx

    from ipa.dataplane.tensors import FAN_OUT

    items = workload.items
    points: list[ProfilePoint] = []
    readiness_s: list[float] = []
    memory_gib: list[float] = []
    accuracy = 0.0
    rows: tuple[int, ...] = (1,)
    most = max(request.cores)
    for cores in sorted(request.cores):
        with (
            bench.serve(stage.name, variant.name, cores) as served,
            httpx.Client(timeout=REQUEST_TIMEOUT_S) as client,
        ):
            replica = HttpReplica(client, served.url, stage.name)
            points += measure.measure_points(
                replica,
                items,
                cores=cores,
                batch_sizes=request.batches,
                limit_s=request.limit_s,
                effort=request.effort,
            )
            readiness_s.append(served.readiness_s)
            memory_gib.append(served.memory_gib())
            if cores == most:
                outputs = measure.answers(replica, items, max(request.batches))
                accuracy, rows = workload.accuracy(outputs), measure.rows(outputs, FAN_OUT)
        step(f"{stage.name}/{variant.name} on {cores:g} cores")
    _say(f"{stage.name}/{variant.name}: accuracy {accuracy:.3f}, rows an item {fmean(rows):.2f}")
    for point in points:
        _say(
            f"  {point.cores:g} cores, batch {point.batch_size}: p99 {point.latency_s * 1e3:.0f} ms, "
            f"{point.throughput_rps:.1f} rps"
        )
    return VariantProfile(
        variant=variant.name,
        accuracy=round(accuracy, ACCURACY_DIGITS),
        points=tuple(rounded(point) for point in points),
        readiness_s=round(median(readiness_s), 2),
        memory_gib=round(max(memory_gib), 2),
        rows_per_item=(min(rows), max(rows)),
    )


def rounded(point: ProfilePoint) -> ProfilePoint:
    """The point with as many digits as a repetition would confirm: 0.1 ms, 0.01 rps."""
    assert point.latency_mean_s is not None and point.throughput_rps is not None
    return ProfilePoint(
        cores=point.cores,
        batch_size=point.batch_size,
        latency_s=round(point.latency_s, 4),
        latency_mean_s=round(point.latency_mean_s, 4),
        throughput_rps=round(point.throughput_rps, 2),
    )


def _workload(pipelines_dir: Path, pipeline: str, stage: str, seed: int) -> measure.MeasuredWorkload:
    home = pipelines_dir.resolve()
    if not (home / pipeline / "bench.py").is_file():
        raise NotFoundError(
            f"pipeline {pipeline!r} cannot be measured here: {pipelines_dir / pipeline} has no bench.py",
            hint="Write one with `workload(stage, seed)`, as ipa.profiling.measure.Workload describes.",
        )
    if str(home.parent) not in sys.path:
        sys.path.insert(0, str(home.parent))
    workload: measure.MeasuredWorkload = import_module(f"{home.name}.{pipeline}.bench").workload(stage, seed)
    return workload


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
    """The profile's file, None where it is only to be printed."""
    from ipa.files import dump_profile

    if folder is None:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{profile.stage}.yaml"
    path.write_text(dump_profile(profile), encoding="utf-8")
    _say(f"wrote {path}")
    return path


def _show(output: Output, found: Sequence[tuple[StageProfile, Path | None]]) -> None:
    """Print the profiles as files have them; for people not those that were written to files."""
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


def _hardware() -> str:
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        name = models[0] if models else name
    return f"{len(os.sched_getaffinity(0))} cores, {name}"


def _say(line: str) -> None:
    typer.echo(line, err=True)
