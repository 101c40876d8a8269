"""Measures the profile of a stage on a bench."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import fmean, median

from ipa.model.errors import NotFoundError
from ipa.model.pipeline import Pipeline, Stage, Variant
from ipa.model.plan import Plan, cores_of
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.model.serving import FAN_OUT
from ipa.optimize.solve import solve
from ipa.policies.planning import PlanQuestion
from ipa.profiling import measure
from ipa.profiling.next_points import Grid, first_points, likely_profile, next_points

# Digits of an accuracy in a profile: a workload of sixty pages supports no more.
ACCURACY_DIGITS = 4

# Rates to plan for between the lowest and the highest, in equal ratios.
RATES = 40

Tell = Callable[[str], None]
# Receives what was measured, and of how many points.
Step = Callable[[str, int], None]


def measure_stage(
    bench: measure.MeasurementBench,
    pipeline: Pipeline,
    stage: Stage,
    workload: measure.MeasuredWorkload,
    grid: Grid,
    effort: measure.MeasurementEffort,
    step: Step,
    say: Tell,
    known: StageProfile | None = None,
) -> StageProfile:
    """The profile at the points of the grid, with the `known` points, measured on the same machine before.

    No batch size is tried that would take longer than the SLA. `step` receives each finished variant and
    cores, `say` the results. Errors: UnavailableError (a model server does not become ready, or fails).
    """
    variants = {each.variant: each for each in known.variants} if known else {}
    points = partial(measure.measure_points, limit_s=pipeline.sla.latency_s, effort=effort)
    for name, sizes in grid.items():
        variants[name] = _variant_profile(
            bench, stage, stage.variant(name), workload, points, sizes, step, say, variants.get(name)
        )
    return StageProfile(
        pipeline=pipeline.name,
        stage=stage.name,
        variants=tuple(variants[each.name] for each in stage.variants if each.name in variants),
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
    measured: Callable[..., tuple[tuple[ProfilePoint, bool], ...]],
    sizes: Mapping[float, Sequence[int]],
    step: Step,
    say: Tell,
    known: VariantProfile | None,
) -> VariantProfile:
    items = workload.items
    points: list[tuple[ProfilePoint, bool]] = []
    readiness_s: list[float] = []
    memory_gib: list[float] = []
    accuracy = 0.0
    rows: tuple[int, ...] = (1,)
    most = max(sizes)
    for cores in sorted(sizes):
        with bench.serve(stage.name, variant.name, cores) as replica:
            points += measured(replica, items, cores=cores, batch_sizes=sizes[cores])
            readiness_s += [] if replica.readiness_s is None else [replica.readiness_s]
            held_gib = replica.memory_gib()
            memory_gib += [] if held_gib is None else [held_gib]
            if cores == most and known is None:
                outputs = measure.answers(replica, items, max(sizes[cores]))
                accuracy, rows = workload.accuracy(outputs), measure.rows(outputs, FAN_OUT)
        step(f"{stage.name}/{variant.name} on {cores_of(cores)}", len(sizes[cores]))
    once = f": accuracy {accuracy:.3f}, rows an item {fmean(rows):.2f}" if known is None else ""
    say(f"{stage.name}/{variant.name}{once}")
    for point, is_steady in points:
        scatter = "" if is_steady else "   the p99 scatters: measure longer, or on an idle machine"
        say(
            f"  {cores_of(point.cores)}, batch {point.batch_size}: p99 {point.latency_s * 1e3:.0f} ms, "
            f"{point.throughput_rps:.1f} rps{scatter}"
        )
    found = tuple(rounded(point) for point, _ in points)
    if known is not None:
        places = {(each.cores, each.batch_size): each for each in (*known.points, *found)}
        return replace(known, points=tuple(places[place] for place in sorted(places)))
    return VariantProfile(
        variant=variant.name,
        accuracy=round(accuracy, ACCURACY_DIGITS),
        points=found,
        readiness_s=round(median(readiness_s), 2) if readiness_s else None,
        memory_gib=round(max(memory_gib), 2) if memory_gib else None,
        rows_per_item=(min(rows), max(rows)),
        accelerators=variant.requested.accelerators,
    )


def measure_next(
    grids: Mapping[str, Grid],
    known: Mapping[str, StageProfile],
    plans: Callable[[Mapping[str, StageProfile]], Sequence[Plan]],
    measured: Callable[[str, Grid, StageProfile | None], StageProfile],
) -> dict[str, StageProfile]:
    """The profiles by stage with the fewest points of the grids that the plans rest on.

    `plans` gives those of the rates for some profiles, `measured` the profile of a stage with more points.
    What is not measured is taken to be quick, and measured once a plan uses it, until none does.
    """
    profiles = {name: known[name] for name in grids if name in known}
    wanted = {name: first_points(grid, profiles.get(name)) for name, grid in grids.items()}
    while any(wanted.values()):
        for name, points in wanted.items():
            if points:
                profiles[name] = measured(name, points, profiles.get(name))
        best = plans({name: likely_profile(profiles[name], grid) for name, grid in grids.items()})
        stages = [stage for plan in best for stage in plan.stages]
        wanted = {
            name: next_points(profiles[name], grid, [it for it in stages if it.stage == name])
            for name, grid in grids.items()
        }
    return profiles


def plans_over(
    pipeline: Pipeline,
    rates_rps: tuple[float, float],
    solver: str,
    deadline_s: float,
    profiles: Mapping[str, StageProfile],
) -> list[Plan]:
    """The best plans at RATES rates between two, by the pipeline's default objective."""
    low_rps, high_rps = rates_rps
    rates = {low_rps * (high_rps / low_rps) ** (step / (RATES - 1)) for step in range(RATES)}
    problems = [PlanQuestion(pipeline, profiles, rate_rps).problem() for rate_rps in sorted(rates)]
    return [solve(each, solver, deadline_s, explain=False) for each in problems]


def worth_of_measuring(question: PlanQuestion, best: Plan, solver: str, deadline_s: float) -> Iterator[str]:
    """The probable gain over the best plan of measuring each assumed variant, in words."""
    for name, profile in question.profiles.items():
        for variant in profile.variants:
            if variant.assumed_ratio is None:
                continue
            likely = variant.slowed(1 / variant.assumed_ratio)
            variants = tuple(likely if each is variant else each for each in profile.variants)
            profiles = {**question.profiles, name: replace(profile, variants=variants)}
            problem = replace(question, profiles=profiles).problem()
            plan = solve(problem, solver, deadline_s, explain=False)
            if plan.cost_cores is None:
                continue
            if best.cost_cores is None:
                yield f"measuring {name}/{variant.variant} would probably give a plan"
            elif plan.cost_cores < best.cost_cores:
                saved = cores_of(best.cost_cores - plan.cost_cores)
                yield f"measuring {name}/{variant.variant} would probably save {saved}"


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
