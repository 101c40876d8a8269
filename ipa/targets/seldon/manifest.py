"""A pipeline as a SeldonDeployment, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from ipa.adapters.kube.quantity import MILLICORES, cpu_quantity, parse_quantity
from ipa.model.errors import InputError, Problem
from ipa.model.pipeline import Pipeline, Stage
from ipa.model.plan import StageConfig
from ipa.targets.seldon import variants
from ipa.targets.seldon.graph import SPLIT, Nested, nest, split_ratio
from ipa.targets.seldon.locate import (
    LABEL_PIPELINE,
    SEPARATE_ENGINE,
    StageLocation,
    container_name,
    drift,
    locate,
    node_type,
    object_of,
    target_of,
)
from ipa.targets.seldon.section import SeldonTarget, WireProtocol, is_microservice
from ipa.targets.seldon.shape import batch_faults

# Without a number of its own the operator writes the orchestrator's Deployment for ever.
ONE_ORCHESTRATOR: Mapping[str, Any] = {"replicas": 1}
# What restricted PodSecurity asks of every container.
RESTRICTED: Mapping[str, Any] = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def smallest_configs(pipeline: Pipeline) -> tuple[StageConfig, ...]:
    """The configuration if nothing is planned: each stage's first variant on one core, unbatched."""
    configs = []
    for stage in pipeline.served:
        # The least that bounds and pin allow.
        pin, limits = stage.pin, stage.limits(pipeline.bounds)
        variant, batch_size = pin.variant or stage.variants[0].name, min(limits.batch_sizes or (1,))
        replicas = pin.replicas or limits.min_replicas or 1
        made = StageConfig(stage.name, variant, pin.batch_size or batch_size, pin.cores or 1.0, replicas)
        configs.append(made)
    return tuple(configs)


def check_configs(
    pipeline: Pipeline, configs: Sequence[StageConfig], running: Sequence[StageConfig] = ()
) -> None:
    """InputError lists what in the configs must not be written.

    That is stages, variants, numbers below one, and batches that give requests the rows of others. A stage
    that is `running` with that variant and batch size already is let pass: a first step may be elsewhere.
    """
    problems = []
    if [config.stage for config in configs] != [stage.name for stage in pipeline.served]:
        problems.append("there must be one configuration for every stage, in the order of the stages")
    for config in configs:
        if config.replicas < 1:
            # Seldon leaves a stage without replicas in state Creating for ever.
            problems.append(f"stage {config.stage!r}: replicas {config.replicas} must be 1 or more")
        if config.batch_size < 1:
            problems.append(f"stage {config.stage!r}: batch size {config.batch_size} must be 1 or more")
        if round(config.cores * MILLICORES) < 1:
            problems.append(f"stage {config.stage!r}: cores {config.cores} must be 0.001 or more")
    asked = {(config.stage, config.variant, config.batch_size) for config in running}
    new = [it for it in configs if (it.stage, it.variant, it.batch_size) not in asked]
    problems += batch_faults(pipeline, new)
    if problems:
        raise InputError(
            f"these configurations do not fit pipeline {pipeline.name!r}",
            problems=[Problem(problem) for problem in problems],
        )


def batch_time(stage: Stage) -> str:
    """Time that MLServer waits for a batch to fill, in seconds, in the format of its env."""
    return f"{stage.batch_timeout_s:g}"


def render(pipeline: Pipeline, configs: Sequence[StageConfig]) -> dict[str, Any]:
    """The SeldonDeployment that runs the pipeline so: one predictor, one componentSpec for every stage.

    InputError where the pipeline has no `seldon:` section, its graph cannot be nested as Seldon
    does, or the configs do not fit it.
    """
    target = target_of(pipeline)
    variants.check_variants(pipeline)
    check_configs(pipeline, configs)
    predictor: dict[str, Any] = {
        "name": target.predictor,
        "svcOrchSpec": dict(ONE_ORCHESTRATOR),
        "componentSpecs": [
            _component(pipeline, stage, config)
            for stage, config in zip(pipeline.served, configs, strict=True)
        ],
        "graph": _node(nest(pipeline), {config.stage: config for config in configs}),
    }
    # The cores that are counted for it if these are not the operator's default.
    if target.orchestrator_cores not in (0, SeldonTarget(target.name).orchestrator_cores):
        amounts = {"cpu": cpu_quantity(target.orchestrator_cores)}
        predictor["svcOrchSpec"]["resources"] = {"requests": amounts}
    spec = {
        "protocol": target.protocol.value,
        # Without it the orchestrator sits in the pods of the first stage: its cores multiply with them.
        "annotations": {SEPARATE_ENGINE: "true"} if target.separate_orchestrator else {},
        "predictors": [predictor],
    }
    return object_of(target, spec, {LABEL_PIPELINE: pipeline.name})


def _node(nested: Nested, configs: Mapping[str, StageConfig]) -> dict[str, Any]:
    stage = nested.stage
    node: dict[str, Any] = {"name": container_name(stage)}
    if stage.variants:
        node |= {"type": node_type(stage), **_variant_fields(stage, configs[stage.name], "node")}
    else:
        node |= {"implementation": SPLIT, "parameters": [split_ratio(nested)]}
    if nested.children:
        node["children"] = [_node(child, configs) for child in nested.children]
    return node


def _variant_fields(stage: Stage, config: StageConfig, kind: str) -> dict[str, str]:
    found = variants.leaves(stage, config.variant)
    return {leaf.name: leaf.value for leaf in found if leaf.kind == kind and leaf.value is not None}


def _component(pipeline: Pipeline, stage: Stage, config: StageConfig) -> dict[str, Any]:
    env = _variant_fields(stage, config, "env")
    if not is_microservice(pipeline, stage.variant(config.variant)):
        env |= {variants.BATCH_SIZE: str(config.batch_size), variants.BATCH_TIME: batch_time(stage)}
    amounts = {"cpu": cpu_quantity(config.cores), **variants.requested(pipeline, stage, config.variant)}
    container = {
        "name": container_name(stage),
        **_variant_fields(stage, config, "container"),
        "env": [{"name": name, "value": value} for name, value in env.items()],
        # Equal, so that latency is as measured: no cores borrowed from neighbours, none lent.
        "resources": {"requests": dict(amounts), "limits": dict(amounts)},
        "securityContext": deepcopy(dict(RESTRICTED)) | {"runAsNonRoot": not target_of(pipeline).run_as_root},
    }
    return {"replicas": config.replicas, "spec": {"containers": [container]}}


def read(pipeline: Pipeline, sdep: variants.Json) -> tuple[StageConfig, ...]:
    """The configuration of every stage that the SeldonDeployment asks for.

    DriftError lists everything in it that no configuration of the pipeline would have.
    """
    configs: list[StageConfig] = []
    problems: list[str] = []
    protocol, own = protocol_of(sdep), target_of(pipeline).protocol
    if protocol not in (None, own):
        remedy = f"say `seldon: {{protocol: {protocol}}}` in the pipeline's file"
        problems.append(f"its protocol is {protocol}, not {own}; {remedy}")
    for place in locate(pipeline, sdep):
        variant, difference = variants.recognise(place.stage, place.container, place.node)
        batch, cores = _batch_size(pipeline, place, variant), _cores(place)
        if variant is None:
            problems.append(f"{place.title} runs none of its variants; {difference}")
        problems += [f"{place.title}: {fault}" for fault in (batch, cores) if isinstance(fault, str)]
        if variant is not None:
            problems += _accelerator_faults(pipeline, place, variant)
            if isinstance(batch, int) and isinstance(cores, float):
                configs.append(StageConfig(place.stage.name, variant, batch, cores, place.replicas))
    if problems:
        raise drift(pipeline, problems)
    return tuple(configs)


def protocol_of(sdep: variants.Json) -> WireProtocol | None:
    """The protocol of the SeldonDeployment; None for one that no pipeline has, such as TensorFlow's."""
    # The operator's default, and the older name of V2.
    named = {"": "seldon", "kfserving": "v2"}
    text = str((sdep.get("spec") or {}).get("protocol") or "")
    known = {each.value: each for each in WireProtocol}
    return known.get(named.get(text, text))


def _batch_size(pipeline: Pipeline, place: StageLocation, variant: str | None) -> int | str:
    if variant is not None and is_microservice(pipeline, place.stage.variant(variant)):
        return 1
    entry = variants.env_entry(place.container, variants.BATCH_SIZE)
    if entry is None:
        return 1
    text = str(entry.get("value", ""))
    if not text.isdecimal():
        return f"env {variants.BATCH_SIZE} is {text!r}, not a whole number"
    # 0 is MLServer's own word for no batching.
    return max(1, int(text))


def _accelerator_faults(pipeline: Pipeline, place: StageLocation, variant: str) -> list[str]:
    """The differences of the container's accelerators from those of the variant it runs."""
    wanted = variants.requested(pipeline, place.stage, variant)
    resources = place.container.get("resources") or {}
    faults = []
    for kind in sorted(variants.accelerator_kinds(pipeline, place.stage)):
        # Kubernetes takes the limit of an extended resource for its request.
        limits = resources.get("limits") or {}
        found, expected = parse_quantity(limits.get(kind, 0)), wanted.get(kind, "0")
        if found != parse_quantity(expected):
            faults.append(
                f"{place.title}: resources.limits[{kind}] is {limits.get(kind, 0)}, and its variant "
                f"{variant!r} has {expected}; apply `ipa render {pipeline.name}`"
            )
    return faults


def _cores(place: StageLocation) -> float | str:
    amounts = variants.amounts_of(place.container, "cpu")
    if not amounts:
        return "has no resources.requests.cpu and no resources.limits.cpu"
    parsed = {kind: parse_quantity(amount) for kind, amount in amounts.items()}
    cores = next(iter(parsed.values()))
    if cores is None or any(other != cores for other in parsed.values()):
        shown = ", ".join(f"resources.{kind}.cpu is {amount!r}" for kind, amount in amounts.items())
        return f"{shown}; they must be equal"
    return float(cores)
