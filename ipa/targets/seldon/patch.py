"""The changes that take one predictor of a SeldonDeployment from what runs to what is wanted.

Only fields that are ours and differ change: replicas alone touch no pod template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ipa.adapters.kube.quantity import cpu_quantity
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig, in_millicores
from ipa.targets.kubernetes.layout import Draft
from ipa.targets.seldon import variants
from ipa.targets.seldon.locate import StageLocation, container_name, locate
from ipa.targets.seldon.manifest import batch_time, check_configs, read


def change_all(draft: Draft, pipeline: Pipeline, live: variants.Json, wanted: Sequence[StageConfig]) -> None:
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
