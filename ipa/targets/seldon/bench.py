"""Measures stages on Seldon, on copies of running ones (`ipa profile --at`).

A copy has a name, a Service and replicas of its own, so it never gets a request of the pipeline's. It is
labelled with the pipeline and says until when it is held, so that what a killed run left can be told apart
from what another one measures.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import httpx

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.quantity import parse_quantity
from ipa.adapters.kube.transport import Json
from ipa.control.loop.clock import SystemClock
from ipa.control.ports import Clock, RolloutPhase
from ipa.model.errors import ConflictError, InputError, IpaError, UnavailableError
from ipa.model.masking import mask_url
from ipa.model.pipeline import Pipeline, Stage, StageKind
from ipa.model.plan import StageConfig, in_millicores
from ipa.model.resources import Resources
from ipa.targets.kubernetes.layout import Served
from ipa.targets.kubernetes.reach import Reach
from ipa.targets.kubernetes.rollout import judge
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.requests import (
    TIMEOUT_S,
    MeasuredServer,
    client_within,
)
from ipa.targets.seldon.layouts import PORT, PartRole, alone, is_split, layout_of, parts_of
from ipa.targets.seldon.locate import (
    AUTOSCALERS,
    NO_ENGINE,
    SELDON_DEPLOYMENT,
    StageLocation,
    container_name,
    deployments_of,
    locate,
    object_of,
    orchestrators,
    target_of,
)
from ipa.targets.seldon.manifest import ONE_ORCHESTRATOR, change_predictor
from ipa.targets.seldon.section import WireProtocol, seldon_of
from ipa.targets.seldon.variants import MODELS

log = logging.getLogger("ipa.cli")

LABEL_COPY_OF, UNTIL = "ipa-serving/profile-of", "ipa-serving/profile-until"
# What a copy has no use for: another number of replicas, explanations, and labels by which others find pods.
NOT_COPIED = frozenset({"explainer", "replicas", "traffic", "shadow", "labels"})
# Stages of these kinds are asked in other ways than with items.
UNMEASURED = (StageKind.ROUTER, StageKind.COMBINER)
# A pod that pulls a large image and loads a model; and for the pods of the copy before to be gone.
READY_S, GONE_S = 300.0, 90.0
# A copy is somebody's for so long beyond the time that it has to get ready.
HELD_S = 1800.0
POLL_S = 1.0
# Removals of a copy before its owner is told to do it.
REMOVALS = 3
# The port of Seldon's orchestrator.
ENGINE_PORT, ENGINE_PATH = 8000, "/v2/models/infer"
GIB = 2**30


class ClusterBench:
    """Runs copies of the stages of a pipeline on its cluster, one replica at a time.

    Each copy is removed when its block ends, however it ends. One that a killed run left is removed before
    the first measurement of the next (`clear`).
    """

    def __init__(
        self, client: KubeClient, pipeline: Pipeline, reach: Reach, *, clock: Clock | None = None
    ) -> None:
        self._client, self._pipeline, self._reach = client, pipeline, reach
        self._clock = clock or SystemClock()
        self._is_clear = False
        # The Deployments of copies that were removed, which may still have pods.
        self._leaving: list[str] = []
        self._hardware: dict[str, None] = {}
        self._facts: dict[str, None] = {}

    @property
    def hardware(self) -> str:
        """The nodes that copies ran on."""
        return "; ".join(self._hardware) or "unknown"

    @property
    def method(self) -> str:
        """The way of a request, and the image and the limits of each variant."""
        way = "the queue's way to a model" if is_split(self._pipeline) else "Seldon's orchestrator"
        target = target_of(self._pipeline)
        return (
            f"One replica in a copy of SeldonDeployment {target.namespace}/{target.name}, asked by {way} "
            f"{self._reach.words}. One client sends batches back to back over HTTP, JSON coding included; "
            f"latency is the p99 of a batch, throughput the batch size over the mean. What else ran on the "
            f"node was not seen. {'; '.join(self._facts)}."
        )

    def clear(self) -> list[str]:
        """Remove the copies of the pipeline that runs before left, and return their names.

        ConflictError if another run may be measuring the pipeline now.
        """
        namespace, now = target_of(self._pipeline).namespace, self._clock.now()
        found, _ = self._client.list_all(SELDON_DEPLOYMENT, namespace)
        name = self._pipeline.name
        left = [each for each in found if (each["metadata"].get("labels") or {}).get(LABEL_COPY_OF) == name]
        for sdep in left:
            until = _held_until(sdep)
            if until is not None and now < until:
                copy = sdep["metadata"]["name"]
                raise ConflictError(
                    f"pipeline {name!r} is being measured on {copy} (until {until:%H:%M})",
                    hint=f"Wait for it, or remove it: kubectl delete sdep {copy} -n {namespace}",
                )
        for sdep in left:
            self._leaving += deployments_of(sdep)
            self._remove(sdep["metadata"]["name"])
        self._is_clear = True
        return [sdep["metadata"]["name"] for sdep in left]

    @contextmanager
    def serve(
        self, stage: str, variant: str, cores: float, within_s: float = READY_S
    ) -> Iterator[MeasuredServer]:
        """A copy of the stage that is ready, and removed when the block ends.

        ConflictError: there is no room for it within bounds. UnavailableError: it does not get ready, or does
        not answer a batch, in time. DriftError, NotFoundError: the pipeline does not run.
        """
        if not self._is_clear:
            for left in self.clear():
                log.warning("removed %s, which an earlier run left", left)
        config = in_millicores([StageConfig(stage, variant, 1, cores, 1)])[0]
        copy, body = self._body(config, within_s)
        target, place = target_of(copy), locate(copy, body)[0]
        self._check_bounds(body, config)
        self._wait_until_gone(target.namespace)
        started_s = self._clock.monotonic_s()
        until_s = started_s + within_s
        self._leaving.append(place.deployment)
        try:
            self._client.create(SELDON_DEPLOYMENT, target.namespace, body)
            pod = self._ready_pod(target.namespace, body, place, until_s)
            readiness_s = self._clock.monotonic_s() - started_s
            self._note(config, pod, place)
            port, path = ENGINE_PORT, ENGINE_PATH
            if is_split(self._pipeline):
                model = container_name(self._pipeline.stage(config.stage))
                port, path = PORT, f"/v2/models/{model}/infer"
            way = self._reach.url(f"{target.name}-{target.predictor}", target.namespace, port)
            with way as url, client_within(TIMEOUT_S) as client:
                self._wait_for_answer(client, url, until_s)
                memory_gib = _memory_gib(place.container)
                yield MeasuredServer(client, f"{url}{path}", readiness_s, lambda: memory_gib)
        finally:
            self._remove(target.name)

    def _body(self, config: StageConfig, within_s: float) -> tuple[Pipeline, Json]:
        """The copy as a pipeline, and its SeldonDeployment."""
        pipeline, stage = self._pipeline, self._pipeline.stage(config.stage)
        owner = pipeline
        if is_split(pipeline):
            models = {part.stage: part for part in parts_of(pipeline) if part.role is PartRole.MODEL}
            owner = models[stage.name].pipeline
        target = target_of(owner)
        live = self._client.get(SELDON_DEPLOYMENT, target.namespace, target.name)
        # The Deployment of an earlier one may be there for a while: never the same name again.
        copy = as_copy(owner, f"ipa-profile-{uuid4().hex[:10]}", owner.stage(stage.name))
        until = self._clock.now() + timedelta(seconds=within_s + HELD_S)
        return copy, copy_body(owner, copy, live, config, until)

    def _check_bounds(self, body: Json, config: StageConfig) -> None:
        """ConflictError if the copy beside what runs exceeds what the pipeline may have during a change."""
        pipeline, bounds = self._pipeline, self._pipeline.bounds
        predictor = body["spec"]["predictors"][0]
        has_engine = NO_ENGINE not in (predictor.get("annotations") or {})
        known = bounds.beside(config)
        more = Resources(
            cpu_cores=config.cores + (target_of(pipeline).orchestrator_cores if has_engine else 0.0),
            memory_gib=max(
                known.memory_gib, _memory_gib(predictor["componentSpecs"][0]["spec"]["containers"][0])
            ),
            accelerators=known.accelerators,
        )
        running = tuple(it.config for it in KubeWorkload(self._client, layout_of).read(pipeline).stages)
        faults = (bounds.held(running) + more).exceeded(bounds.change_limits)
        if faults:
            raise ConflictError(
                f"no room to measure pipeline {pipeline.name!r}: with a copy of one replica "
                f"{'; '.join(faults)}",
                hint="Raise `bounds.transition_cores` or that bound in its file, or measure fewer --cores.",
            )

    def _wait_until_gone(self, namespace: str) -> None:
        """Return once the copies before have no Deployment any more: their pods take room."""
        until_s = self._clock.monotonic_s() + GONE_S
        while self._leaving:
            name = self._leaving[0]
            if self._client.get_deployment(namespace, name) is None:
                self._leaving.pop(0)
            elif self._clock.monotonic_s() < until_s:
                self._clock.wait(POLL_S)
            else:
                raise UnavailableError(f"Deployment {namespace}/{name} is still there after {GONE_S:g} s")

    def _ready_pod(self, namespace: str, body: Json, place: StageLocation, until_s: float) -> Json:
        """The pod of the copy once it, and its orchestrator, are ready. UnavailableError says why not."""
        served: list[Served] = [place, *orchestrators(body, [place])]
        while True:
            deployments = {
                it.deployment: self._client.get_deployment(namespace, it.deployment) for it in served
            }
            deployment = deployments[place.deployment]
            labels = (((deployment or {}).get("spec") or {}).get("selector") or {}).get("matchLabels")
            pods = self._client.list_pods(namespace, labels) if labels else []
            found = judge(served, deployments, {place.deployment: pods})
            if found.phase is RolloutPhase.READY and pods:
                return pods[0]
            if found.phase is RolloutPhase.FAILED or self._clock.monotonic_s() >= until_s:
                raise UnavailableError(
                    f"the copy {body['metadata']['name']} does not get ready: {found.detail}"
                )
            self._clock.wait(POLL_S)

    def _wait_for_answer(self, client: httpx.Client, url: str, until_s: float) -> None:
        """Return once its Service leads to it: that takes a moment after its pods are ready."""
        while True:
            try:
                # Any answer is of a server that is there.
                client.get(f"{url}/v2/health/ready")
                return
            except httpx.TransportError as error:
                if self._clock.monotonic_s() >= until_s:
                    raise UnavailableError(
                        f"{mask_url(url)} gave no answer: {type(error).__name__}"
                    ) from error
            self._clock.wait(POLL_S)

    def _note(self, config: StageConfig, pod: Json, place: StageLocation) -> None:
        """Note down where the copy ran, from which image and with which limits."""
        node = (pod.get("spec") or {}).get("nodeName")
        self._hardware[f"node {node}" if node else "a node that it does not name"] = None
        statuses = (pod.get("status") or {}).get("containerStatuses") or ()
        images = (str(it.get("imageID")) for it in statuses if it.get("name") == place.container["name"])
        image = next(images, "").rpartition("@")[2]
        limits = (place.container.get("resources") or {}).get("limits") or {}
        beside = ", ".join(f"{amount} {kind}" for kind, amount in sorted(limits.items()) if kind != "cpu")
        limited = f"limits as the cores measured{f' and {beside}' if beside else ''}"
        self._facts[f"{config.stage}/{config.variant}: image {image or 'unknown'}, {limited}"] = None

    def _remove(self, name: str) -> None:
        """Remove a copy. UnavailableError says how to, if the cluster does not."""
        namespace = target_of(self._pipeline).namespace
        for attempt in range(1, REMOVALS + 1):
            try:
                self._client.delete(SELDON_DEPLOYMENT, namespace, name)
                return
            except IpaError as error:
                if attempt == REMOVALS:
                    raise UnavailableError(
                        f"the copy {namespace}/{name} could not be removed: {error.message}",
                        hint=f"kubectl delete sdep {name} -n {namespace}; the next run tries it too.",
                    ) from error
            self._clock.wait(POLL_S)


def _held_until(sdep: Json) -> datetime | None:
    """The end of the copy's hold by its annotation; None where it says none."""
    try:
        until = datetime.fromisoformat(str((sdep["metadata"].get("annotations") or {}).get(UNTIL)))
    except ValueError:
        return None
    return until if until.tzinfo else None


def _memory_gib(container: Mapping[str, Any]) -> float:
    """The memory that it may have at most; 0 if nothing limits it."""
    amount = parse_quantity(((container.get("resources") or {}).get("limits") or {}).get("memory", 0))
    return float(amount or 0) / GIB


def as_copy(pipeline: Pipeline, name: str, stage: Stage) -> Pipeline:
    """The stage as a pipeline of its own in a copy of that name. InputError if it cannot be measured so."""
    if stage.kind in UNMEASURED:
        raise InputError(
            f"stage {stage.name!r} is a {stage.kind.value}, which cannot be measured alone: it takes no items"
        )
    if target_of(pipeline).protocol is not WireProtocol.V2:
        raise InputError(
            f"pipeline {pipeline.name!r} does not speak V2, which copies are asked by",
            hint="Write its profiles from a measurement of your own: docs/reference/files.md has their keys.",
        )
    if any(MODELS in run.env for variant in stage.variants if (run := seldon_of(variant)) is not None):
        raise InputError(
            f"stage {stage.name!r} keeps several variants in a replica, of which no copy with one is made",
            hint="Measure it on this machine, without --at.",
        )
    return alone(pipeline, name, stage)


def copy_body(
    owner: Pipeline, copy: Pipeline, live: Json, config: StageConfig, until: datetime
) -> dict[str, Any]:
    """The SeldonDeployment that runs one replica of the stage of the live one with that configuration.

    `owner` is the pipeline by which the live one is read, `copy` that of the copy. All else of the stage's
    pods is as its owners have it. DriftError where the live one is none of the pipeline's.
    """
    target = target_of(copy)
    [place] = [each for each in locate(owner, live) if each.stage.name == config.stage]
    before = next(each for each in live["spec"]["predictors"] if each["name"] == target.predictor)
    unwanted = (*AUTOSCALERS, "pdbSpec", "metadata")
    component = deepcopy({key: value for key, value in place.component.items() if key not in unwanted})
    annotations = (place.component.get("metadata") or {}).get("annotations")
    if annotations:
        component["metadata"] = {"annotations": dict(annotations)}
    component["replicas"] = 1
    node = {key: value for key, value in place.node.items() if key != "children"}
    predictor = {key: deepcopy(value) for key, value in before.items() if key not in NOT_COPIED}
    predictor |= {"componentSpecs": [component], "graph": node | {"type": StageKind.MODEL.upper()}}
    predictor["svcOrchSpec"] = {**(predictor.get("svcOrchSpec") or {}), **ONE_ORCHESTRATOR}
    spec = {key: deepcopy(value) for key, value in live["spec"].items() if key not in ("replicas", "name")}
    body = object_of(target, {**spec, "predictors": [predictor]}, {LABEL_COPY_OF: copy.name})
    body["metadata"]["annotations"] = {UNTIL: until.isoformat()}
    change_predictor(copy, body, [config])
    return body
