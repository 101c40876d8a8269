"""Several configurations of a pipeline side by side: predictors of one SeldonDeployment share its traffic.

They are called after the pipeline's own predictor: default, default-2, default-3. Each is a whole graph, with
an orchestrator of its own; one alone may have any of the names. Predictors of other names are other people's.
In one of them only fields that are ours and differ change: replicas alone touch no pod template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ipa.adapters.kube.quantity import cpu_quantity
from ipa.model import parts as shared
from ipa.model.errors import InputError, Problem
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig, in_millicores
from ipa.targets.kubernetes.layout import Draft
from ipa.targets.seldon import variants
from ipa.targets.seldon.locate import StageLocation, container_name, drift, locate, target_of
from ipa.targets.seldon.manifest import ONE_ORCHESTRATOR, batch_time, check_configs, read, render
from ipa.targets.seldon.section import with_seldon
from ipa.targets.seldon.split import is_split
from ipa.targets.seldon.variants import Json

# A set has as many as a stage has variants; while it changes those that go are there too.
MOST = 10
PREDICTORS = ("spec", "predictors")

# The pipeline with one of the predictors it may have, and what that runs.
Named = tuple[Pipeline, shared.Configs]


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


def draft_change(pipeline: Pipeline, live: Json, wanted: Sequence[StageConfig]) -> Draft:
    """The draft that takes the live object, or one in a file, to the wanted parts.

    A part stays in the predictor of its variants, so that a change of traffic alone touches traffic alone.
    What is new is added last, as a copy of a predictor that is there, so that it has what other people gave
    that; what is gone is removed last. Where one is alone before and after, its traffic is not touched.
    Errors as `read_predictors` and `render_predictors`.
    """
    draft = Draft(live)
    _check(pipeline, wanted)
    running = read_named(pipeline, live)
    shares = len(running) > 1 or shared.is_shared(wanted)
    if shares:
        _check_others(pipeline, _traffic(live))
    index = {one["name"]: at for at, one in enumerate(live["spec"]["predictors"])}
    free = [named for named in _named(pipeline) if target_of(named).predictor not in index]
    there = list(running)
    kept: list[tuple[int, Pipeline, shared.Configs]] = []
    added: list[Json] = []
    for before, after in shared.paired(
        read_predictors(pipeline, live), shared.in_order(shared.parts_of(in_millicores(wanted)))
    ):
        here = next((each for each in there if each[1] == before), None)
        if here is not None and after is not None:
            there.remove(here)
            kept.append((index[target_of(here[0]).predictor], here[0], after))
        elif after is not None:
            added.append(_like(running[0][0], free.pop(0), live, after))
    for at, named, part in sorted(kept, key=lambda each: each[0]):
        change_all(draft, named, live, part)
        path = (*PREDICTORS, at)
        if shares and draft.value((*path, "traffic")) != shared.share_of(part):
            draft.test((*path, "name"), draft.value((*path, "name")))
            draft.set((*path, "traffic"), shared.share_of(part))
    for predictor in added:
        draft.append(PREDICTORS, predictor)
    for at in sorted((index[target_of(named).predictor] for named, _ in there), reverse=True):
        draft.test((*PREDICTORS, at, "name"), draft.value((*PREDICTORS, at, "name")))
        draft.set((*PREDICTORS, at), None)
    return draft


def _like(model: Pipeline, named: Pipeline, live: Json, part: shared.Configs) -> Json:
    """A predictor that runs the part, and is else as that of `model` but for its explainer: one is enough."""
    name = target_of(named).predictor
    (one,) = (each for each in live["spec"]["predictors"] if each["name"] == target_of(model).predictor)
    copy = {key: value for key, value in one.items() if key != "explainer"}
    copy |= {"name": name, "traffic": shared.share_of(part)}
    copy["svcOrchSpec"] = {**ONE_ORCHESTRATOR, **(copy.get("svcOrchSpec") or {})}
    draft = Draft({**live, "spec": {**live["spec"], "predictors": [copy]}})
    change_all(draft, named, draft.object, part)
    found: Json = draft.object["spec"]["predictors"][0]
    return found


def _named(pipeline: Pipeline) -> list[Pipeline]:
    """The pipeline once for each predictor it may have."""
    target = target_of(pipeline)
    names = [target.predictor, *(f"{target.predictor}-{number}" for number in range(2, MOST + 1))]
    return [with_seldon(pipeline, predictor=name) for name in names]


def _check(pipeline: Pipeline, configs: Sequence[StageConfig]) -> None:
    count, faults = len(shared.parts_of(configs)), list(shared.share_faults(configs))
    if not 1 <= count <= MOST:
        faults.insert(0, f"a set has 1 to {MOST} parts, not {count}")
    if count > 1 and is_split(pipeline):
        faults.append("shape split cannot divide the traffic between parts; use shape single")
    if faults:
        problems = [Problem(fault) for fault in faults]
        raise InputError(f"pipeline {pipeline.name!r} cannot run these parts", problems=problems)


def change_all(draft: Draft, pipeline: Pipeline, live: Json, wanted: Sequence[StageConfig]) -> None:
    """Add the operations that change the pipeline's predictor in the live object to the wanted configs."""
    variants.check_variants(pipeline)
    running = read(pipeline, live)
    check_configs(pipeline, wanted, running)
    for place, now, then in zip(locate(pipeline, live), running, in_millicores(wanted), strict=True):
        _change_stage(draft, pipeline, place, now, then)


def _change_stage(
    draft: Draft, pipeline: Pipeline, place: StageLocation, now: StageConfig, then: StageConfig
) -> None:
    name = container_name(place.stage)
    if place.stage.is_external:
        then = replace(then, replicas=now.replicas)
    if now == then:
        return
    draft.test((*place.container_path, "name"), name)
    if then.replicas != now.replicas:
        draft.set((*place.component_path, "replicas"), then.replicas)
    if then.cores != now.cores:
        _set_resource(draft, place, "cpu", cpu_quantity(then.cores))
    if then.batch_size != now.batch_size:
        _set_env(draft, place, variants.BATCH_SIZE, str(then.batch_size))
        _set_env(draft, place, variants.BATCH_TIME, batch_time(place.stage))
    if then.variant != now.variant:
        _change_variant(draft, pipeline, place, then)


def _change_variant(draft: Draft, pipeline: Pipeline, place: StageLocation, then: StageConfig) -> None:
    wanted = variants.requested(pipeline, place.stage, then.variant)
    for resource, amount in wanted.items():
        _set_resource(draft, place, resource, amount)
    for kind in sorted(variants.accelerator_kinds(pipeline, place.stage) - wanted.keys()):
        _set_resource(draft, place, kind, None)
    found = variants.leaves(place.stage, then.variant)
    if any(leaf.kind == "node" for leaf in found):
        draft.test((*place.node_path, "name"), container_name(place.stage))
    for leaf in found:
        if leaf.kind != "env":
            base = place.container_path if leaf.kind == "container" else place.node_path
            draft.set((*base, leaf.name), leaf.value)
        elif leaf.value is not None:
            _set_env(draft, place, leaf.name, leaf.value)
    # Last, since removing an entry moves those behind it.
    _remove_env(draft, place, {leaf.name for leaf in found if leaf.kind == "env" and leaf.value is None})


def _set_resource(draft: Draft, place: StageLocation, resource: str, amount: str | None) -> None:
    for kind in ("requests", "limits"):
        draft.set((*place.container_path, "resources", kind, resource), amount)


def _set_env(draft: Draft, place: StageLocation, name: str, value: str) -> None:
    """Set or add an entry; one that is there is tested by name, since its index is not ours to keep."""
    path = (*place.container_path, "env")
    entries = draft.value(path) or []
    at = [index for index, entry in enumerate(entries) if entry.get("name") == name]
    if at:
        draft.test((*path, at[-1], "name"), name)
        draft.set((*path, at[-1], "value"), value)
    elif entries:
        draft.append(path, {"name": name, "value": value})
    else:
        draft.set(path, [{"name": name, "value": value}])


def _remove_env(draft: Draft, place: StageLocation, names: set[str]) -> None:
    path = (*place.container_path, "env")
    at = [index for index, entry in enumerate(draft.value(path) or ()) if entry.get("name") in names]
    for index in at:
        draft.test((*path, index, "name"), draft.value((*path, index, "name")))
    for index in reversed(at):
        draft.set((*path, index), None)
