"""A pipeline's variants on Seldon, and its batches.

A variant is image, env, model URI and implementation. A field of a container or graph node is managed by ipa
if any variant of the stage sets it. Other fields belong to other people and are neither compared nor written.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from ipa.adapters.kube.kinds import cpu_quantity, format_quantity
from ipa.model.errors import InputError, Problem
from ipa.model.measured import with_profiles
from ipa.model.parts import NO_OVERHEAD, Overhead
from ipa.model.pipeline import OutputRows, Pipeline, Stage, StageKind
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.model.resources import DIMENSIONS, beside_of, dimension
from ipa.model.serving import Unbatched, batch_fault
from ipa.targets.seldon.section import SeldonRun, Shape, is_microservice, seldon_of

BATCH_SIZE = "MLSERVER_MODEL_MAX_BATCH_SIZE"
BATCH_TIME = "MLSERVER_MODEL_MAX_BATCH_TIME"
# Which Python class MLServer runs in a container of ours.
IMPLEMENTATION = "MLSERVER_MODEL_IMPLEMENTATION"
# What the operator itself gives to every MLServer container; a variant that set them would be overwritten.
OPERATORS_ENV = frozenset(
    {"MLSERVER_HTTP_PORT", "MLSERVER_GRPC_PORT", "MLSERVER_MODEL_NAME", "MLSERVER_METRICS_PORT"}
)

# The part of a stage's place (`locate.StageLocation`) that has a field, and the field's name there. One of
# RESOURCES is a request and a limit, which are equal. A field without a value (None) is not there.
Field = tuple[str, str]
Fields = Mapping[Field, object]
COMPONENT, CONTAINER, NODE, ENV, RESOURCES = "component", "container", "node", "env", "resources"

RESIDENT = "resident"

WHERE = "in one SeldonDeployment"
BATCH_REMEDY = "`seldon: {shape: split}`, whose queue counts each request's rows"
# Of a stage whose server forms no batches.
NO_BATCHES = "its server is a microservice, which answers each request by itself"
WITH_MLSERVER = "serve it with MLServer (`protocol: v2`, and no `server: microservice`)"
# Measured on two cores (`make scorecard`): orchestrator; router and queue.
HOPS_S: Mapping[Shape, float] = MappingProxyType({Shape.SINGLE: 0.003, Shape.SPLIT: 0.005})
# Of a core, measured there too: MLServer parses each request of a batch that it forms.
REQUEST_S = 0.001
NO_PROFILES: Mapping[str, StageProfile] = MappingProxyType({})


def fields_of(pipeline: Pipeline, stage: Stage, config: StageConfig) -> dict[str, Fields]:
    """The fields of the stage's container and node that ipa manages, by the part of the configuration.

    Rendering writes them, reading compares them, and a change of that part replaces them.
    """
    batches: dict[Field, object] = {}
    if not is_microservice(pipeline, stage.variant(config.variant)):
        # In seconds, in the format of MLServer's env.
        batches = {
            (ENV, BATCH_SIZE): str(config.batch_size),
            (ENV, BATCH_TIME): f"{stage.batch_timeout_s:g}",
        }
    amounts = requested(pipeline, stage, config.variant)
    beside = sorted(amounts.keys() | accelerator_kinds(pipeline, stage))
    return {
        "replicas": {(COMPONENT, "replicas"): config.replicas},
        "cores": {(RESOURCES, "cpu"): cpu_quantity(config.cores)},
        "batch_size": batches,
        "variant": {
            **{(RESOURCES, resource): amounts.get(resource) for resource in beside},
            **variant_fields(stage, config.variant),
        },
    }


def variant_fields(stage: Stage, variant: str) -> dict[Field, str | None]:
    """The fields that distinguish the variant from others."""
    run, runs = seldon_run(stage, variant), _runs(stage).values()
    fields: dict[Field, str | None] = {}
    if any(other.image is not None for other in runs):
        fields[CONTAINER, "image"] = run.image
    if any(server_of(other) is not None for other in runs):
        fields[NODE, "implementation"] = server_of(run)
    if any(other.model_uri is not None for other in runs):
        fields[NODE, "modelUri"] = run.model_uri
    env = env_of(run)
    return fields | {(ENV, name): env.get(name) for name in sorted(env_names(runs))}


def requested(pipeline: Pipeline, stage: Stage, variant: str) -> dict[str, str]:
    """The quantities that a container of the variant requests beside its cores, by Kubernetes' names.

    Accelerators are the section's or the profile's, whichever are more; other resources are those of the
    section alone, since a measured amount must not become a limit at which a container is killed.
    """
    own = beside_of(seldon_run(stage, variant)).amounts
    measured = pipeline.bounds.measured.get((stage.name, variant))
    for kind, count in (measured.beside.accelerators if measured else {}).items():
        own[kind] = max(count, own.get(kind, 0.0))
    return {dimension(name).resource: format_quantity(name, amount) for name, amount in own.items()}


def accelerator_kinds(pipeline: Pipeline, stage: Stage) -> set[str]:
    """The kinds of accelerators that any variant of the stage requests."""
    names = {name for variant in _runs(stage) for name in requested(pipeline, stage, variant)}
    return names - {each.resource for each in DIMENSIONS}


def seldon_run(stage: Stage, variant: str) -> SeldonRun:
    """The variant's `seldon:` section. InputError if it has none."""
    run = seldon_of(stage.variant(variant))
    if run is None:
        raise InputError(
            f"variant {variant!r} of stage {stage.name!r} has no `seldon:` section",
            hint="Add one with image, model_uri or implementation.",
        )
    return run


def _runs(stage: Stage) -> dict[str, SeldonRun]:
    """The `seldon:` sections of the stage's variants, by variant."""
    return {variant.name: run for variant in stage.variants if (run := seldon_of(variant)) is not None}


def server_of(run: SeldonRun) -> str | None:
    """The prepackaged server (MLFLOW_SERVER) of the graph node; a class in an image has a dot instead."""
    return None if run.implementation is None or "." in run.implementation else run.implementation


def env_of(run: SeldonRun) -> dict[str, str]:
    """The env variables of the variant's container that distinguish it from others."""
    own = {} if run.implementation is None or server_of(run) else {IMPLEMENTATION: run.implementation}
    return {**own, **run.env}


def env_names(runs: Iterable[SeldonRun]) -> set[str]:
    """The names of the env variables that distinguish these variants."""
    return {name for run in runs for name in env_of(run)}


def owned_env(stage: Stage) -> frozenset[str]:
    """The env variables of the stage that ipa manages: the variants' own, and those of batching."""
    return frozenset({BATCH_SIZE, BATCH_TIME, *env_names(_runs(stage).values())})


def check_variants(pipeline: Pipeline) -> None:
    """InputError lists variants that are indistinguishable on Seldon, or that set reserved env."""
    problems = []
    for stage in pipeline.stages:
        known: dict[tuple[tuple[Field, str | None], ...], str] = {}
        for name, run in _runs(stage).items():
            problems += [
                f"stage {stage.name!r}, variant {name!r}: the service sets env {key}"
                for key in sorted(run.env)
                if key in OPERATORS_ENV or key in (BATCH_SIZE, BATCH_TIME)
            ]
            fields = tuple(variant_fields(stage, name).items())
            if fields in known:
                problems.append(
                    f"stage {stage.name!r}: variants {known[fields]!r} and {name!r} have the same image, "
                    "env and model URI; give one of them a different env, so that they can be distinguished"
                )
            known[fields] = name
    if problems:
        raise InputError(
            f"pipeline {pipeline.name!r} cannot run on Seldon as written",
            problems=[Problem(problem) for problem in problems],
        )


def at_cluster(pipeline: Pipeline, profiles: Mapping[str, StageProfile] = NO_PROFILES) -> Pipeline:
    """Return the pipeline as it runs on Seldon.

    The cores of containers other than its replicas count within its bounds. In one SeldonDeployment each
    replica batches by itself, and stages that MLServer would answer wrongly in batches (`unbatched_stages`)
    have batch size 1 only. An ignored `resident` has no effect.
    """
    why, section = unbatched_stages(pipeline, profiles), seldon_of(pipeline)
    is_single, hop_s, overhead = False, 0.0, NO_OVERHEAD
    if section is not None:
        is_single = section.shape is Shape.SINGLE
        hop_s = HOPS_S[section.shape] if section.hop_s is None else section.hop_s
        cores = section.orchestrator_cores
        if not is_single:
            overhead = Overhead(cores + section.queue_cores * len(pipeline.served))
        elif section.separate_orchestrator:
            overhead = Overhead(cores)
        else:
            # The operator adds it to the pods of the first componentSpec.
            overhead = Overhead(0.0, ((pipeline.served[0].name, cores),))
        if RESIDENT in section.ignores:
            alone = tuple(replace(stage, resident=1) for stage in pipeline.stages)
            pipeline = replace(pipeline, stages=alone)
    stages = tuple(
        # Replace a reason that another shape may have set before.
        replace(
            stage,
            unbatched=why.get(stage.name, ""),
            in_replica=is_single,
            hop_s=hop_s,
            request_s=REQUEST_S if is_single else 0.0,
        )
        for stage in pipeline.stages
    )
    bounds = replace(pipeline.bounds, overhead=overhead)
    return with_profiles(replace(pipeline, bounds=bounds, stages=stages), profiles)


def unbatched_stages(
    pipeline: Pipeline, profiles: Mapping[str, StageProfile] = NO_PROFILES
) -> Mapping[str, str]:
    """The stages that must not batch in one SeldonDeployment (shape single), each with the reason.

    MLServer splits a batch's answer among requests by the rows of each request, counted on its last input. A
    stage with another number of output rows thus gives one request the rows of another, and so does the stage
    after it: the orchestrator passes `fan_out`, one row an item, on as an input. The queue of shape split
    counts by `fan_out` itself. A microservice forms no batches.
    """
    target = seldon_of(pipeline)
    if target is None or target.shape is Shape.SPLIT:
        return {}
    reasons: dict[str, str] = {}
    # A router without variants, or one that only routes, passes its input on.
    varying: dict[str, str] = {}
    for stage in pipeline.stages:
        senders = [varying[edge.parent] for edge in stage.after if edge.parent in varying]
        own = _varying_rows(pipeline, stage, profiles)
        if own:
            varying[stage.name] = stage.name
        elif senders and stage.kind is StageKind.ROUTER:
            varying[stage.name] = senders[0]
        why = stage.unbatched or own
        if senders and not why:
            why = f"it is given the fan_out of stage {senders[0]!r} as an input"
        if why and stage.variants:
            reasons[stage.name] = Unbatched(why, WHERE, BATCH_REMEDY)
        if any(is_microservice(pipeline, variant) for variant in stage.variants):
            reasons[stage.name] = Unbatched(NO_BATCHES, remedy=WITH_MLSERVER, is_void=True)
    return reasons


def batch_faults(pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[str]:
    """Messages for the configurations whose batches would mix up requests if the pipeline runs on Seldon."""
    why = unbatched_stages(pipeline)
    return [
        batch_fault(config.stage, config.batch_size, why[config.stage])
        for config in configs
        if config.stage in why and config.batch_size > 1
    ]


def _varying_rows(pipeline: Pipeline, stage: Stage, profiles: Mapping[str, StageProfile]) -> str:
    """The reason why the stage's output rows may differ from its input rows; empty if they cannot."""
    profile = profiles.get(stage.name)
    for variant in profile.variants if profile else ():
        if variant.has_varying_rows and variant.rows_per_item is not None:
            least, most = variant.rows_per_item
            return f"its profile has {least} to {most} rows for an item of variant {variant.variant!r}"
    if stage.output_rows is not None:
        return "its output_rows are varying" if stage.output_rows is OutputRows.VARYING else ""
    for edge in [edge for each in pipeline.stages for edge in each.after if edge.parent == stage.name]:
        values = sorted(set(edge.fan_outs))
        if values != [1.0]:
            return f"its fan_out is {' to '.join(f'{value:g}' for value in (values[0], *values[1:][-1:]))}"
    return ""
