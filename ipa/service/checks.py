"""Checks of configurations and pins against the stages, variants and bounds of a pipeline."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from ipa.control.engine.guards import accuracy_faults
from ipa.files.document import unknown
from ipa.model.errors import InputError, NotFoundError, Problem
from ipa.model.parts import in_order, parts_of, share_faults
from ipa.model.pipeline import Pin, Pipeline, Stage
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
    given = asdict(pin)
    if not any(value is not None for value in given.values()):
        problems.append(Problem(f"nothing is pinned; give one of {', '.join(given)}"))
    variants = [variant.name for variant in stage.variants]
    if pin.variant is not None and pin.variant not in variants:
        message = f"stage {name!r} has no variant {pin.variant!r}; {unknown(pin.variant, variants)}"
        problems.append(Problem(message, pointer="/variant"))
    problems += _limit_faults(pipeline, stage, pin.batch_size, pin.replicas, "")
    problems += _pin_over_bounds(pipeline, stage, pin)
    for key, fixed in asdict(stage.pin).items():
        if fixed is not None and given[key] not in (None, fixed):
            message = f"the pipeline's file pins {key} {fixed}; change it there"
            problems.append(Problem(message, pointer=f"/{key}"))
    return problems


def _limit_faults(
    pipeline: Pipeline, stage: Stage, batch_size: int | None, replicas: int | None, where: str
) -> Iterator[Problem]:
    """The faults of a batch size and a number of replicas against the stage's limits."""
    limits = stage.limits(pipeline.bounds)
    least, most, sizes = limits.min_replicas or 1, limits.max_replicas, limits.batch_sizes
    if replicas is not None and (replicas < least or (most is not None and replicas > most)):
        message = f"{replicas} replicas are outside {least} to {most or 'any'}"
        yield Problem(message, pointer=f"{where}/replicas")
    if batch_size is not None and batch_size > 1 and stage.unbatched:
        message = batch_fault(stage.name, batch_size, stage.unbatched)
        yield Problem(message, pointer=f"{where}/batch_size")
    elif batch_size is not None and sizes is not None and batch_size not in sizes:
        message = f"batch size {batch_size} is not one of {list(sizes)}"
        yield Problem(message, pointer=f"{where}/batch_size")


def _pin_over_bounds(pipeline: Pipeline, stage: Stage, pin: Pin) -> list[Problem]:
    """The resources that the pinned replicas alone use beyond the bounds."""
    replicas = pin.replicas or stage.limits(pipeline.bounds).min_replicas or 1
    alone = Resources(cpu_cores=(pin.cores or 0.0) * replicas)
    measured = pipeline.bounds.measured.get((stage.name, pin.variant or ""))
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
    """The parts that share the requests; a single one if no shares are given."""
    return parts_of(configs) if any(it.share_percent != WHOLE_PERCENT for it in configs) else [configs]


def _misnamed(pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[Problem]:
    """Unknown stages and variants, and faults in the shares of several parts."""
    stages = {stage.name: stage for stage in pipeline.served}
    problems: list[Problem] = []
    first = 0
    for part in _parts(configs):
        missing = dict(stages)
        for index, config in enumerate(part, first):
            stage = stages.get(config.stage)
            where = f"/configs/{index}"
            if stage is None:
                message = f"no stage {config.stage!r}; {unknown(config.stage, stages)}"
                problems.append(Problem(message, pointer=f"{where}/stage"))
                continue
            if missing.pop(config.stage, None) is None:
                problems.append(Problem(f"stage {config.stage!r} is given twice", pointer=f"{where}/stage"))
            variants = [variant.name for variant in stage.variants]
            if config.variant not in variants:
                hint = unknown(config.variant, variants)
                message = f"stage {config.stage!r} has no variant {config.variant!r}; {hint}"
                problems.append(Problem(message, pointer=f"{where}/variant"))
        problems += [Problem(f"stage {name!r} is missing", pointer="/configs") for name in missing]
        first += len(part)
    return problems or [Problem(fault, pointer="/configs") for fault in share_faults(configs)]


def _beyond(pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[Problem]:
    """The faults of the configurations against the bounds of their stages and of the pipeline."""
    stages, problems = {stage.name: stage for stage in pipeline.served}, list[Problem]()
    for index, config in enumerate(configs):
        if config.stage in stages:
            stage, where = stages[config.stage], f"/configs/{index}"
            problems += _limit_faults(pipeline, stage, config.batch_size, config.replicas, where)
    faults = [*pipeline.bounds.exceeded(configs), *accuracy_faults(pipeline, _parts(configs))]
    return [*problems, *(Problem(fault, pointer="/configs") for fault in faults)]
