"""A pipeline as a SeldonDeployment, and back; and the change of an existing one.

Several configurations side by side are predictors of one SeldonDeployment, which share its traffic. Their
names begin with the pipeline's own predictor: default, default-2, default-3. Each is a whole graph, with an
orchestrator of its own; one alone may have any of the names. Predictors with other names belong to other
people. A change writes only ipa's fields that differ: replicas alone change no pod template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

from ipa.adapters.kube.kinds import cpu_quantity
from ipa.adapters.kube.transport import Json
from ipa.model import parts as shared
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig, in_millicores
from ipa.targets.base import check_parts
from ipa.targets.kubernetes.containers import (
    bare_container,
    check_configs,
    container_name,
    in_reading_order,
)
from ipa.targets.kubernetes.layout import at
from ipa.targets.kubernetes.split import LABEL_PIPELINE
from ipa.targets.seldon.locate import (
    SEPARATE_ENGINE,
    SPLIT,
    Nested,
    StageLocation,
    drift,
    locate,
    nest,
    node_type,
    object_of,
    target_of,
)
from ipa.targets.seldon.section import SeldonTarget, WireProtocol, with_seldon
from ipa.targets.seldon.variants import batch_faults, check_variants, runs_of

# Without a number of its own the operator writes the orchestrator's Deployment for ever.
ONE_ORCHESTRATOR: Mapping[str, Any] = {"replicas": 1}
# A set has as many parts as a stage has variants; while it changes those that go are there too.
MOST = 10
# The pipeline with one of the predictors it may have, and what that runs.
Named = tuple[Pipeline, shared.Configs]


def check(pipeline: Pipeline, configs: Sequence[StageConfig], running: Sequence[StageConfig] = ()) -> None:
    """InputError as `check_configs`, and for batches that would mix up requests.

    A stage that already is `running` with that variant and batch size may keep them: a first step may be
    elsewhere.
    """
    known = {(config.stage, config.variant, config.batch_size) for config in running}
    new = [it for it in configs if (it.stage, it.variant, it.batch_size) not in known]
    check_configs(pipeline, configs, batch_faults(pipeline, new))


def render(pipeline: Pipeline, configs: Sequence[StageConfig]) -> dict[str, Any]:
    """The SeldonDeployment that runs the parts side by side, each a predictor.

    InputError if the pipeline has no `seldon:` section, Seldon cannot nest its graph, the configs do not fit
    it, or their shares are not whole percents that sum to 100.
    """
    check_parts(pipeline, configs, MOST)
    target, parts = target_of(pipeline), shared.parts_of(configs)
    check_variants(pipeline)
    predictors = []
    for named, part in zip(_named(pipeline), parts, strict=False):
        predictors.append(_predictor(named, part))
        if len(parts) > 1:
            predictors[-1]["traffic"] = shared.share_of(part)
    spec = {
        "protocol": target.protocol.value,
        # Without it the orchestrator sits in the pods of the first stage: its cores multiply with them.
        "annotations": {SEPARATE_ENGINE: "true"} if target.separate_orchestrator else {},
        "predictors": predictors,
    }
    return object_of(target, spec, {LABEL_PIPELINE: pipeline.name})


def _predictor(pipeline: Pipeline, configs: Sequence[StageConfig]) -> dict[str, Any]:
    """The predictor that runs the configurations: one componentSpec for every stage."""
    check(pipeline, configs)
    target = target_of(pipeline)
    engine = dict(ONE_ORCHESTRATOR)
    # The cores that are counted for it if these are not the operator's default.
    if target.orchestrator_cores not in (0, SeldonTarget(target.name).orchestrator_cores):
        engine["resources"] = {"requests": {"cpu": cpu_quantity(target.orchestrator_cores)}}
    components, nodes = [], {}
    for stage, config in zip(pipeline.served, configs, strict=True):
        name, container = container_name(stage), bare_container(stage, run_as_root=target.run_as_root)
        place = StageLocation(
            deployment="",
            replicas=config.replicas,
            title="",
            runs=runs_of(pipeline, stage),
            component={},
            container=container,
            node={"name": name, "type": node_type(stage)},
        )
        # Requests and limits are equal, so that latency is as measured: no cores borrowed from neighbours,
        # none lent.
        for fields in place.fields(pipeline, config).values():
            place.put(fields)
        components.append({**place.component, "spec": {"containers": [in_reading_order(container)]}})
        nodes[stage.name] = place.node
    graph = _node(nest(pipeline), nodes)
    return {"name": target.predictor, "svcOrchSpec": engine, "componentSpecs": components, "graph": graph}


def _node(nested: Nested, nodes: Mapping[str, Json]) -> Json:
    """The node of the stage with all nodes inside it; it is one of `nodes`, or Seldon's own router."""
    built_in = {"name": container_name(nested.stage), "implementation": SPLIT}
    node = nodes.get(nested.stage.name) or built_in | {"parameters": [nested.ratio]}
    if nested.children:
        node["children"] = [_node(child, nodes) for child in nested.children]
    return node


def read_predictor(pipeline: Pipeline, sdep: Json) -> tuple[StageConfig, ...]:
    """The configuration of every stage in the pipeline's own predictor.

    DriftError lists everything in it that no configuration of the pipeline could have.
    """
    configs: list[StageConfig] = []
    problems: list[str] = []
    protocol, own = protocol_of(sdep), target_of(pipeline).protocol
    if protocol not in (None, own):
        remedy = f"say `seldon: {{protocol: {protocol}}}` in the pipeline's file"
        problems.append(f"its protocol is {protocol}, not {own}; {remedy}")
    for place in locate(pipeline, sdep):
        config = place.read(pipeline, problems)
        configs += [config] if config is not None else []
    if problems:
        raise drift(pipeline, problems)
    return tuple(configs)


def protocol_of(sdep: Json) -> WireProtocol | None:
    """The protocol of the SeldonDeployment; None for an unsupported one, such as TensorFlow's."""
    # The operator's default, and the older name of V2.
    named = {"": "seldon", "kfserving": "v2"}
    text = str(at(sdep, "spec", "protocol") or "")
    known = {each.value: each for each in WireProtocol}
    return known.get(named.get(text, text))


def read(pipeline: Pipeline, sdep: Json) -> shared.Configs:
    """The parts in the SeldonDeployment, in their order. DriftError as `read_named`."""
    return tuple(config for _, part in read_named(pipeline, sdep) for config in part)


def read_named(pipeline: Pipeline, sdep: Json) -> list[Named]:
    """Each predictor of the pipeline with its configuration, in the order of parts.

    DriftError as `read_predictor`, and if parts share the requests with other people's predictors: their
    shares are then no percentages of the pipeline's requests.
    """
    traffic = _traffic(sdep)
    ours = [named for named in _named(pipeline) if target_of(named).predictor in traffic]
    if len(ours) <= 1:
        # None: `locate` says what there is instead.
        return [(named, read_predictor(named, sdep)) for named in ours or [pipeline]]
    _check_others(pipeline, traffic)
    running = [
        (named, shared.with_share(read_predictor(named, sdep), traffic[target_of(named).predictor]))
        for named in ours
    ]
    return sorted(running, key=lambda each: shared.order_of(each[1]))


def _traffic(sdep: Json) -> dict[str, int]:
    """The percent of the requests of each predictor that is not a shadow."""
    predictors = at(sdep, "spec", "predictors") or []
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


def _named(pipeline: Pipeline) -> list[Pipeline]:
    """The pipeline once for each predictor it may have."""
    own = target_of(pipeline).predictor
    names = [own, *(f"{own}-{number}" for number in range(2, MOST + 1))]
    return [with_seldon(pipeline, predictor=name) for name in names]


def changed(pipeline: Pipeline, live: Json, wanted: Sequence[StageConfig]) -> Json:
    """The object, live or in a file, changed to run the wanted parts.

    A part stays in the predictor of its variants, so that a change of shares writes traffic alone. A new part
    is added last, as a copy of an existing predictor, so that it keeps other people's fields; removed parts
    are deleted. If one runs alone before and after, its traffic stays as it is. Errors as `read` and
    `render`.
    """
    check_parts(pipeline, wanted, MOST)
    running = read_named(pipeline, live)
    shares = len(running) > 1 or shared.is_shared(wanted)
    if shares:
        _check_others(pipeline, _traffic(live))
    after = deepcopy(live)
    predictors = {one["name"]: one for one in after["spec"]["predictors"]}
    free = [named for named in _named(pipeline) if target_of(named).predictor not in predictors]
    there = list(running)
    added: list[Json] = []
    old = [config for _, part in running for config in part]
    for before, part in shared.paired(old, shared.in_order(shared.parts_of(in_millicores(wanted)))):
        here = next((each for each in there if each[1] == before), None)
        if here is not None and part is not None:
            there.remove(here)
            change_predictor(here[0], after, part)
            if shares:
                predictors[target_of(here[0]).predictor]["traffic"] = shared.share_of(part)
        elif part is not None:
            # Without an explainer: one is enough.
            named, model = free.pop(0), target_of(running[0][0]).predictor
            (like,) = (each for each in live["spec"]["predictors"] if each["name"] == model)
            new = {key: deepcopy(value) for key, value in like.items() if key != "explainer"}
            new |= {"name": target_of(named).predictor, "traffic": shared.share_of(part)}
            new["svcOrchSpec"] = {**ONE_ORCHESTRATOR, **(new.get("svcOrchSpec") or {})}
            change_predictor(named, {**live, "spec": {**live["spec"], "predictors": [new]}}, part)
            added.append(new)
    gone = {target_of(named).predictor for named, _ in there}
    after["spec"]["predictors"] = [*(it for name, it in predictors.items() if name not in gone), *added]
    return after


def change_predictor(pipeline: Pipeline, sdep: Json, wanted: Sequence[StageConfig]) -> None:
    """Write the wanted configurations into the pipeline's predictor in the object."""
    check_variants(pipeline)
    running = read_predictor(pipeline, sdep)
    check(pipeline, wanted, running)
    for place, now, then in zip(locate(pipeline, sdep), running, in_millicores(wanted), strict=True):
        place.change(pipeline, now, then)
