"""The Workload port over the objects of a pipeline in a cluster, one or several, of any kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NoReturn

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import AUTOSCALER, POD, ObjectRef
from ipa.adapters.kube.kinds import DEPLOYMENT as DEPLOYMENTS
from ipa.adapters.kube.transport import Json
from ipa.control.ports import Rollout, RolloutPhase, StageState, WorkloadState
from ipa.model.decision import Change
from ipa.model.errors import (
    READ_AGAIN,
    ConflictError,
    DriftError,
    IncompleteError,
    InputError,
    IpaError,
    NotFoundError,
    Problem,
    UnavailableError,
)
from ipa.model.pipeline import Pipeline
from ipa.model.plan import in_millicores
from ipa.model.rolling import DEPLOYMENT
from ipa.targets.kubernetes.layout import (
    Layout,
    Objects,
    Operation,
    Running,
    appliers,
    check_owner,
    claim,
    last_hand,
    owner_of,
    patch_of,
    revision_of,
)
from ipa.targets.kubernetes.rollout import DeploymentState, judge

# A claim is bound to the resourceVersion, which each write of the status moves: so often it is tried.
CLAIM_TRIES = 10


class KubeWorkload:
    """Pipelines as objects of a cluster. Only those objects are written, never a child of one.

    A change is one guarded patch for each object that differs, all tried on the server before the first is
    sent, in an order in which every prefix is safe to run. Objects that no install owns, or that this
    `install` owns, are read, and written ones are claimed for it; a call about another install's object
    raises DriftError. Without an install nothing is claimed.
    """

    rolling = DEPLOYMENT

    def __init__(
        self, client: KubeClient, layout_of: Callable[[Pipeline], Layout], install: str = ""
    ) -> None:
        self._client, self._layout_of, self._install = client, layout_of, install
        # The newest generation read of each object, by uid: it grows with every change of the spec.
        self._newest: dict[str, int] = {}

    def read(self, pipeline: Pipeline) -> WorkloadState:
        """Read the objects and their ready replicas.

        DriftError if they do not specify a configuration of the pipeline; IncompleteError: some are missing.
        """
        layout = self._layout_of(pipeline)
        objects = self._read_objects(layout)
        running = layout.observe(objects)
        autoscalers, _ = self._client.list_all(AUTOSCALER, layout.namespace)
        layout.check_autoscalers(running, autoscalers)
        states = self._look(layout, running, objects)
        count = len(running.places)
        stages = tuple(
            StageState(config, state.ready, state.lost, part)
            for config, state, part in zip(running.configs, states[:count], running.parts, strict=True)
        )
        beside = [f"{it.place.title} is not ready: {it.lost}" for it in states[count:] if it.lost]
        return WorkloadState(
            revision_of(list(objects.values())),
            stages,
            all(state.is_settled for state in states),
            next(filter(None, map(last_hand, objects.values())), ""),
            "; ".join(beside),
        )

    def write(self, pipeline: Pipeline, change: Change) -> str:
        """Return the new revision once every patch is accepted; the same one if there is nothing to change.

        ConflictError: a spec is not the one the change was decided on, or changed during the write: objects
        written before are restored. DriftError: another manager applies a field that would change.
        UnavailableError: its message says how many of several objects were
        written, a safe prefix of the change, or that this is unknown; read the workload then.
        """
        layout = self._layout_of(pipeline)
        objects = self._read_objects(layout)
        revision = revision_of(list(objects.values()))
        if revision != change.revision:
            raise ConflictError(
                f"pipeline {pipeline.name} is at {revision}; the change was decided at {change.revision}",
                hint=READ_AGAIN,
            )
        changes = layout.changes(objects, change.configs)
        if not changes:
            return revision
        if problems := [
            f"{name}: {each}"
            for name, changed in changes.items()
            for each in appliers(objects[name], patch_of(objects[name], changed))
        ]:
            raise DriftError(
                f"another manager applies fields of pipeline {pipeline.name!r} that the change would write",
                problems=[Problem(each) for each in problems],
                hint="Take these fields out of what it applies, or let the service commit them to its "
                "repository (IPA_ACTUATION=gitops).",
            )
        if fault := layout.admission_fault(self._client):
            raise InputError(f"pipeline {pipeline.name!r} cannot run there: {fault}")
        promised = dict(objects)
        for name, changed in changes.items():
            promised[name] = self._patch(
                layout, objects[name], patch_of(objects[name], changed), dry_run=True
            )
        if layout.observe(promised).configs != in_millicores(change.configs):
            raise ConflictError(
                f"the cluster would alter the write for pipeline {pipeline.name!r}",
                hint=f"Find the mutating webhook that changes {layout.kind.kind}s.",
            )
        written: dict[str, Json] = {}
        for name, changed in changes.items():
            live = objects[name]
            try:
                # After a write without an answer, read the object back; never send the write again.
                try:
                    written[name] = self._patch(layout, live, patch_of(live, changed))
                except UnavailableError as error:
                    written[name] = self._read_back(layout, name, live, changed, error)
            except UnavailableError as error:
                words = "; what is written is safe to run"
                raise _with_progress(error, len(written), len(changes), words) from error
            except IpaError as error:
                self._take_back(layout, objects, written, len(changes), error)
        return revision_of(list({**objects, **written}.values()))

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        """The state of the rollout of a written change.

        READY with another configuration if another writer changed it since; REPLACED if that writer recreated
        an object, or restored everything from before the change: nothing of it is left to wait for. Neither
        counts as FAILED, since a rollback would overwrite the other writer.
        """
        layout = self._layout_of(pipeline)
        objects = self._read_objects(layout)
        revision = revision_of(list(objects.values()))
        # The objects, without their generations.
        if revision.rpartition("/")[0] != change.revision.rpartition("/")[0]:
            words = f"a {layout.kind.kind} was recreated by another writer"
            return Rollout(RolloutPhase.REPLACED, words)
        running = layout.observe(objects)
        if running.configs != in_millicores(change.configs):
            # An object that looks unchanged, at the revision before the write, may be an old read.
            is_moved = revision != change.revision
            is_back = is_moved and running.configs == in_millicores(change.previous)
            phase = RolloutPhase.REPLACED if is_back else RolloutPhase.READY
            return Rollout(phase, "another writer replaced the change")
        return judge(self._look(layout, running, objects), change.lost)

    def _read_objects(self, layout: Layout) -> Objects:
        """All objects. Errors: NotFoundError, IncompleteError; UnavailableError for an outdated one."""
        objects = {}
        for name in layout.names:
            with suppress(NotFoundError):
                objects[name] = self._read_object(layout, name)
        missing = [name for name in layout.names if name not in objects]
        if missing and len(layout.names) == 1:
            raise NotFoundError(f"{layout.entry}: does not exist")
        if missing:
            raise (IncompleteError if objects else NotFoundError)(
                f"{layout.kind.kind} {', '.join(missing)} not found in {layout.namespace}: "
                f"{len(objects)} of {len(layout.names)} are there"
            )
        return objects

    def _read_object(self, layout: Layout, name: str) -> Json:
        live = self._client.get(layout.kind, layout.namespace, name)
        if self._install:
            check_owner(live, self._install)
        return self._accept(live)

    def _accept(self, thing: Json) -> Json:
        """The object; UnavailableError if a newer state of the same uid was read before."""
        metadata = thing["metadata"]
        uid, generation = str(metadata["uid"]), int(metadata["generation"])
        newest = self._newest.get(uid, 0)
        if generation < newest:
            raise UnavailableError(
                f"{thing['kind']} {metadata['namespace']}/{metadata['name']}: the answer is older "
                f"(generation {generation}) than one read before ({newest})"
            )
        self._newest[uid] = generation
        return thing

    def _patch(
        self, layout: Layout, live: Json, changes: Sequence[Operation], *, dry_run: bool = False
    ) -> Json:
        """The object after the patch, which also claims it."""
        ref = ObjectRef(layout.kind, layout.namespace, live["metadata"]["name"])
        for _ in range(CLAIM_TRIES):
            patch = [*changes, *(claim(live, self._install) if self._install else ())]
            try:
                patched = self._client.patch(layout.kind, ref.namespace, ref.name, patch, dry_run=dry_run)
            except ConflictError:
                if not self._install or owner_of(live) == self._install:
                    raise
                # Perhaps only the status was written: check that the object is still unclaimed.
                before, live = live, self._read_object(layout, ref.name)
                if revision_of([live]) != revision_of([before]):
                    raise
            else:
                return patched if dry_run else self._accept(patched)
        raise ConflictError(f"{ref}: was changed since it was read", hint=READ_AGAIN)

    def _read_back(
        self, layout: Layout, name: str, before: Json, changed: Json, cause: UnavailableError
    ) -> Json:
        """The object after a write without an answer, if the write happened."""
        try:
            live = self._read_object(layout, name)
            running = layout.read(name, live)
        except IpaError as error:
            raise UnavailableError(
                f"{cause.message}; reading back failed too, so the outcome of the write is unknown: "
                f"{error.message}"
            ) from cause
        if revision_of([live]) == revision_of([before]):
            raise UnavailableError(f"{cause.message}; reading back shows that nothing was written") from cause
        if running != layout.read(name, changed):
            raise ConflictError(
                f"{cause.message}; reading back shows a change by another writer", hint=READ_AGAIN
            ) from cause
        return live

    def _take_back(
        self, layout: Layout, before: Objects, written: Objects, total: int, cause: IpaError
    ) -> NoReturn:
        """Undo the writes before a refused one, the last first: each step leads back to a safe prefix."""
        for left, (name, live) in reversed(list(enumerate(written.items(), 1))):
            try:
                # A controller may have moved its generation since, as that of Deployments does.
                now = self._read_object(layout, name)
                if layout.read(name, now) != layout.read(name, live):
                    raise ConflictError(f"{name}: was changed since it was written")
                restored = layout.changed(name, now, layout.read(name, before[name]))
                self._patch(layout, now, patch_of(now, restored))
            except IpaError as error:
                words = (
                    f"; undoing it failed too: {error.message}; the objects written so far are safe to run"
                )
                raise UnavailableError(_with_progress(cause, left, total, words).message) from error
        words = f"; the {len(written)} objects written before it were restored" if written else ""
        raise _with_progress(cause, 0, total, words) from cause

    def _look(self, layout: Layout, running: Running, objects: Objects) -> list[DeploymentState]:
        """The state of all Deployments that serve: of the stages' places, then of those `beside` them.

        Pods are listed only for Deployments that wait for something.
        """
        states = []
        for place in (*running.places, *running.beside):
            if layout.kind is DEPLOYMENTS:
                deployment: Json | None = objects[place.deployment]
            else:
                deployment = self._client.get_deployment(layout.namespace, place.deployment)
            state = DeploymentState(place, deployment)
            if deployment is not None and state.waits:
                labels = deployment["spec"]["selector"]["matchLabels"]
                pods, _ = self._client.list_all(POD, layout.namespace, labels)
                state = DeploymentState(place, deployment, pods)
            states.append(state)
        return states


def _with_progress(error: IpaError, written: int, total: int, more: str) -> IpaError:
    """The same error, with how many of several objects were changed."""
    words = f"; {written} of {total} objects of the change are written{more}" if total > 1 else ""
    return type(error)(f"{error.message}{words}", problems=error.problems, hint=error.hint)
