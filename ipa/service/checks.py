"""Checks of configurations and pins against the stages, variants and bounds of a pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from ipa.control.engine.guards import accuracy_faults
from ipa.files.document import unknown
from ipa.model.errors import InputError, NotFoundError, Problem
from ipa.model.parts import in_order, parts_of, share_faults
from ipa.model.pipeline import Pin, Pipeline, StageBounds
from ipa.model.plan import WHOLE_PERCENT, StageConfig
from ipa.model.resources import CORES, Resources
from ipa.model.serving import batch_fault


def pin_problems(pipeline: Pipeline, name: str, pin: Pin) -> list[Problem]:
    """Return every fault of a pin of the stage. NotFoundError names the nearest stage."""
    stages = {stage.name: stage for stage in pipeline.served}
    if name not in stages:
        raise NotFoundError(
            f"pipeline {pipeline.name!r} has no stage {name!r} to pin", hint=unknown(name, stages)
        )
    stage, problems = stages[name], []
    limits, given = stage.limits(pipeline.bounds), asdict(pin)
    if not any(value is not None for value in given.values()):
        problems.append(Problem(f"nothing is pinned; give one of {', '.join(given)}"))
    variants = [variant.name for variant in stage.variants]
    if pin.variant is not None and pin.variant not in variants:
        message = f"stage {name!r} has no variant {pin.variant!r}; {unknown(pin.variant, variants)}"
        problems.append(Problem(message, pointer="/variant"))
    sizes, least, most = limits.batch_sizes, limits.min_replicas or 1, limits.max_replicas
    if pin.batch_size is not None and pin.batch_size > 1 and stage.unbatched:
        message = batch_fault(name, pin.batch_size, stage.unbatched)
        problems.append(Problem(message, pointer="/batch_size"))
    elif pin.batch_size is not None and sizes is not None and pin.batch_size not in sizes:
        message = f"batch size {pin.batch_size} is not one of {list(sizes)}"
        problems.append(Problem(message, pointer="/batch_size"))
    if pin.replicas is not None and stage.is_external:
        message = f"the replicas of stage {name!r} are external: the controller that scales it decides them"
        problems.append(Problem(message, pointer="/replicas"))
    elif pin.replicas is not None and (pin.replicas < least or (most is not None and pin.replicas > most)):
        message = f"{pin.replicas} replicas are outside {least} to {most or 'any'}"
        problems.append(Problem(message, pointer="/replicas"))
    problems += _pin_over_bounds(pipeline, name, pin, least)
    for key, fixed in asdict(stage.pin).items():
        if fixed is not None and given[key] not in (None, fixed):
            message = f"the pipeline's file pins {key} {fixed}; change it there"
            problems.append(Problem(message, pointer=f"/{key}"))
    return problems


def _pin_over_bounds(pipeline: Pipeline, name: str, pin: Pin, least: int) -> list[Problem]:
    """The resources of which the pinned replicas alone have more than the bounds."""
    replicas = pin.replicas or least
    alone = Resources(cpu_cores=(pin.cores or 0.0) * replicas)
    measured = pipeline.bounds.measured.get((name, pin.variant or ""))
    if measured is not None:
        alone += measured.beside * replicas
    limits = pipeline.bounds.limits
    return [
        Problem(fault, pointer="/cores" if name == CORES else "/variant")
        for name in limits
        for fault in alone.exceeded({name: limits[name]})
    ]


def checked_configs(pipeline: Pipeline, configs: Sequence[StageConfig]) -> tuple[StageConfig, ...]:
    """Return the configurations in the order of the pipeline; InputError lists all their faults."""
    problems = [*_misnamed(pipeline, configs), *_beyond(pipeline, configs)]
    if problems:
        raise InputError(
            f"pipeline {pipeline.name!r} cannot run this configuration",
            hint=f"GET /v1/pipelines/{pipeline.name} shows its stages, variants and bounds.",
            problems=problems,
        )
    order = {stage.name: index for index, stage in enumerate(pipeline.served)}
    return in_order([sorted(part, key=lambda it: order[it.stage]) for part in _parts(configs)])


def _parts(configs: Sequence[StageConfig]) -> Sequence[Sequence[StageConfig]]:
    """The parts that share the requests; a single one if no share is given."""
    return parts_of(configs) if any(it.share_percent != WHOLE_PERCENT for it in configs) else [configs]


def _misnamed(pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[Problem]:
    """Unknown stages and variants, and faults in the shares of several parts."""
    problems: list[Problem] = []
    first = 0
    for part in _parts(configs):
        problems += _misnamed_part(pipeline, part, first)
        first += len(part)
    if problems:
        return problems
    return [Problem(fault, pointer="/configs") for fault in share_faults(configs)]


def _misnamed_part(pipeline: Pipeline, configs: Sequence[StageConfig], first: int) -> list[Problem]:
    stages = {stage.name: stage for stage in pipeline.served}
    problems, seen = [], set()
    for index, config in enumerate(configs, first):
        stage = stages.get(config.stage)
        where = f"/configs/{index}"
        if stage is None:
            message = f"no stage {config.stage!r}; {unknown(config.stage, stages)}"
            problems.append(Problem(message, pointer=f"{where}/stage"))
            continue
        if config.stage in seen:
            problems.append(Problem(f"stage {config.stage!r} is given twice", pointer=f"{where}/stage"))
        seen.add(config.stage)
        variants = [variant.name for variant in stage.variants]
        if config.variant not in variants:
            hint = unknown(config.variant, variants)
            message = f"stage {config.stage!r} has no variant {config.variant!r}; {hint}"
            problems.append(Problem(message, pointer=f"{where}/variant"))
    problems += [
        Problem(f"stage {name!r} is missing", pointer="/configs") for name in stages if name not in seen
    ]
    return problems


def _beyond(pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[Problem]:
    bounds, problems = pipeline.bounds, []
    limits_of = {stage.name: stage.limits(bounds) for stage in pipeline.served}
    unbatched = {stage.name: stage.unbatched for stage in pipeline.served if stage.unbatched}
    for index, config in enumerate(configs):
        where = f"/configs/{index}"
        limits = limits_of.get(config.stage, StageBounds())
        least, most, sizes = limits.min_replicas or 1, limits.max_replicas, limits.batch_sizes
        is_outside = config.replicas < least or (most is not None and config.replicas > most)
        if is_outside and config.stage not in pipeline.external:
            message = f"{config.replicas} replicas are outside {least} to {most or 'any'}"
            problems.append(Problem(message, pointer=f"{where}/replicas"))
        if config.batch_size > 1 and config.stage in unbatched:
            message = batch_fault(config.stage, config.batch_size, unbatched[config.stage])
            problems.append(Problem(message, pointer=f"{where}/batch_size"))
        elif sizes is not None and config.batch_size not in sizes:
            message = f"batch size {config.batch_size} is not one of {list(sizes)}"
            problems.append(Problem(message, pointer=f"{where}/batch_size"))
    faults = [*bounds.exceeded(configs), *accuracy_faults(pipeline, _parts(configs))]
    return [*problems, *(Problem(fault, pointer="/configs") for fault in faults)]
