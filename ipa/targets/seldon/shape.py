"""A pipeline on Seldon: the containers beside its replicas, and the stages that must not batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from ipa.model.measured import with_profiles
from ipa.model.overhead import NO_OVERHEAD, Overhead
from ipa.model.pipeline import OutputRows, Pipeline, Stage, StageKind
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.model.serving import Unbatched, batch_fault
from ipa.targets.seldon.residents import groups_of
from ipa.targets.seldon.section import Shape, is_microservice, seldon_of

WHERE = "in one SeldonDeployment"
REMEDY = "`seldon: {shape: split}`, whose queue counts each request's rows"
# Of a stage whose server forms no batches.
NO_BATCHES = "its server is a microservice, which answers each request by itself"
WITH_MLSERVER = "serve it with MLServer (`protocol: v2`, and no `server: microservice`)"
# Measured on two cores (`python -m experiments.fidelity.on_seldon`): orchestrator; router and queue.
HOPS_S: Mapping[Shape, float] = MappingProxyType({Shape.SINGLE: 0.003, Shape.SPLIT: 0.005})
NO_PROFILES: Mapping[str, StageProfile] = MappingProxyType({})


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
    if section is not None and "resident" in section.ignores:
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
    mixing = {name: Unbatched(why, WHERE, REMEDY) for name, why in found.items()}
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
