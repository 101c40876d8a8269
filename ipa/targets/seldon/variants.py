"""A pipeline's variants on Seldon, and its batches. A variant is image, env, model URI and implementation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from ipa.model.measured import with_profiles
from ipa.model.parts import NO_OVERHEAD, Overhead
from ipa.model.pipeline import OutputRows, Pipeline, Stage, StageKind
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.model.serving import Unbatched, batch_fault
from ipa.targets.kubernetes import containers
from ipa.targets.kubernetes.containers import StageRuns
from ipa.targets.kubernetes.split import HOP_S, shaped
from ipa.targets.seldon.section import KEY, Shape, is_microservice, seldon_of

WHERE = "in one SeldonDeployment"
BATCH_REMEDY = "`seldon: {shape: split}`, whose queue counts each request's rows"
# Of a stage whose server forms no batches.
NO_BATCHES = "its server is a microservice, which answers each request by itself"
WITH_MLSERVER = "serve it with MLServer (`protocol: v2`, and no `server: microservice`)"
# Measured on two cores (`make scorecard`): orchestrator; router and queue.
HOPS_S: Mapping[Shape, float] = MappingProxyType({Shape.SINGLE: 0.003, Shape.SPLIT: HOP_S})
# Of a core, measured there too: MLServer parses each request of a batch that it forms.
REQUEST_S = 0.001
NO_PROFILES: Mapping[str, StageProfile] = MappingProxyType({})


def runs_of(pipeline: Pipeline, stage: Stage) -> StageRuns:
    """The `seldon:` sections of the stage's variants."""
    alone = (it.name for it in stage.variants if is_microservice(pipeline, it))
    return StageRuns(stage, KEY, frozenset(alone))


def check_variants(pipeline: Pipeline) -> None:
    """InputError lists variants that are indistinguishable on Seldon, or that set reserved env."""
    containers.check_variants(pipeline, KEY, "Seldon")


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
    ignores, request_s = () if section is None else section.ignores, REQUEST_S if is_single else 0.0
    own = shaped(pipeline, overhead, ignores, why, in_replica=is_single, hop_s=hop_s, request_s=request_s)
    return with_profiles(own, profiles)


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
