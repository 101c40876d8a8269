"""Seldon's view of a variant: image, env, model URI and implementation; and the variant that runs.

A field of a container or graph node is ours if any variant of the stage names it. Everything else belongs
to other people and is neither compared nor written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ipa.adapters.kube.quantity import quantity_of
from ipa.model.errors import InputError, Problem
from ipa.model.pipeline import Pipeline, Stage
from ipa.model.resources import DIMENSIONS, beside_cores, resource_of
from ipa.targets.seldon.section import SeldonRun, seldon_of

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

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Leaf:
    """One field of a variant: where it is and what it is there. `value` None: the field is not there.

    One that is not `compared` is written with the others, and does not tell which variant runs.
    """

    kind: str
    name: str
    value: str | None
    compared: bool = True

    def __str__(self) -> str:
        return f"env {self.name}" if self.kind == "env" else self.name


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


def leaves(stage: Stage, variant: str) -> tuple[Leaf, ...]:
    """The fields of the stage's container and node that are ours, with the variant's values."""
    run, runs = seldon_run(stage, variant), _runs(stage)
    found = []
    if any(other.image is not None for other in runs):
        found.append(Leaf("container", "image", run.image))
    if any(server_of(other) is not None for other in runs):
        found.append(Leaf("node", "implementation", server_of(run)))
    if any(other.model_uri is not None for other in runs):
        found.append(Leaf("node", "modelUri", run.model_uri))
    found.extend(Leaf("env", name, env_of(run).get(name)) for name in sorted(env_names(runs)))
    found.extend(Leaf("env", name, value, compared=False) for name, value in sorted(run.told.items()))
    return tuple(found)


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


def live_value(leaf: Leaf, container: Json, node: Json) -> object:
    """The leaf's running value, or None."""
    if leaf.kind == "env":
        entry = env_entry(container, leaf.name)
        if entry is None:
            return None
        return "a value from elsewhere (valueFrom)" if "valueFrom" in entry else entry.get("value", "")
    return (container if leaf.kind == "container" else node).get(leaf.name)


def recognise(stage: Stage, container: Json, node: Json) -> tuple[str | None, str]:
    """The variant that runs, or None and in words how the nearest one differs from what runs."""
    nearest: tuple[int, str] | None = None
    for variant in stage.variants:
        if seldon_of(variant) is None:
            continue
        differing = [
            f"{leaf} is {_shown(live_value(leaf, container, node))}, not {_shown(leaf.value)}"
            for leaf in leaves(stage, variant.name)
            if leaf.compared and live_value(leaf, container, node) != leaf.value
        ]
        if not differing:
            return variant.name, ""
        if nearest is None or len(differing) < nearest[0]:
            nearest = (len(differing), f"nearest is {variant.name!r}: {'; '.join(differing)}")
    return None, nearest[1] if nearest else "none of its variants has a `seldon:` section"


def _shown(value: object) -> str:
    return "absent" if value is None else repr(value)


def check_variants(pipeline: Pipeline) -> None:
    """InputError lists variants that cannot be told apart on Seldon, or that set env that is not theirs."""
    problems = [Problem(message) for stage in pipeline.stages for message in _faults(stage)]
    if problems:
        raise InputError(f"pipeline {pipeline.name!r} cannot run on Seldon as written", problems=problems)


def _faults(stage: Stage) -> Iterator[str]:
    seen: dict[tuple[Leaf, ...], str] = {}
    for variant in stage.variants:
        run = seldon_of(variant)
        if run is None:
            continue
        for name in sorted(run.env):
            if name in OPERATORS_ENV or name in (BATCH_SIZE, BATCH_TIME):
                yield f"stage {stage.name!r}, variant {variant.name!r}: the service sets env {name}"
        look = leaves(stage, variant.name)
        if look in seen:
            yield (
                f"stage {stage.name!r}: variants {seen[look]!r} and {variant.name!r} have the same image, "
                "env and model URI; give one of them a different env, so that they can be distinguished"
            )
        seen[look] = variant.name
