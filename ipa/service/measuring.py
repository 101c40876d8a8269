"""Measures the profile of a stage on a bench."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from statistics import fmean, median

from ipa.model.errors import NotFoundError
from ipa.model.pipeline import Pipeline, Stage, Variant
from ipa.model.plan import cores_of
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.model.serving import FAN_OUT
from ipa.profiling import measure

# Digits of an accuracy in a profile: a workload of sixty pages supports no more.
ACCURACY_DIGITS = 4

Tell = Callable[[str], None]
# Receives what was measured, and of how many points.
Step = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class MeasureRequest:
    """The cores and batch sizes to measure, the time for each point, and the latency above which to stop."""

    cores: tuple[float, ...]
    batches: tuple[int, ...]
    effort: measure.MeasurementEffort
    limit_s: float


def measure_stage(
    bench: measure.MeasurementBench,
    pipeline: Pipeline,
    stage: Stage,
    variants: Sequence[Variant],
    workload: measure.MeasuredWorkload,
    request: MeasureRequest,
    step: Step,
    say: Tell,
) -> StageProfile:
    """The profile of the variants. `step` receives each finished variant and cores, `say` the results.

    Errors: UnavailableError (a model server does not become ready, or fails).
    """
    measured = [_variant_profile(bench, stage, one, workload, request, step, say) for one in variants]
    return StageProfile(
        pipeline=pipeline.name,
        stage=stage.name,
        variants=tuple(measured),
        hardware=bench.hardware,
        measured_on=datetime.now(UTC).date(),
        method=bench.method,
        source=f"ipa profile {pipeline.name}",
    )


def _variant_profile(
    bench: measure.MeasurementBench,
    stage: Stage,
    variant: Variant,
    workload: measure.MeasuredWorkload,
    request: MeasureRequest,
    step: Step,
    say: Tell,
) -> VariantProfile:
    items = workload.items
    points: list[tuple[ProfilePoint, bool]] = []
    readiness_s: list[float] = []
    memory_gib: list[float] = []
    accuracy = 0.0
    rows: tuple[int, ...] = (1,)
    most = max(request.cores)
    for cores in sorted(request.cores):
        with bench.serve(stage.name, variant.name, cores) as replica:
            points += measure.measure_points(
                replica,
                items,
                cores=cores,
                batch_sizes=request.batches,
                limit_s=request.limit_s,
                effort=request.effort,
            )
            readiness_s += [] if replica.readiness_s is None else [replica.readiness_s]
            held_gib = replica.memory_gib()
            memory_gib += [] if held_gib is None else [held_gib]
            if cores == most:
                outputs = measure.answers(replica, items, max(request.batches))
                accuracy, rows = workload.accuracy(outputs), measure.rows(outputs, FAN_OUT)
        step(f"{stage.name}/{variant.name} on {cores_of(cores)}", len(request.batches))
    say(f"{stage.name}/{variant.name}: accuracy {accuracy:.3f}, rows an item {fmean(rows):.2f}")
    for point, is_steady in points:
        scatter = "" if is_steady else "   the p99 scatters: measure longer, or on an idle machine"
        say(
            f"  {cores_of(point.cores)}, batch {point.batch_size}: p99 {point.latency_s * 1e3:.0f} ms, "
            f"{point.throughput_rps:.1f} rps{scatter}"
        )
    return VariantProfile(
        variant=variant.name,
        accuracy=round(accuracy, ACCURACY_DIGITS),
        points=tuple(rounded(point) for point, _ in points),
        readiness_s=round(median(readiness_s), 2) if readiness_s else None,
        memory_gib=round(max(memory_gib), 2) if memory_gib else None,
        rows_per_item=(min(rows), max(rows)),
        accelerators=variant.requested.accelerators,
    )


def rounded(point: ProfilePoint) -> ProfilePoint:
    """The point rounded to the digits that a repetition would confirm: 0.1 ms, 0.01 rps."""
    assert point.latency_mean_s is not None and point.throughput_rps is not None
    return replace(
        point,
        latency_s=round(point.latency_s, 4),
        latency_mean_s=round(point.latency_mean_s, 4),
        throughput_rps=round(point.throughput_rps, 2),
    )


def bench_workload(pipelines_dir: Path, pipeline: str, stage: str, seed: int) -> measure.MeasuredWorkload:
    """The workload of the pipeline's bench.py; NotFoundError if there is none."""
    home = pipelines_dir.resolve()
    if not (home / pipeline / "bench.py").is_file():
        raise NotFoundError(
            f"pipeline {pipeline!r} cannot be measured here: {pipelines_dir / pipeline} has no bench.py",
            hint="Write its `workload(stage, seed)` as `ipa init` does.",
        )
    if str(home.parent) not in sys.path:
        sys.path.insert(0, str(home.parent))
    workload: measure.MeasuredWorkload = import_module(f"{home.name}.{pipeline}.bench").workload(stage, seed)
    return workload
