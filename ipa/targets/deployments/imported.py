"""A pipeline read from Deployments: of ours the router tells the stages, of stock ones the request does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import ipa
from ipa.adapters.kube.kinds import DEPLOYMENT, parse_quantity
from ipa.adapters.kube.transport import Json
from ipa.model.errors import DriftError, InputError, NotFoundError, Problem, UsageError
from ipa.model.pipeline import Objective, Pipeline, Stage, Variant, chain
from ipa.settings import Settings
from ipa.targets.base import Imported, ImportRequest
from ipa.targets.deployments.layout import DeploymentsLayout
from ipa.targets.deployments.section import KEY, DeploymentsTarget
from ipa.targets.kubernetes.containers import (
    BATCH_TIME,
    RESOURCES,
    env_entry,
)
from ipa.targets.kubernetes.imported import objects_of, run_of, variant_name
from ipa.targets.kubernetes.layout import at
from ipa.targets.kubernetes.split import LABEL_PIPELINE, LABEL_ROLE, LABEL_STAGE, PartRole
from ipa.targets.scale.imported import import_pipeline as imported_stock

STOCK = "Those of another origin do not say which calls which: name them in their order."
BESIDE = (
    "commands, volumes and probes of their containers are not in the file: add them to what `ipa render` "
    "prints, whose servers listen on port 9000, as MLSERVER_HTTP_PORT tells them"
)


def import_pipeline(settings: Settings, request: ImportRequest) -> Imported:
    """The pipeline of the requested name among Deployments that `ipa render` made, or the only one.

    If there is none of that name: the chain of the named stock Deployments.
    Errors: NotFoundError, UsageError (there are several), InputError, those of the client.
    """
    by_pipeline: dict[str, list[Json]] = {}
    for each in objects_of(settings, request, DEPLOYMENT, None):
        labels = at(each, "metadata", "labels") or {}
        if LABEL_ROLE in labels and request.workloads in ((), (labels.get(LABEL_PIPELINE),)):
            by_pipeline.setdefault(str(labels.get(LABEL_PIPELINE)), []).append(each)
    if not by_pipeline and request.workloads:
        return _imported_stock(settings, request)
    if not by_pipeline:
        place = request.file or f"namespace {request.namespace or 'default'}"
        raise NotFoundError(f"{place} has no Deployments with the label {LABEL_ROLE}", hint=STOCK)
    if len(by_pipeline) > 1:
        raise UsageError("there are several pipelines", hint=f"Name one of: {', '.join(sorted(by_pipeline))}")
    ((name, objects),) = by_pipeline.items()
    try:
        return _imported(name, objects, request)
    except (KeyError, TypeError, AttributeError, ValueError, StopIteration) as error:
        raise InputError(
            f"the Deployments of pipeline {name!r} are incomplete: {type(error).__name__} {error}",
            hint="It has a router, and a queue and a model for each stage, as `ipa render` makes them.",
        ) from error


def _imported(name: str, objects: Sequence[Json], request: ImportRequest) -> Imported:
    parts = {_place(each): each for each in objects}
    router = parts[PartRole.ROUTER, ""]
    metadata, container = router["metadata"], _containers(router)[0]
    env, notes = _env(container), list[str]()
    names = [each.partition("=")[0] for each in env["IPA_STAGES"].split()]
    queues = {stage: _containers(parts[PartRole.QUEUE, stage])[0] for stage in names}
    stages = [_stage(stage, parts[PartRole.MODEL, stage], queues[stage], notes) for stage in names]
    target = DeploymentsTarget(
        metadata["name"].removesuffix(f"-{PartRole.ROUTER}"),
        container["image"],
        metadata.get("namespace") or "default",
        _cores(container),
        _cores(queues[names[0]]),
    )
    drop_after_s = float(env["IPA_DROP_AFTER_S"])
    pipeline = Pipeline(
        request.pipeline or name,
        chain(stages),
        request.sla,
        {"default": Objective()},
        drop_after_s=None if drop_after_s == request.sla.latency_s else drop_after_s,
        targets={KEY: target},
        description=f"As the Deployments of {target.namespace}/{target.name} run it.",
    )
    notes.append("each item is taken to become one for the stage after it (fan_out)")
    try:
        by_name = {each["metadata"]["name"]: each for each in objects}
        configs = DeploymentsLayout(pipeline).observe(by_name).configs
    except (DriftError, InputError) as error:
        # All that keeps plans from being written, in the words of the write.
        notes += [f"blocks writing: {problem}" for problem in error.problems or [Problem(error.message)]]
        configs = ()
    return Imported(pipeline, configs, tuple(notes))


def _imported_stock(settings: Settings, request: ImportRequest) -> Imported:
    """The chain of stock Deployments, beside which the objects of the target are to run."""
    chain_read = imported_stock(settings, request, KEY)
    pipeline, namespace = chain_read.pipeline, chain_read.pipeline.namespace
    image = f"ipa-serving/dataplane:{ipa.__version__}"
    target = DeploymentsTarget(pipeline.name, image, namespace)
    notes = f"router and queues run {image}: set `{KEY}: {{image}}` to that of your registry", BESIDE
    return Imported(
        replace(pipeline, targets={**pipeline.targets, KEY: target}),
        chain_read.configs,
        (*chain_read.notes, *notes),
    )


def _stage(name: str, model: Json, queue: Json, notes: list[str]) -> Stage:
    """The stage with its running container as its only variant. KeyError if the model's is not there."""
    own = _env(queue)["IPA_MODEL"]
    container = next(each for each in _containers(model) if each["name"] == own)
    run = run_of(container, name, notes)
    batch_timeout_s = float((env_entry(queue, BATCH_TIME) or {})["value"])
    variants = (Variant(variant_name(run), {KEY: run}),)
    return Stage(name, variants, container=own, batch_timeout_s=batch_timeout_s)


def _place(deployment: Json) -> tuple[str, str]:
    """The role of the Deployment, and its stage."""
    labels: Mapping[str, str] = deployment["metadata"]["labels"]
    return labels[LABEL_ROLE], labels.get(LABEL_STAGE, "")


def _containers(deployment: Json) -> list[Json]:
    containers: list[Json] = deployment["spec"]["template"]["spec"]["containers"]
    return containers


def _env(container: Json) -> dict[str, str]:
    return {entry["name"]: str(entry.get("value", "")) for entry in container.get("env") or ()}


def _cores(container: Json) -> float:
    return float(parse_quantity(at(container, RESOURCES, "requests", "cpu")) or 0)
