"""Seldon's view of a pipeline's variants, of those that a container keeps resident, and of its batches.

A variant is image, env, model URI and implementation. A field of a container or graph node is ours if any
variant of the stage names it. Everything else belongs to other people and is neither compared nor written.

Resident variants (shape split): the stage's container loads the variants of one group
(`ipa.dataplane.stage`), each as a model of its own; its queue names one of them with each batch. So another
variant of the group is a setting of the queue, and one of another group a setting of the container.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import nlargest
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from ipa.adapters.kube.quantity import quantity_of
from ipa.model.errors import InputError, Problem
from ipa.model.measured import with_profiles
from ipa.model.overhead import NO_OVERHEAD, Overhead
from ipa.model.pipeline import OutputRows, Pipeline, Stage, StageKind, Variant
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.model.resident import ANY_VARIANT, stand_ins
from ipa.model.resources import DIMENSIONS, beside_cores, resource_of
from ipa.model.serving import Unbatched, batch_fault
from ipa.targets.seldon.section import SeldonRun, Shape, is_microservice, seldon_of

BATCH_SIZE = "MLSERVER_MODEL_MAX_BATCH_SIZE"
BATCH_TIME = "MLSERVER_MODEL_MAX_BATCH_TIME"

# Which Python class MLServer runs in a container of ours.
IMPLEMENTATION = "MLSERVER_MODEL_IMPLEMENTATION"
# So begin the variables of one model; others are those of the whole server.
MODEL_ENV = "MLSERVER_MODEL_"

# What the operator itself gives to every MLServer container; a variant that set them would be overwritten.
OPERATORS_ENV = frozenset(
    {"MLSERVER_HTTP_PORT", "MLSERVER_GRPC_PORT", "MLSERVER_MODEL_NAME", "MLSERVER_METRICS_PORT"}
)

Json = dict[str, Any]
# The place of a field, which is the container, the node or the container's env, and its name there.
Field = tuple[str, str]

RESIDENT, MEMORY = "resident", "memory"
# The variables of the container and of the queue; see `ipa.dataplane.stage` and `ipa.dataplane.queue`.
MODELS = "IPA_MODELS"
VARIANT, LIGHTER, HEAVIER = "IPA_VARIANT", "IPA_LIGHTER", "IPA_HEAVIER"
GROUPS, PROFILED = "IPA_RESIDENTS", "IPA_PROFILED_S"
COMMAND = ("python", "-m", "ipa.dataplane.stage")
RESIDENT_REMEDY = (
    "give them one image with ipa-serving, and env that differs in MLSERVER_MODEL_... alone; or leave it out"
)
Groups = tuple[tuple[str, ...], ...]

WHERE = "in one SeldonDeployment"
BATCH_REMEDY = "`seldon: {shape: split}`, whose queue counts each request's rows"
# Of a stage whose server forms no batches.
NO_BATCHES = "its server is a microservice, which answers each request by itself"
WITH_MLSERVER = "serve it with MLServer (`protocol: v2`, and no `server: microservice`)"
# Measured on two cores (`python -m experiments.fidelity.on_seldon`): orchestrator; router and queue.
HOPS_S: Mapping[Shape, float] = MappingProxyType({Shape.SINGLE: 0.003, Shape.SPLIT: 0.005})
NO_PROFILES: Mapping[str, StageProfile] = MappingProxyType({})


def requested(pipeline: Pipeline, stage: Stage, variant: str) -> dict[str, str]:
    """The quantities that a container of the variant requests beside its cores, by Kubernetes' names.

    Accelerators are those of the `seldon` section or of the profile, whichever are more; the rest is that of
    the section alone, since a container without a limit is not ended for what was measured.
    """
    own = requested_of(pipeline, stage, variant)
    return {resource_of(name): quantity_of(name, amount) for name, amount in own.items()}


def requested_of(pipeline: Pipeline, stage: Stage, variant: str) -> dict[str, float]:
    """The amounts of `requested`, by our names."""
    own = beside_cores(seldon_run(stage, variant))
    measured = pipeline.bounds.measured.get((stage.name, variant))
    for kind, count in (measured.beside.accelerators if measured else {}).items():
        own[kind] = max(count, own.get(kind, 0.0))
    return own


def accelerator_kinds(pipeline: Pipeline, stage: Stage) -> set[str]:
    """The kinds of accelerators that any variant of the stage requests."""
    names = {name for variant in stage.variants for name in requested(pipeline, stage, variant.name)}
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


def _runs(stage: Stage) -> list[SeldonRun]:
    return [run for variant in stage.variants if (run := seldon_of(variant)) is not None]


def server_of(run: SeldonRun) -> str | None:
    """The prepackaged server (MLFLOW_SERVER) of the graph node; a class in an image of ours has a dot."""
    return None if run.implementation is None or "." in run.implementation else run.implementation


def env_of(run: SeldonRun) -> dict[str, str]:
    """The variables of a container of the variant that tell it from others."""
    own = {} if run.implementation is None or server_of(run) else {IMPLEMENTATION: run.implementation}
    return {**own, **run.env}


def fields_of(stage: Stage, variant: str) -> dict[Field, str | None]:
    """The fields of the stage's container and node that are ours, with the variant's values; None: not there.

    Those that are `told` are written with the others, and do not tell which variant runs.
    """
    run, runs = seldon_run(stage, variant), _runs(stage)
    found: dict[Field, str | None] = {}
    if any(other.image is not None for other in runs):
        found["container", "image"] = run.image
    if any(server_of(other) is not None for other in runs):
        found["node", "implementation"] = server_of(run)
    if any(other.model_uri is not None for other in runs):
        found["node", "modelUri"] = run.model_uri
    env = env_of(run)
    found |= {("env", name): env.get(name) for name in sorted(env_names(runs))}
    return found | {("env", name): value for name, value in sorted(run.told.items())}


def env_names(runs: Iterable[SeldonRun]) -> set[str]:
    """The names of the variables by which any of them is told from others."""
    return {name for run in runs for name in env_of(run)}


def owned_env(stage: Stage) -> frozenset[str]:
    """The names of the stage's env that are ours: those of its variants, and those of batching."""
    told = {name for run in _runs(stage) for name in run.told}
    return frozenset({BATCH_SIZE, BATCH_TIME, *env_names(_runs(stage)), *told})


def amounts_of(container: Json, resource: str) -> dict[str, Any]:
    """The container's requests and limits of the resource, those that it has."""
    resources = container.get("resources") or {}
    known = {kind: resources.get(kind) or {} for kind in ("requests", "limits")}
    return {kind: amounts[resource] for kind, amounts in known.items() if resource in amounts}


def env_entry(container: Json, name: str) -> Json | None:
    """The entry of that name that counts: of several, Kubernetes takes the last."""
    entries = [entry for entry in container.get("env") or () if entry.get("name") == name]
    return entries[-1] if entries else None


def recognise(stage: Stage, container: Json, node: Json) -> tuple[str | None, str]:
    """The variant that runs, or None and in words how the nearest one differs from what runs."""
    nearest: tuple[int, str] | None = None
    for variant in stage.variants:
        run = seldon_of(variant)
        if run is None:
            continue
        differing = []
        for (kind, name), value in fields_of(stage, variant.name).items():
            live = _live_value(kind, name, container, node)
            if live != value and name not in run.told:
                words = f"env {name}" if kind == "env" else name
                differing.append(f"{words} is {_shown(live)}, not {_shown(value)}")
        if not differing:
            return variant.name, ""
        if nearest is None or len(differing) < nearest[0]:
            nearest = (len(differing), f"nearest is {variant.name!r}: {'; '.join(differing)}")
    return None, nearest[1] if nearest else "none of its variants has a `seldon:` section"


def _live_value(kind: str, name: str, container: Json, node: Json) -> object:
    """The field's running value, or None."""
    if kind != "env":
        return (container if kind == "container" else node).get(name)
    entry = env_entry(container, name)
    if entry is None:
        return None
    return "a value from elsewhere (valueFrom)" if "valueFrom" in entry else entry.get("value", "")


def _shown(value: object) -> str:
    return "absent" if value is None else repr(value)


def check_variants(pipeline: Pipeline) -> None:
    """InputError lists variants that cannot be told apart on Seldon, or that set env that is not theirs."""
    problems = [Problem(message) for stage in pipeline.stages for message in _faults(stage)]
    if problems:
        raise InputError(f"pipeline {pipeline.name!r} cannot run on Seldon as written", problems=problems)


def _faults(stage: Stage) -> Iterator[str]:
    seen: dict[tuple[tuple[Field, str | None], ...], str] = {}
    for variant in stage.variants:
        run = seldon_of(variant)
        if run is None:
            continue
        for name in sorted(run.env):
            if name in OPERATORS_ENV or name in (BATCH_SIZE, BATCH_TIME):
                yield f"stage {stage.name!r}, variant {variant.name!r}: the service sets env {name}"
        look = tuple(fields_of(stage, variant.name).items())
        if look in seen:
            yield (
                f"stage {stage.name!r}: variants {seen[look]!r} and {variant.name!r} have the same image, "
                "env and model URI; give one of them a different env, so that they can be distinguished"
            )
        seen[look] = variant.name


def groups_of(pipeline: Pipeline, stage: Stage) -> Groups:
    """The variants of the stage that a replica has loaded together, in the file's order; empty if it has one.

    As many as `resident` says, in groups of about the same size: a pod's variants never change, so that a
    variant alone says with which others it is loaded.
    """
    section = seldon_of(pipeline)
    if (
        stage.residents == 1
        or section is None
        or section.shape is not Shape.SPLIT
        or RESIDENT in section.ignores
    ):
        return ()
    names = [variant.name for variant in stage.variants]
    count = -(-len(names) // stage.residents)
    size, more = divmod(len(names), count)
    starts = [at * size + min(at, more) for at in range(count + 1)]
    return tuple(tuple(names[start:end]) for start, end in pairwise(starts))


def resident_fault(pipeline: Pipeline, stage: Stage) -> str:
    """The reason why one container cannot serve the stage's variants; empty if it can."""
    given = [run for variant in stage.variants if (run := seldon_of(variant)) is not None]
    differing = sorted(name for name in env_names(given) if len({env_of(run).get(name) for run in given}) > 1)
    others = ", ".join(name for name in differing if not name.startswith(MODEL_ENV))
    faults = {
        "not all of its variants have a `seldon:` section": len(given) < len(stage.variants),
        "a microservice has one model": any(is_microservice(pipeline, it) for it in stage.variants),
        "its variants have different images": len({run.image for run in given}) > 1,
        "a prepackaged server, or one with a model_uri, loads one model": any(
            run.model_uri is not None or server_of(run) is not None for run in given
        ),
        "not all of its variants name an `implementation`, a class of their image": any(
            IMPLEMENTATION not in env_of(run) for run in given
        ),
        f"its variants differ in env {others}, which is that of the whole container": bool(others),
    }
    return next((why for why, is_so in faults.items() if is_so), "")


def check_resident(pipeline: Pipeline, stage: Stage) -> None:
    """InputError if the stage's variants are to be resident and one container cannot serve them."""
    why = resident_fault(pipeline, stage) if groups_of(pipeline, stage) else ""
    if why:
        raise InputError(
            f"stage {stage.name!r} of pipeline {pipeline.name!r} cannot keep variants resident: {why}",
            hint=f"{RESIDENT_REMEDY[0].upper()}{RESIDENT_REMEDY[1:]}.",
        )


def group_named(groups: Groups, variant: str) -> str:
    """The name of the group that has the variant, which is that of the container's variant."""
    return next(("+".join(group) for group in groups if variant in group), variant)


def served_variant(groups: Groups, loaded: str, asked: str) -> str:
    """The variant that replicas with the group `loaded` serve while their queue asks for `asked`.

    The nearest in the file's order, as their queue chooses it.
    """
    names = [name for group in groups for name in group]
    (group,) = (each for each in groups if "+".join(each) == loaded)
    return min(group, key=lambda name: abs(names.index(name) - names.index(asked)))


def model_template(container: str) -> str:
    """The name of a variant's model at the container, with ANY_VARIANT for the variant."""
    return f"{container}--{ANY_VARIANT}"


def container_variants(
    pipeline: Pipeline, stage: Stage, container: str, groups: Groups
) -> tuple[Variant, ...]:
    """The variants of the stage's container: each serves one group, and has the memory of the largest."""
    runs = {variant.name: run for variant in stage.variants if (run := seldon_of(variant)) is not None}
    shared = env_of(next(iter(runs.values())))
    own = {name for name in env_names(runs.values()) if name.startswith(MODEL_ENV)}
    memory_gib, accelerators = _beside(pipeline, stage, runs)
    made = []
    for group in groups:
        models = {
            model_template(container).replace(ANY_VARIANT, name): {
                key: value for key, value in sorted(env_of(runs[name]).items()) if key in own
            }
            for name in group
        }
        env = {key: value for key, value in shared.items() if key not in own}
        run = SeldonRun(
            image=runs[group[0]].image,
            env={**env, MODELS: json.dumps(models)},
            memory_gib=memory_gib,
            accelerators=accelerators,
        )
        made.append(Variant("+".join(group), targets={"seldon": run}))
    return tuple(made)


def _beside(pipeline: Pipeline, stage: Stage, names: Iterable[str]) -> tuple[float | None, dict[str, float]]:
    """The memory and the accelerators of a container, whichever variants it has: as plans count them.

    No memory if a variant requests none: a container without a limit is not ended for what was measured.
    """
    amounts = [requested_of(pipeline, stage, name) for name in names]
    kinds = sorted({kind for each in amounts for kind in each if kind != MEMORY})
    accelerators = {kind: max(each.get(kind, 0.0) for each in amounts) for kind in kinds}
    if not all(MEMORY in each for each in amounts):
        return None, accelerators
    requested_gib = sum(nlargest(stage.residents, (each[MEMORY] for each in amounts)))
    measured = pipeline.bounds.measured.items()
    planned = [it.beside.memory_gib for (owner, _), it in measured if owner == stage.name]
    return max(requested_gib, *planned, 0.0), accelerators


def queue_variants(
    pipeline: Pipeline, stage: Stage, groups: Groups, env: Mapping[str, str]
) -> tuple[Variant, ...]:
    """The variants of the stage's queue: the same settings `env`, each with another variant to ask for."""
    known = {name: it for (owner, name), it in pipeline.bounds.measured.items() if owner == stage.name}
    # In core seconds: the queue goes by their ratios.
    times = {name: it.batch_core_s for name, it in known.items() if it.batch_core_s[0] > 0}
    profiled = " ".join(f"{name}={first:.6g},{more:.6g}" for name, (first, more) in sorted(times.items()))
    fixed = {**env, GROUPS: " ".join(",".join(group) for group in groups)}

    def run(variant: str) -> SeldonRun:
        (group,) = (each for each in groups if variant in each)
        lighter, heavier = map(" ".join, stand_ins(pipeline, stage.name, variant, group))
        told = {LIGHTER: lighter, HEAVIER: heavier, PROFILED: profiled}
        return SeldonRun(env={**fixed, VARIANT: variant}, told=told)

    return tuple(replace(each, targets={"seldon": run(each.name)}) for each in stage.variants)


def at_cluster(pipeline: Pipeline, profiles: Mapping[str, StageProfile] = NO_PROFILES) -> Pipeline:
    """Return the pipeline as it runs on Seldon.

    The cores of containers beside its replicas count within its bounds. In one SeldonDeployment each replica
    batches for itself, and stages that MLServer would answer wrongly in batches (`unbatched_stages`) have
    batch size 1 only. An ignored `resident` has no effect; in shape split it makes groups of variants.
    """
    why = unbatched_stages(pipeline, profiles)
    section = seldon_of(pipeline)
    is_single = section is not None and section.shape is Shape.SINGLE
    hop_s = 0.0
    if section is not None:
        hop_s = HOPS_S[section.shape] if section.hop_s is None else section.hop_s
    if section is not None and RESIDENT in section.ignores:
        alone = tuple(replace(stage, resident=1) for stage in pipeline.stages)
        pipeline = replace(pipeline, stages=alone)
    carried = replace(
        pipeline,
        bounds=replace(pipeline.bounds, overhead=_overhead(pipeline)),
        stages=tuple(
            # The reason of another shape, in which it ran before, is none here.
            replace(
                stage,
                unbatched=why.get(stage.name, ""),
                in_replica=is_single,
                hop_s=hop_s,
                resident_groups=groups_of(pipeline, stage),
            )
            for stage in pipeline.stages
        ),
    )
    return with_profiles(carried, profiles)


def unbatched_stages(
    pipeline: Pipeline, profiles: Mapping[str, StageProfile] = NO_PROFILES
) -> Mapping[str, str]:
    """The stages that must not batch in one SeldonDeployment (shape single), each with the reason.

    MLServer splits a batch's answer among requests by the rows that each request brought, counted on the last
    of its inputs. A stage with another number of output rows thus gives one request the rows of another, and
    so does the stage after it: the orchestrator passes `fan_out`, one row an item, on as an input. The queue
    of shape split counts by `fan_out` itself. A microservice forms no batches at all.
    """
    target = seldon_of(pipeline)
    if target is None or target.shape is Shape.SPLIT:
        return {}
    found: dict[str, str] = {}
    # A router without variants, or one that only routes, passes its input on.
    varying: dict[str, str] = {}
    for stage in pipeline.stages:
        senders = [varying[edge.parent] for edge in stage.after if edge.parent in varying]
        own = _varying_rows(pipeline, stage, profiles)
        if own:
            varying[stage.name] = stage.name
        elif senders and stage.kind is StageKind.ROUTER:
            varying[stage.name] = senders[0]
        if not stage.variants:
            continue
        if stage.unbatched or own:
            found[stage.name] = stage.unbatched or own
        elif senders:
            found[stage.name] = f"it is given the fan_out of stage {senders[0]!r} as an input"
    mixing = {name: Unbatched(why, WHERE, BATCH_REMEDY) for name, why in found.items()}
    return mixing | {
        stage.name: Unbatched(NO_BATCHES, remedy=WITH_MLSERVER, is_void=True)
        for stage in pipeline.served
        if any(is_microservice(pipeline, variant) for variant in stage.variants)
    }


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
    fan_outs = [edge.fan_out for each in pipeline.stages for edge in each.after if edge.parent == stage.name]
    for fan_out in fan_outs:
        values = sorted(set(fan_out.values())) if isinstance(fan_out, Mapping) else [fan_out]
        if values != [1.0]:
            return f"its fan_out is {' to '.join(f'{value:g}' for value in (values[0], *values[1:][-1:]))}"
    return ""


def _overhead(pipeline: Pipeline) -> Overhead:
    target = seldon_of(pipeline)
    if target is None:
        return NO_OVERHEAD
    if target.shape is Shape.SPLIT:
        return Overhead(target.orchestrator_cores + target.queue_cores * len(pipeline.served))
    if target.separate_orchestrator:
        return Overhead(target.orchestrator_cores)
    # The operator adds it to the pods of the first componentSpec.
    return Overhead(0.0, ((pipeline.served[0].name, target.orchestrator_cores),))
