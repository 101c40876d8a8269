"""A pipeline as a SeldonDeployment, and back; and the change of one that is there.

Several configurations side by side are predictors of one SeldonDeployment, which share its traffic. They are
called after the pipeline's own predictor: default, default-2, default-3. Each is a whole graph, with an
orchestrator of its own; one alone may have any of the names. Predictors of other names are other people's. In
one of them only fields that are ours and differ change: replicas alone touch no pod template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from ipa.adapters.kube.quantity import MILLICORES, cpu_quantity, parse_quantity
from ipa.model import parts as shared
from ipa.model.errors import InputError, Problem
from ipa.model.pipeline import Pipeline, Stage
from ipa.model.plan import StageConfig, in_millicores
from ipa.targets.seldon import variants
from ipa.targets.seldon.locate import (
    LABEL_PIPELINE,
    SEPARATE_ENGINE,
    SPLIT,
    Nested,
    StageLocation,
    container_name,
    drift,
    locate,
    nest,
    node_type,
    object_of,
    split_ratio,
    target_of,
)
from ipa.targets.seldon.section import SeldonTarget, Shape, WireProtocol, is_microservice, with_seldon
from ipa.targets.seldon.variants import Json, batch_faults

# Without a number of its own the operator writes the orchestrator's Deployment for ever.
ONE_ORCHESTRATOR: Mapping[str, Any] = {"replicas": 1}
# A set has as many parts as a stage has variants; while it changes those that go are there too.
MOST = 10
# The pipeline with one of the predictors it may have, and what that runs.
Named = tuple[Pipeline, shared.Configs]
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
    found = variants.fields_of(stage, config.variant)
    return {name: value for (place, name), value in found.items() if place == kind and value is not None}


def _component(pipeline: Pipeline, stage: Stage, config: StageConfig) -> dict[str, Any]:
    env = _variant_fields(stage, config, "env")
    if not is_microservice(pipeline, stage.variant(config.variant)):
        env |= {variants.BATCH_SIZE: str(config.batch_size), variants.BATCH_TIME: _batch_time(stage)}
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


def read(pipeline: Pipeline, sdep: Json) -> tuple[StageConfig, ...]:
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


def protocol_of(sdep: Json) -> WireProtocol | None:
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


def render_predictors(pipeline: Pipeline, configs: Sequence[StageConfig]) -> dict[str, Any]:
    """The SeldonDeployment that runs the parts side by side; of one part, what `render` gives.

    InputError as `render`, and where the shares are no whole percents of together 100.
    """
    _check(pipeline, configs)
    parts = shared.parts_of(configs)
    first, *others = [render(named, part) for named, part in zip(_named(pipeline), parts, strict=False)]
    predictors = [body["spec"]["predictors"][0] for body in (first, *others)]
    if others:
        for predictor, part in zip(predictors, parts, strict=True):
            predictor["traffic"] = shared.share_of(part)
    first["spec"]["predictors"] = predictors
    return first


def read_predictors(pipeline: Pipeline, sdep: Json) -> shared.Configs:
    """The parts that the SeldonDeployment asks for, in their order. DriftError as `read_named`."""
    return tuple(config for _, part in read_named(pipeline, sdep) for config in part)


def read_named(pipeline: Pipeline, sdep: Json) -> list[Named]:
    """Each predictor of the pipeline with what it runs, in the order of parts.

    DriftError as `read`, and where several share the requests and predictors of other people take some too:
    shares are then no percents of the pipeline's.
    """
    traffic = _traffic(sdep)
    ours = [named for named in _named(pipeline) if target_of(named).predictor in traffic]
    if len(ours) <= 1:
        # None: `locate` says what there is instead.
        return [(named, read(named, sdep)) for named in ours or [pipeline]]
    _check_others(pipeline, traffic)
    found = [
        (named, shared.with_share(read(named, sdep), traffic[target_of(named).predictor])) for named in ours
    ]
    return sorted(found, key=lambda each: shared.order_of(each[1]))


def _traffic(sdep: Json) -> dict[str, int]:
    """The percent of the requests of each predictor that is no shadow."""
    predictors = (sdep.get("spec") or {}).get("predictors") or []
    return {one["name"]: int(one.get("traffic") or 0) for one in predictors if not one.get("shadow")}


def _check_others(pipeline: Pipeline, traffic: Mapping[str, int]) -> None:
    names = {target_of(named).predictor for named in _named(pipeline)}
    problems = [
        f"predictor {name!r} takes {percent} % of the requests, and is none of the pipeline's"
        for name, percent in traffic.items()
        if name not in names and percent
    ]
    if problems:
        raise drift(pipeline, problems)


def changed(pipeline: Pipeline, live: Json, wanted: Sequence[StageConfig]) -> Json:
    """The object, live or in a file, as it is to be to run the wanted parts.

    A part stays in the predictor of its variants, so that a change of traffic alone touches traffic alone.
    What is new is added last, as a copy of a predictor that is there, so that it has what other people gave
    that; what is gone is removed. Where one is alone before and after, its traffic is not touched.
    Errors as `read_predictors` and `render_predictors`.
    """
    _check(pipeline, wanted)
    running = read_named(pipeline, live)
    shares = len(running) > 1 or shared.is_shared(wanted)
    if shares:
        _check_others(pipeline, _traffic(live))
    after = deepcopy(live)
    predictors = {one["name"]: one for one in after["spec"]["predictors"]}
    free = [named for named in _named(pipeline) if target_of(named).predictor not in predictors]
    there = list(running)
    added: list[Json] = []
    parts = shared.in_order(shared.parts_of(in_millicores(wanted)))
    for before, part in shared.paired(read_predictors(pipeline, live), parts):
        here = next((each for each in there if each[1] == before), None)
        if here is not None and part is not None:
            there.remove(here)
            change_predictor(here[0], after, part)
            if shares:
                predictors[target_of(here[0]).predictor]["traffic"] = shared.share_of(part)
        elif part is not None:
            added.append(_like(running[0][0], free.pop(0), live, part))
    gone = {target_of(named).predictor for named, _ in there}
    after["spec"]["predictors"] = [*(it for name, it in predictors.items() if name not in gone), *added]
    return after


def _like(model: Pipeline, named: Pipeline, live: Json, part: shared.Configs) -> Json:
    """A predictor that runs the part, and is else as that of `model` but for its explainer: one is enough."""
    name = target_of(named).predictor
    (one,) = (each for each in live["spec"]["predictors"] if each["name"] == target_of(model).predictor)
    copy = {key: deepcopy(value) for key, value in one.items() if key != "explainer"}
    copy |= {"name": name, "traffic": shared.share_of(part)}
    copy["svcOrchSpec"] = {**ONE_ORCHESTRATOR, **(copy.get("svcOrchSpec") or {})}
    change_predictor(named, {**live, "spec": {**live["spec"], "predictors": [copy]}}, part)
    return copy


def _named(pipeline: Pipeline) -> list[Pipeline]:
    """The pipeline once for each predictor it may have."""
    target = target_of(pipeline)
    names = [target.predictor, *(f"{target.predictor}-{number}" for number in range(2, MOST + 1))]
    return [with_seldon(pipeline, predictor=name) for name in names]


def _check(pipeline: Pipeline, configs: Sequence[StageConfig]) -> None:
    count, faults = len(shared.parts_of(configs)), list(shared.share_faults(configs))
    if not 1 <= count <= MOST:
        faults.insert(0, f"a set has 1 to {MOST} parts, not {count}")
    if count > 1 and target_of(pipeline).shape is Shape.SPLIT:
        faults.append("shape split cannot divide the traffic between parts; use shape single")
    if faults:
        problems = [Problem(fault) for fault in faults]
        raise InputError(f"pipeline {pipeline.name!r} cannot run these parts", problems=problems)


def change_predictor(pipeline: Pipeline, sdep: Json, wanted: Sequence[StageConfig]) -> None:
    """Make the pipeline's predictor in the object ask for the wanted configurations."""
    variants.check_variants(pipeline)
    running = read(pipeline, sdep)
    check_configs(pipeline, wanted, running)
    for place, now, then in zip(locate(pipeline, sdep), running, in_millicores(wanted), strict=True):
        stage, container = place.stage, place.container
        if then.replicas != now.replicas:
            place.component["replicas"] = then.replicas
        if then.cores != now.cores:
            _set_resource(container, "cpu", cpu_quantity(then.cores))
        if then.batch_size != now.batch_size:
            _set_env(container, variants.BATCH_SIZE, str(then.batch_size))
            _set_env(container, variants.BATCH_TIME, _batch_time(stage))
        if then.variant != now.variant:
            _change_variant(pipeline, place, then.variant)


def _change_variant(pipeline: Pipeline, place: StageLocation, variant: str) -> None:
    amounts = variants.requested(pipeline, place.stage, variant)
    for resource in sorted(amounts.keys() | variants.accelerator_kinds(pipeline, place.stage)):
        _set_resource(place.container, resource, amounts.get(resource))
    for (kind, name), value in variants.fields_of(place.stage, variant).items():
        if kind == "env":
            _set_env(place.container, name, value)
        else:
            _set(place.container if kind == "container" else place.node, name, value)


def _set_resource(container: Json, resource: str, amount: str | None) -> None:
    for kind in ("requests", "limits"):
        resources = container.get("resources") or {}
        if amount is not None or resource in (resources.get(kind) or {}):
            container["resources"] = resources
            resources[kind] = resources.get(kind) or {}
            _set(resources[kind], resource, amount)


def _set(owner: Json, key: str, value: str | None) -> None:
    if value is None:
        owner.pop(key, None)
    else:
        owner[key] = value


def _set_env(container: Json, name: str, value: str | None) -> None:
    """Give the variable that value, in the entry that counts; without a value remove all of that name."""
    entry = variants.env_entry(container, name)
    if entry is not None and value is not None:
        entry["value"] = value
    elif value is not None:
        container["env"] = [*(container.get("env") or ()), {"name": name, "value": value}]
    elif entry is not None:
        container["env"] = [it for it in container["env"] if it.get("name") != name]


def _batch_time(stage: Stage) -> str:
    """Time that MLServer waits for a batch to fill, in seconds, in the format of its env."""
    return f"{stage.batch_timeout_s:g}"
