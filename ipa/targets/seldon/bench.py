"""Measures stages on Seldon: on copies of a running one (`ipa profile --at`), or at a server's address."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import sha256
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import httpx

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import QUOTA
from ipa.adapters.kube.quantity import parse_quantity
from ipa.adapters.kube.responses import Json
from ipa.control.loop.clock import SystemClock
from ipa.control.ports import Clock, RolloutPhase
from ipa.model.errors import ConflictError, ForbiddenError, IpaError, UnavailableError
from ipa.model.masking import mask_url, without_user
from ipa.model.pipeline import Pipeline, Stage, StageKind
from ipa.model.plan import StageConfig, in_millicores
from ipa.targets.kubernetes.reach import Reach
from ipa.targets.kubernetes.rollout import judge
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.probing import check_url
from ipa.targets.running import MeasuredServer, RunningBench, call_as_is, infer_v2, machine
from ipa.targets.seldon import copies
from ipa.targets.seldon.layouts import layout_of
from ipa.targets.seldon.locate import (
    SELDON_DEPLOYMENT,
    StageLocation,
    container_name,
    deployments_of,
    locate,
    orchestrators,
    target_of,
)
from ipa.targets.seldon.section import WireProtocol
from ipa.targets.seldon.split import PORT, PartRole, is_split, parts_of

log = logging.getLogger("ipa.cli")

# A pod that pulls a large image and loads a model; and for the pods of the copy before to be gone.
READY_S, GONE_S = 300.0, 90.0
# For one batch.
ANSWER_S = 60.0
# A copy is somebody's for so long beyond the time that it has to get ready.
HELD_S = 1800.0
POLL_S = 1.0
# Removals of a copy before its owner is told to do it.
REMOVALS = 3
# The port of Seldon's orchestrator.
ENGINE_PORT = 8000
ENGINE_PATH = "/v2/models/infer"
UNKNOWN_CPU = "a processor that it does not name"


class _NoShellError(UnavailableError):
    """The image has no shell to name the processor with."""


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
        self._numbers = count(1)
        self._is_clear = False
        self._probes_cpu = True
        # The Deployments of copies that were removed, which may still have pods.
        self._leaving: list[str] = []
        self._hardware: dict[str, None] = {}
        self._facts: dict[str, None] = {}

    @property
    def hardware(self) -> str:
        """The processors and nodes that copies ran on."""
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

        ConflictError if another run is measuring the pipeline now.
        """
        namespace, now = target_of(self._pipeline).namespace, self._clock.now()
        found, _ = self._client.list_all(SELDON_DEPLOYMENT, namespace)
        name = self._pipeline.name
        labels = [(each, (each.get("metadata") or {}).get("labels") or {}) for each in found]
        left = [each for each, own in labels if own.get(copies.LABEL_COPY_OF) == name]
        for sdep in left:
            hold = copies.hold_of(sdep, now)
            if not hold.is_over(now):
                copy = sdep["metadata"]["name"]
                raise ConflictError(
                    f"pipeline {name!r} is being measured by {hold.holder} on {copy} ({hold.until:%H:%M})",
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

        ConflictError: there is no room for it within bounds or quotas. UnavailableError: it does not get
        ready, or does not answer a batch, in time. DriftError, NotFoundError: the pipeline does not run.
        """
        if not self._is_clear:
            for left in self.clear():
                log.warning("removed %s, which an earlier run left", left)
        config = in_millicores([StageConfig(stage, variant, 1, cores, 1)])[0]
        with ExitStack() as held:
            try:
                replica = held.enter_context(self._copied(config, within_s))
            except _NoShellError:
                # Its processor stays unknown.
                self._probes_cpu = False
                replica = held.enter_context(self._copied(config, within_s))
            yield replica

    @contextmanager
    def _copied(self, config: StageConfig, within_s: float) -> Iterator[MeasuredServer]:
        """A copy that is ready. _NoShellError: its image cannot say which processor it has."""
        copy, body = self._body(config, within_s)
        target, place = target_of(copy), locate(copy, body)[0]
        self._check_room(body, config)
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
            with way as url, httpx.Client(timeout=ANSWER_S) as client:
                self._wait_for_answer(client, url, until_s)
                memory_gib = _memory_gib(place.container)
                call = partial(infer_v2, url=f"{url}{path}")
                yield MeasuredServer(client, call, readiness_s, lambda: memory_gib)
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
        hold = copies.this_run(self._clock.now(), within_s + HELD_S)
        # The Deployment of an earlier one may be there for a while: never the same name again.
        digest = sha256(f"{pipeline.name}/{hold}/{next(self._numbers)}/{id(self)}".encode()).hexdigest()[:10]
        copy = copies.as_copy(owner, f"ipa-profile-{digest}", owner.stage(stage.name))
        return copy, copies.copy_body(owner, copy, live, config, hold, probes_cpu=self._probes_cpu)

    def _check_room(self, body: Json, config: StageConfig) -> None:
        """ConflictError if bounds of the pipeline or quotas of the namespace leave no room for the copy."""
        more = copies.needed(self._pipeline, body, config)
        running = tuple(it.config for it in KubeWorkload(self._client, layout_of).read(self._pipeline).stages)
        copies.check_bounds(self._pipeline, running, more)
        try:
            quotas, _ = self._client.list_all(QUOTA, target_of(self._pipeline).namespace)
        except ForbiddenError:
            # Its pod is then refused, with the quota's words.
            return
        copies.check_quota(quotas, more)

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
        name = body["metadata"]["name"]
        while True:
            deployment = self._client.get_deployment(namespace, place.deployment)
            labels = (((deployment or {}).get("spec") or {}).get("selector") or {}).get("matchLabels")
            pods = self._client.list_pods(namespace, labels) if labels else []
            beside = orchestrators(body, [place])
            found = judge(
                [place, *beside],
                {place.deployment: deployment}
                | {
                    each.deployment: self._client.get_deployment(namespace, each.deployment)
                    for each in beside
                },
                {place.deployment: pods},
            )
            waits = found.detail
            if found.phase is RolloutPhase.READY and pods:
                return pods[0]
            if copies.CPU_PROBE in waits and found.phase is RolloutPhase.FAILED:
                raise _NoShellError(waits)
            if found.phase is RolloutPhase.FAILED or self._clock.monotonic_s() >= until_s:
                raise UnavailableError(f"the copy {name} does not get ready: {waits}")
            self._clock.wait(POLL_S)

    def _wait_for_answer(self, client: httpx.Client, url: str, until_s: float) -> None:
        """Return once its Service leads to it: that takes a moment after its pods are ready."""
        while True:
            try:
                client.get(f"{url}/v2/health/ready")
            except httpx.TransportError as error:
                if self._clock.monotonic_s() >= until_s:
                    raise UnavailableError(
                        f"{mask_url(url)} gave no answer: {type(error).__name__}"
                    ) from error
            else:
                # Any answer is of a server that is there.
                return
            self._clock.wait(POLL_S)

    def _note(self, config: StageConfig, pod: Json, place: StageLocation) -> None:
        """Note down where the copy ran, from which image and with which limits."""
        status, name = pod.get("status") or {}, place.container["name"]
        cpu = _last_words(status.get("initContainerStatuses"), copies.CPU_PROBE) or UNKNOWN_CPU
        node = (pod.get("spec") or {}).get("nodeName")
        self._hardware[f"{cpu}, node {node}" if node else cpu] = None
        image = _field(status.get("containerStatuses"), name, "imageID").rpartition("@")[2]
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
            except IpaError as error:
                if attempt == REMOVALS:
                    raise UnavailableError(
                        f"the copy {namespace}/{name} could not be removed: {error.message}",
                        hint=f"kubectl delete sdep {name} -n {namespace}; the next run tries it too.",
                    ) from error
                self._clock.wait(POLL_S)
            else:
                return


def _memory_gib(container: Mapping[str, Any]) -> float:
    """The memory that it may have at most; 0 if nothing limits it."""
    amount = parse_quantity(((container.get("resources") or {}).get("limits") or {}).get("memory", 0))
    return float(amount or 0) / copies.GIB


def _field(statuses: Sequence[Json] | None, name: str, key: str) -> str:
    return next((str(each.get(key) or "") for each in statuses or () if each.get("name") == name), "")


def _last_words(statuses: Sequence[Json] | None, name: str) -> str:
    """The last words of the container of that name when it ended."""
    for each in statuses or ():
        if each.get("name") == name:
            ended = (each.get("state") or {}).get("terminated") or {}
            return " ".join(str(ended.get("message") or "").split())
    return ""


# The path of a call in Seldon's own protocol, by the type of the graph node.
PATHS = {
    StageKind.MODEL: "/predict",
    StageKind.TRANSFORMER: "/transform-input",
    StageKind.OUTPUT_TRANSFORMER: "/transform-output",
    StageKind.ROUTER: "/route",
    StageKind.COMBINER: "/aggregate",
}
# The last part of it in V2, where it is not "infer".
V2_CALLS = {StageKind.ROUTER: "route", StageKind.COMBINER: "aggregate"}
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def running_bench(pipeline: Pipeline, stage: Stage, address: str) -> RunningBench:
    """The bench of the stage's server at that base URL.

    The items of a workload are V2 inputs where the stage takes those; else each is the JSON body of a call,
    and its answer is given to `accuracy` as it is.
    """
    url = check_url(address)
    path = PATHS[stage.kind]
    if target_of(pipeline).protocol is WireProtocol.V2:
        path = f"/v2/models/{container_name(stage)}/{V2_CALLS.get(stage.kind, 'infer')}"
    call = infer_v2 if path.endswith("/infer") else call_as_is
    hardware = machine() if url.hostname in LOOPBACK else f"that of {urlsplit(without_user(address)).netloc}"
    return RunningBench(hardware, partial(call, url=f"{address.rstrip('/')}{path}"))
