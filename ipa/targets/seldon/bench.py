"""Measures stages on Seldon, on copies of running ones (`ipa profile --at`).

A copy has a name, a Service and replicas of its own, so it never gets a request of the pipeline's. It is
labelled with the pipeline, so that the next run removes what a killed one left.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from typing import Any
from uuid import uuid4

import httpx

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import parse_quantity
from ipa.adapters.kube.transport import Json
from ipa.control.loop.scheduler import SystemClock
from ipa.control.ports import Clock, RolloutPhase
from ipa.model.errors import ConflictError, InputError, IpaError, UnavailableError
from ipa.model.masking import mask_url
from ipa.model.pipeline import Pipeline, Stage, StageKind
from ipa.model.plan import StageConfig, in_millicores
from ipa.model.resources import Resources
from ipa.targets.kubernetes.layout import at
from ipa.targets.kubernetes.rollout import DeploymentState, judge
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.requests import TIMEOUT_S, MeasuredServer, client_within
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

LABEL_COPY_OF = "ipa-serving/profile-of"
# What a copy has no use for: another number of replicas, explanations, and labels by which others find pods.
NOT_COPIED = frozenset({"explainer", "replicas", "traffic", "shadow", "labels"})
# Stages of these kinds are asked in other ways than with items.
UNMEASURED = (StageKind.ROUTER, StageKind.COMBINER)
# A pod that pulls a large image and loads a model; and for the pods of the copy before to be gone.
READY_S, GONE_S = 300.0, 90.0
POLL_S = 1.0
# Removals of a copy before its owner is told to do it.
REMOVALS = 3
# The port of Seldon's orchestrator.
ENGINE_PORT, ENGINE_PATH = 8000, "/v2/models/infer"
GIB = 2**30


class ClusterBench:
    """Runs copies of the stages of a pipeline on its cluster, one replica at a time.

    Each copy is removed when its block ends, however it ends. One that a killed run left is removed before
    the first measurement of the next.
    """

    def __init__(
        self, client: KubeClient, pipeline: Pipeline, reach: str, *, clock: Clock | None = None
    ) -> None:
        # The URL of a Service, with {service}, {namespace} and {port}.
        self._client, self._pipeline, self._reach = client, pipeline, reach
        self._clock = clock or SystemClock()
        self._namespace = target_of(pipeline).namespace
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
        return (
            f"One replica in a copy of SeldonDeployment {self._namespace}/{target_of(self._pipeline).name}, "
            f"asked by {way} at its Service. One client sends batches back to back over HTTP, JSON coding "
            f"included; latency is the p99 of a batch, throughput the batch size over the mean. What else "
            f"ran on the node was not seen. {'; '.join(self._facts)}."
        )

    @contextmanager
    def serve(
        self, stage: str, variant: str, cores: float, within_s: float = READY_S
    ) -> Iterator[MeasuredServer]:
        """A copy of the stage that is ready, and removed when the block ends.

        A copy that is there before the first one is removed: of two runs at once the later measures.
        ConflictError: there is no room for a copy within bounds. UnavailableError: it does not get ready, or
        does not answer a batch, in time. DriftError, NotFoundError: the pipeline does not run.
        """
        if not self._is_clear:
            found, _ = self._client.list_all(SELDON_DEPLOYMENT, self._namespace)
            for sdep in found:
                if at(sdep, "metadata", "labels", LABEL_COPY_OF) == self._pipeline.name:
                    self._leaving += deployments_of(sdep)
                    self._remove(sdep["metadata"]["name"])
                    log.warning("removed %s, which an earlier run left", sdep["metadata"]["name"])
            self._is_clear = True
        config = in_millicores([StageConfig(stage, variant, 1, cores, 1)])[0]
        owner = self._pipeline
        if is_split(owner):
            parts = {part.stage: part for part in parts_of(owner) if part.role is PartRole.MODEL}
            owner = parts[stage].pipeline
        live = self._client.get(SELDON_DEPLOYMENT, self._namespace, target_of(owner).name)
        # The Deployment of an earlier one may be there for a while: never the same name again.
        copy = as_copy(owner, f"ipa-profile-{uuid4().hex[:10]}", owner.stage(stage))
        body = _copy_body(owner, copy, live, config)
        target, place = target_of(copy), locate(copy, body)[0]
        memory_gib = float(parse_quantity(at(place.container, "resources", "limits", "memory")) or 0) / GIB
        self._check_bounds(body, config, memory_gib)
        # The pods of copies before take room.
        self._wait(
            self._are_gone, GONE_S, lambda: f"{', '.join(self._leaving)} is still there after {GONE_S:g} s"
        )
        started_s = self._clock.monotonic_s()
        until_s = started_s + within_s
        self._leaving = [place.deployment]
        try:
            self._client.create(SELDON_DEPLOYMENT, self._namespace, body)
            pod = self._ready_pod(body, place, within_s)
            readiness_s = self._clock.monotonic_s() - started_s
            self._note(config, pod, place)
            port, path = ENGINE_PORT, ENGINE_PATH
            if is_split(self._pipeline):
                port, path = PORT, f"/v2/models/{container_name(self._pipeline.stage(stage))}/infer"
            service = f"{target.name}-{target.predictor}"
            url = self._reach.format(service=service, namespace=self._namespace, port=port)
            with client_within(TIMEOUT_S) as client:
                # Its Service leads to it a moment after its pods are ready; any answer is of a server.
                left_s = until_s - self._clock.monotonic_s()
                self._wait(lambda: _answers(client, url), left_s, lambda: f"{mask_url(url)} gave no answer")
                yield MeasuredServer(client, f"{url}{path}", readiness_s, lambda: memory_gib)
        finally:
            self._remove(target.name)

    def _check_bounds(self, body: Json, config: StageConfig, memory_gib: float) -> None:
        """ConflictError if the copy beside what runs exceeds what the pipeline may have during a change."""
        pipeline, bounds = self._pipeline, self._pipeline.bounds
        has_engine = NO_ENGINE not in (body["spec"]["predictors"][0].get("annotations") or {})
        known = bounds.beside(config)
        more = Resources(
            cpu_cores=config.cores + (target_of(pipeline).orchestrator_cores if has_engine else 0.0),
            memory_gib=max(known.memory_gib, memory_gib),
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

    def _wait(self, is_done: Callable[[], bool], most_s: float, words: Callable[[], str]) -> None:
        """Return once it is done. UnavailableError if it is not in time."""
        until_s = self._clock.monotonic_s() + most_s
        while not is_done():
            if self._clock.monotonic_s() >= until_s:
                raise UnavailableError(words())
            self._clock.wait(POLL_S)

    def _are_gone(self) -> bool:
        """True if the copies before have no Deployment any more."""
        return all(self._client.get_deployment(self._namespace, name) is None for name in self._leaving)

    def _ready_pod(self, body: Json, place: StageLocation, within_s: float) -> Json:
        """The pod of the copy once it, and its orchestrator, are ready. UnavailableError says why not."""
        pods: list[Json] = []
        detail = ""

        def words() -> str:
            return f"the copy {body['metadata']['name']} does not get ready: {detail}"

        def is_ready() -> bool:
            nonlocal detail, pods
            places = [place, *orchestrators(body, [place])]
            states = [
                DeploymentState(it, self._client.get_deployment(self._namespace, it.deployment))
                for it in places
            ]
            labels = at(states[0].deployment, "spec", "selector", "matchLabels")
            pods = self._client.list_pods(self._namespace, labels) if labels else []
            found = judge([replace(states[0], pods=pods), *states[1:]])
            detail = found.detail
            if found.phase is RolloutPhase.FAILED:
                raise UnavailableError(words())
            return found.phase is RolloutPhase.READY and bool(pods)

        self._wait(is_ready, within_s, words)
        return pods[0]

    def _note(self, config: StageConfig, pod: Json, place: StageLocation) -> None:
        """Note down where the copy ran, from which image and with which limits."""
        node = at(pod, "spec", "nodeName")
        self._hardware[f"node {node}" if node else "a node that it does not name"] = None
        statuses = at(pod, "status", "containerStatuses") or ()
        images = (str(it.get("imageID")) for it in statuses if it.get("name") == place.container["name"])
        image = next(images, "").rpartition("@")[2]
        limits = at(place.container, "resources", "limits") or {}
        beside = ", ".join(f"{amount} {kind}" for kind, amount in sorted(limits.items()) if kind != "cpu")
        limited = f"limits as the cores measured{f' and {beside}' if beside else ''}"
        self._facts[f"{config.stage}/{config.variant}: image {image or 'unknown'}, {limited}"] = None

    def _remove(self, name: str) -> None:
        """Remove a copy. UnavailableError says how to, if the cluster does not."""
        for attempt in range(1, REMOVALS + 1):
            try:
                self._client.delete(SELDON_DEPLOYMENT, self._namespace, name)
                return
            except IpaError as error:
                if attempt == REMOVALS:
                    raise UnavailableError(
                        f"the copy {self._namespace}/{name} could not be removed: {error.message}",
                        hint=f"kubectl delete sdep {name} -n {self._namespace}; the next run tries it too.",
                    ) from error
            self._clock.wait(POLL_S)


def _answers(client: httpx.Client, url: str) -> bool:
    """True if something answers there."""
    try:
        client.get(f"{url}/v2/health/ready")
    except httpx.TransportError:
        return False
    return True


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


def _copy_body(owner: Pipeline, copy: Pipeline, live: Json, config: StageConfig) -> dict[str, Any]:
    """The SeldonDeployment that runs one replica of the stage of the live one with that configuration.

    `owner` is the pipeline by which the live one is read, `copy` that of the copy. All else of the stage's
    pods is as its owners have it. DriftError where the live one is none of the pipeline's.
    """
    target = target_of(copy)
    [place] = [each for each in locate(owner, live) if each.stage.name == config.stage]
    before = next(each for each in live["spec"]["predictors"] if each["name"] == target.predictor)
    unwanted = (*AUTOSCALERS, "pdbSpec", "metadata")
    component = deepcopy({key: value for key, value in place.component.items() if key not in unwanted})
    if annotations := at(place.component, "metadata", "annotations"):
        component["metadata"] = {"annotations": dict(annotations)}
    component["replicas"] = 1
    node = {key: value for key, value in place.node.items() if key != "children"}
    predictor = {key: deepcopy(value) for key, value in before.items() if key not in NOT_COPIED}
    predictor |= {"componentSpecs": [component], "graph": node | {"type": StageKind.MODEL.upper()}}
    predictor["svcOrchSpec"] = {**(predictor.get("svcOrchSpec") or {}), **ONE_ORCHESTRATOR}
    spec = {key: deepcopy(value) for key, value in live["spec"].items() if key not in ("replicas", "name")}
    body = object_of(target, {**spec, "predictors": [predictor]}, {LABEL_COPY_OF: copy.name})
    change_predictor(copy, body, [config])
    return body
