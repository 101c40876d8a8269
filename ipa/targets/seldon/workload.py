"""The Workload port over a SeldonDeployment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest

from ipa.adapters.kube.client import Json, KubeClient
from ipa.adapters.kube.kinds import AUTOSCALER
from ipa.adapters.kube.preflight import enforced_pod_security
from ipa.adapters.kube.responses import MonotonicReads, last_hand, with_hand
from ipa.control.ports import Rollout, RolloutPhase, StageState, WorkloadState
from ipa.model.decision import Change
from ipa.model.errors import (
    READ_AGAIN,
    ConflictError,
    DriftError,
    InputError,
    IpaError,
    NotFoundError,
    UnavailableError,
)
from ipa.model.external import with_replicas_of
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig, in_millicores
from ipa.model.rolling import DEPLOYMENT
from ipa.targets.seldon.locate import (
    SELDON_DEPLOYMENT,
    OrchestratorLocation,
    ServedLocation,
    StageLocation,
    as_scaled,
    check_autoscalers,
    orchestrators,
    target_of,
)
from ipa.targets.seldon.patch import Operation
from ipa.targets.seldon.predictors import (
    build_mixture_patch,
    locate_mixture,
    read_mixture,
    read_named,
    render_mixture,
)
from ipa.targets.seldon.rollout import (
    counter_of,
    judge,
    lost_words,
    ready_replicas,
    rolling,
    runs_as_asked,
    unready,
)
from ipa.targets.seldon.section import Shape


def revision_of(sdep: Json) -> str:
    """Revision that a decision is bound to: the object, and the version of its spec.

    Not the resourceVersion, which moves with every status the operator writes while nothing of what was
    decided on has changed. A patch tests both.
    """
    metadata = sdep["metadata"]
    return f"{metadata['uid']}/{metadata['generation']}"


class SeldonObjects:
    """The calls that the workloads of both shapes make. Only SeldonDeployments are written, never a child."""

    rolling = DEPLOYMENT

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._newest = MonotonicReads()

    def _live(self, pipeline: Pipeline) -> Json:
        """The pipeline's SeldonDeployment. Errors: NotFoundError; UnavailableError for an older one."""
        target = target_of(pipeline)
        return self._newest.seen(self._client.get(SELDON_DEPLOYMENT, target.namespace, target.name))

    def _check_admitted(self, pipeline: Pipeline) -> None:
        """InputError if the namespace would refuse its pods."""
        fault = pod_security_fault(self._client, pipeline)
        if fault:
            raise InputError(f"pipeline {pipeline.name!r} cannot run there: {fault}")

    def _patch(self, pipeline: Pipeline, patch: Sequence[Operation], *, dry_run: bool = False) -> Json:
        """The SeldonDeployment after the patch."""
        target = target_of(pipeline)
        patched = self._client.patch(SELDON_DEPLOYMENT, target.namespace, target.name, patch, dry_run=dry_run)
        return patched if dry_run else self._newest.seen(patched)

    def _deployments(self, pipeline: Pipeline, places: Sequence[ServedLocation]) -> dict[str, Json | None]:
        namespace = target_of(pipeline).namespace
        return {
            place.deployment: self._client.get_deployment(namespace, place.deployment) for place in places
        }

    def _check_autoscalers(
        self, pipeline: Pipeline, names: Sequence[str], places: Sequence[StageLocation]
    ) -> None:
        """DriftError if another controller scales these SeldonDeployments or the places' Deployments."""
        autoscalers, _ = self._client.list_all(AUTOSCALER, target_of(pipeline).namespace)
        check_autoscalers(pipeline, names, places, autoscalers)

    def _judged(
        self,
        pipeline: Pipeline,
        places: Sequence[StageLocation],
        asked: Sequence[int],
        lost: Sequence[int],
        beside: Sequence[OrchestratorLocation] = (),
    ) -> Rollout:
        """The progress of these Deployments, by their pods where they wait for something.

        `asked`: the replicas of each in the change. What an autoscaler adds meanwhile is not waited for, nor
        as many pods of each as were `lost` before it.
        """
        deployments = self._deployments(pipeline, (*places, *beside))
        places = all_as_scaled(places, deployments)
        more = (max(0, place.replicas - count) for place, count in zip(places, asked, strict=True))
        added = [count if place.is_external else 0 for place, count in zip(places, more, strict=True)]
        lost = [one + other for one, other in zip_longest(added, lost, fillvalue=0)]
        served: tuple[ServedLocation, ...] = (*places, *beside)
        return judge(served, deployments, self._unready_pods(pipeline, served, deployments), lost)

    def _unready_pods(
        self, pipeline: Pipeline, places: Sequence[ServedLocation], deployments: Mapping[str, Json | None]
    ) -> dict[str, list[Json]]:
        """The pods of Deployments that wait for something, by name of Deployment."""
        pods = {}
        for place in places:
            deployment = deployments[place.deployment]
            if deployment is not None and unready(place, deployment):
                labels = deployment["spec"]["selector"]["matchLabels"]
                pods[place.deployment] = self._client.list_pods(target_of(pipeline).namespace, labels)
        return pods

    def _now(
        self, pipeline: Pipeline, places: Sequence[ServedLocation], deployments: Mapping[str, Json | None]
    ) -> tuple[dict[str, str], bool]:
        """By Deployment why pods that nothing waits for are not ready, and True if all places are settled.

        The words are empty where none is lost.
        """
        pods = self._unready_pods(pipeline, places, deployments)
        lost = {
            place.deployment: lost_words(place, deployments[place.deployment], pods.get(place.deployment, ()))
            for place in places
        }
        return lost, is_settled(places, deployments, pods, lost)


def states_of(
    configs: Sequence[StageConfig],
    places: Sequence[StageLocation],
    deployments: Mapping[str, Json | None],
    lost: Mapping[str, str],
) -> tuple[StageState, ...]:
    """Each configuration with the replicas and the ready replicas at its place, and why some are lost."""
    return tuple(
        StageState(
            replace(config, replicas=place.replicas),
            ready_replicas(deployments[place.deployment]),
            lost[place.deployment],
        )
        for config, place in zip(configs, places, strict=True)
    )


def all_as_scaled(
    places: Sequence[StageLocation], deployments: Mapping[str, Json | None]
) -> tuple[StageLocation, ...]:
    """The places with the replicas that autoscalers gave their Deployments."""
    return tuple(as_scaled(place, deployments[place.deployment]) for place in places)


def is_settled(
    places: Sequence[ServedLocation],
    deployments: Mapping[str, Json | None],
    pods: Mapping[str, Sequence[Json]],
    lost: Mapping[str, str],
) -> bool:
    """True if no place waits for anything but pods that are lost.

    Nor is waited for pods that an autoscaler has asked for: they come and go without any change.
    """

    def waits(place: ServedLocation) -> bool:
        name, deployment = place.deployment, deployments[place.deployment]
        words = rolling(place, deployment) if place.is_external else unready(place, deployment)
        return bool(words) and not lost[name] and not runs_as_asked(place, deployment, pods.get(name, ()))

    return not any(map(waits, places))


def pod_security_fault(client: KubeClient, pipeline: Pipeline) -> str:
    """Return what the namespace's PodSecurity refuses of the pipeline, with the remedy; empty if nothing."""
    target = target_of(pipeline)
    if target.shape is not Shape.SINGLE and not target.run_as_root:
        return ""
    if enforced_pod_security(client, target.namespace) != "restricted":
        return ""
    what = f"namespace {target.namespace!r} enforces restricted PodSecurity, which refuses"
    if target.run_as_root:
        return f"{what} containers that run as root; leave out `seldon: {{run_as_root: true}}`"
    remedy = "use `seldon: {shape: split}`, or a namespace that enforces baseline"
    return f"{what} Seldon's orchestrator, so that shape single never serves there; {remedy}"


def lost_beside(places: Sequence[ServedLocation], lost: Mapping[str, str]) -> str:
    """The parts beside the stages that are lost, and why; empty if none is."""
    found = ((place.title, lost[place.deployment]) for place in places)
    return "; ".join(f"{title} is not ready: {words}" for title, words in found if words)


def altered(pipeline: Pipeline) -> ConflictError:
    """The refusal of a write that the cluster's own webhooks would make something else of."""
    return ConflictError(
        f"the cluster would alter the write for pipeline {pipeline.name!r}",
        hint="Find the mutating webhook that changes SeldonDeployments.",
    )


class SeldonWorkload(SeldonObjects):
    """A pipeline as one SeldonDeployment; each part of a set is one of its predictors."""

    def read(self, pipeline: Pipeline) -> WorkloadState:
        """Read the SeldonDeployment and its ready replicas. DriftError if its spec fits no configuration."""
        sdep = self._live(pipeline)
        try:
            named, places = read_named(pipeline, sdep), locate_mixture(pipeline, sdep)
        except DriftError as error:
            raise with_hand(error, sdep) from error
        self._check_autoscalers(pipeline, [target_of(pipeline).name], places)
        beside = orchestrators(sdep, places)
        deployments = self._deployments(pipeline, (*places, *beside))
        places = all_as_scaled(places, deployments)
        served: tuple[ServedLocation, ...] = (*places, *beside)
        lost, settled = self._now(pipeline, served, deployments)
        configs = [config for _, part in named for config in part]
        names = [target_of(each).predictor for each, part in named for _ in part]
        stages = tuple(
            replace(state, part=name if len(named) > 1 else "")
            for state, name in zip(states_of(configs, places, deployments, lost), names, strict=True)
        )
        # Without a Deployment of its own it is in the pods of the first componentSpec.
        counts = beside or [place for place in places if place.stage == places[0].stage]
        return WorkloadState(
            revision_of(sdep),
            stages,
            settled,
            last_hand(sdep),
            counter_of([deployments[place.deployment] for place in counts]),
            lost_beside(beside, lost),
        )

    def create(self, pipeline: Pipeline, configs: Sequence[StageConfig]) -> str:
        """The revision of the SeldonDeployment as created. ConflictError where there is one already."""
        namespace = target_of(pipeline).namespace
        body = render_mixture(pipeline, configs)
        self._check_admitted(pipeline)
        self._client.create(SELDON_DEPLOYMENT, namespace, body, dry_run=True)
        try:
            created = self._client.create(SELDON_DEPLOYMENT, namespace, body)
        except UnavailableError as error:
            return self._read_back(pipeline, "", configs, error)
        return revision_of(created)

    def write(self, pipeline: Pipeline, change: Change) -> str:
        """The new revision, once the one guarded patch is accepted. Nothing to change: the same revision.

        ConflictError: the spec is not the one the change was decided on, or moved while it was written;
        nothing was written. UnavailableError: nothing was written, or (it says so) that is not known.
        """
        target = target_of(pipeline)
        live = self._live(pipeline)
        if revision_of(live) != change.revision:
            raise ConflictError(
                f"SeldonDeployment {target.namespace}/{target.name} is at {revision_of(live)}; "
                f"the change was decided at {change.revision}",
                hint=READ_AGAIN,
            )
        patch = build_mixture_patch(pipeline, live, change.configs)
        if not patch:
            return revision_of(live)
        self._check_admitted(pipeline)
        promised = read_mixture(pipeline, self._patch(pipeline, patch, dry_run=True))
        if promised != as_asked(pipeline, change.configs, promised):
            raise altered(pipeline)
        try:
            return revision_of(self._patch(pipeline, patch))
        except UnavailableError as error:
            return self._read_back(pipeline, change.revision, change.configs, error)

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        """The state of the rollout of a written change; as `others_rollout` if another writer changed it."""
        sdep = self._live(pipeline)
        other = others_rollout(pipeline, change, revision_of(sdep), lambda: read_mixture(pipeline, sdep))
        if other is not None:
            return other
        asked = [config.replicas for config in change.configs]
        places = locate_mixture(pipeline, sdep)
        return self._judged(pipeline, places, asked, change.lost, orchestrators(sdep, places))

    def _read_back(
        self, pipeline: Pipeline, before: str, wanted: Sequence[StageConfig], cause: UnavailableError
    ) -> str:
        """The revision where the unanswered write happened; it is never sent again to find out."""
        try:
            live = self._live(pipeline)
            found = read_mixture(pipeline, live)
        except NotFoundError:
            raise UnavailableError(f"{cause.message}; reading back shows that nothing was written") from cause
        except IpaError as error:
            raise UnavailableError(
                f"{cause.message}; reading back failed too, so the outcome of the write is unknown: "
                f"{error.message}"
            ) from cause
        if revision_of(live) == before:
            raise UnavailableError(f"{cause.message}; reading back shows that nothing was written") from cause
        if found != as_asked(pipeline, wanted, found):
            raise ConflictError(
                f"{cause.message}; reading back shows a change by another writer", hint=READ_AGAIN
            ) from cause
        return revision_of(live)


def as_asked(
    pipeline: Pipeline, wanted: Sequence[StageConfig], found: Sequence[StageConfig]
) -> tuple[StageConfig, ...]:
    """The wanted configurations as they read back: replicas that are external are as they were found."""
    return with_replicas_of(pipeline.external, in_millicores(wanted), found)


def others_rollout(
    pipeline: Pipeline, change: Change, revision: str, read: Callable[[], Sequence[StageConfig]]
) -> Rollout | None:
    """The state of a change that another writer replaced; None if what is there still asks for the change.

    It is READY with another configuration; REPLACED if the other writer recreated an object, or put all back
    to what was before the change: nothing of it is left to wait for. Never FAILED, since a rollback would
    overwrite the other writer. `read` returns the configurations at that revision.
    """
    # The object, without its generation.
    if revision.rpartition("/")[0] != change.revision.rpartition("/")[0]:
        return Rollout(RolloutPhase.REPLACED, "a SeldonDeployment was recreated by another writer")
    found = tuple(read())
    if found == as_asked(pipeline, change.configs, found):
        return None
    # What reads as before the write, at the revision before it, may be older than the write.
    is_back = revision != change.revision and found == as_asked(pipeline, change.previous, found)
    phase = RolloutPhase.REPLACED if is_back else RolloutPhase.READY
    return Rollout(phase, "another writer replaced the change")
