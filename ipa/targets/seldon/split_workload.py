"""The Workload port over the SeldonDeployments of a split pipeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn

from ipa.adapters.kube.responses import last_hand
from ipa.control.ports import Rollout, WorkloadState
from ipa.model.decision import Change
from ipa.model.errors import (
    READ_AGAIN,
    ConflictError,
    IncompleteError,
    IpaError,
    NotFoundError,
    UnavailableError,
)
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig, in_millicores
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT, target_of
from ipa.targets.seldon.manifest import check_configs
from ipa.targets.seldon.patch import Operation, build_patch
from ipa.targets.seldon.rollout import counter_of
from ipa.targets.seldon.split import (
    Part,
    PartRole,
    changed_config,
    config_of,
    parts_of,
    places_of,
    read_parts,
    read_split,
    render_split,
    revision_of_all,
    steps,
)
from ipa.targets.seldon.variants import check_variants
from ipa.targets.seldon.workload import (
    SeldonObjects,
    all_as_scaled,
    altered,
    as_asked,
    lost_beside,
    others_rollout,
    revision_of,
    states_of,
)

Objects = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Write:
    """One guarded patch of one part: from what it runs to what it is to run."""

    part: Part
    live: dict[str, Any]
    before: StageConfig
    after: StageConfig
    patch: list[Operation]


class SplitWorkload(SeldonObjects):
    """A pipeline that runs as a router, and a queue and a model for each stage: a SeldonDeployment each.

    A change is one guarded patch for each object that differs, all tried on the server before the first is
    sent, in an order in which every prefix is safe (`split.steps`).
    """

    def read(self, pipeline: Pipeline) -> WorkloadState:
        """Read the SeldonDeployments and their ready replicas. NotFoundError: one is missing."""
        parts = parts_of(pipeline)
        objects = self._get(parts)
        configs = read_split(pipeline, parts, objects)
        places = places_of(parts, objects)
        models = tuple(
            place for part, place in zip(parts, places, strict=True) if part.role is PartRole.MODEL
        )
        # Router and queues may be scaled by whom one likes.
        names = [part.name for part in parts if part.role is PartRole.MODEL]
        self._check_autoscalers(pipeline, names, models)
        deployments = self._deployments(pipeline, places)
        places, models = all_as_scaled(places, deployments), all_as_scaled(models, deployments)
        lost, settled = self._now(pipeline, places, deployments)
        stages = states_of(configs, models, deployments, lost)
        hands = filter(None, map(last_hand, objects.values()))
        routers = [place for part, place in zip(parts, places, strict=True) if part.role is PartRole.ROUTER]
        counter = counter_of([deployments[place.deployment] for place in routers])
        revision = revision_of_all(parts, objects)
        beside = [place for place in places if place not in models]
        problem = lost_beside(beside, lost)
        return WorkloadState(revision, stages, settled, next(hands, ""), counter, problem)

    def create(self, pipeline: Pipeline, configs: Sequence[StageConfig]) -> str:
        """The revision of the SeldonDeployments, those that were not there created, the router last.

        ConflictError where all are there, or one is there that asks for something else. What an attempt
        before left is kept.
        """
        parts, bodies = parts_of(pipeline), render_split(pipeline, configs)
        namespace = target_of(pipeline).namespace
        objects = self._present(parts)
        self._check_present(pipeline, parts, objects, configs)
        missing = [body for body in bodies if body["metadata"]["name"] not in objects]
        self._check_admitted(pipeline)
        for body in missing:
            self._client.create(SELDON_DEPLOYMENT, namespace, body, dry_run=True)
        for body in missing:
            objects[body["metadata"]["name"]] = self._created(namespace, body)
        return revision_of_all(parts, objects)

    def write(self, pipeline: Pipeline, change: Change) -> str:
        """The new revision, once every patch is accepted. Nothing to change: the same revision.

        ConflictError: a spec is not the one the change was decided on, or moved while it was written: what
        was written before is taken back. UnavailableError: it says how many objects were written; they are
        a safe prefix of the change, and what runs then is to be read.
        """
        parts = parts_of(pipeline)
        objects = self._get(parts)
        revision = revision_of_all(parts, objects)
        if revision != change.revision:
            raise ConflictError(
                f"pipeline {pipeline.name} is at {revision}; the change was decided at {change.revision}",
                hint=READ_AGAIN,
            )
        writes = _writes(pipeline, parts, objects, change)
        self._check_admitted(pipeline)
        self._try(pipeline, parts, objects, writes, change)
        done: list[tuple[_Write, dict[str, Any]]] = []
        for write in writes:
            try:
                written = self._send(write)
            except UnavailableError as error:
                raise _said(error, len(done), len(writes), "; what is written is safe to run") from error
            except IpaError as error:
                self._take_back(done, len(writes), error)
            done.append((write, written))
        return revision_of_all(parts, objects | {write.part.name: written for write, written in done})

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        """Progress of a written change over all parts; as `SeldonWorkload.rollout`."""
        parts = parts_of(pipeline)
        objects = self._get(parts)
        revision = revision_of_all(parts, objects)
        other = others_rollout(pipeline, change, revision, lambda: read_split(pipeline, parts, objects))
        if other is not None:
            return other
        by_stage = {config.stage: config for config in change.configs}
        asked = [config_of(pipeline, part, by_stage).replicas for part in parts]
        lost = iter(change.lost)
        each = [next(lost, 0) if part.role is PartRole.MODEL else 0 for part in parts]
        return self._judged(pipeline, places_of(parts, objects), asked, each)

    def _get(self, parts: Sequence[Part]) -> Objects:
        objects = self._present(parts)
        missing = [part.name for part in parts if part.name not in objects]
        if missing:
            namespace = target_of(parts[0].pipeline).namespace
            raise (IncompleteError if objects else NotFoundError)(
                f"SeldonDeployment {', '.join(missing)} not found in {namespace}: "
                f"{len(objects)} of {len(parts)} are there"
            )
        return objects

    def _present(self, parts: Sequence[Part]) -> Objects:
        found: Objects = {}
        for part in parts:
            with suppress(NotFoundError):
                found[part.name] = self._live(part.pipeline)
        return found

    def _check_present(
        self, pipeline: Pipeline, parts: Sequence[Part], objects: Objects, configs: Sequence[StageConfig]
    ) -> None:
        """ConflictError where nothing is left to create, or what is there is not what is to be."""
        there = [part for part in parts if part.name in objects]
        by_stage = {config.stage: config for config in in_millicores(configs)}
        found = read_parts(pipeline, there, objects)
        others = [
            part.name
            for part in there
            if (found[part.name],)
            != as_asked(part.pipeline, [config_of(pipeline, part, by_stage)], [found[part.name]])
        ]
        if others or len(there) == len(parts):
            names = ", ".join(others or [part.name for part in there])
            raise ConflictError(
                f"SeldonDeployment {names} already exists", hint="Change it with `ipa apply`."
            )

    def _created(self, namespace: str, body: dict[str, Any]) -> dict[str, Any]:
        name = body["metadata"]["name"]
        try:
            return self._client.create(SELDON_DEPLOYMENT, namespace, body)
        except UnavailableError as error:
            try:
                return self._client.get(SELDON_DEPLOYMENT, namespace, name)
            except NotFoundError:
                raise UnavailableError(
                    f"{error.message}; reading back shows that {name} was not created",
                    hint="Create it again; existing objects are kept.",
                ) from error

    def _try(
        self,
        pipeline: Pipeline,
        parts: Sequence[Part],
        objects: Objects,
        writes: Sequence[_Write],
        change: Change,
    ) -> None:
        """Let the server try every patch. ConflictError where its webhooks make something else of it."""
        promised = dict(objects)
        for write in writes:
            promised[write.part.name] = self._patch(write.part.pipeline, write.patch, dry_run=True)
        found = read_split(pipeline, parts, promised)
        if found != as_asked(pipeline, change.configs, found):
            raise altered(pipeline)

    def _send(self, write: _Write) -> dict[str, Any]:
        """The object as written; where there was no answer, as read back. It is never sent again."""
        try:
            return self._patch(write.part.pipeline, write.patch)
        except UnavailableError as error:
            live = self._live(write.part.pipeline)
            if revision_of(live) == revision_of(write.live):
                words = f"{error.message}; reading back shows that {write.part.name} was not written"
                raise UnavailableError(words) from error
            if read_parts(write.part.pipeline, [write.part], {write.part.name: live}) != {
                write.part.name: write.after
            }:
                raise ConflictError(
                    f"{error.message}; reading back shows a change by another writer", hint=READ_AGAIN
                ) from error
            return live

    def _take_back(
        self, done: Sequence[tuple[_Write, dict[str, Any]]], total: int, cause: IpaError
    ) -> NoReturn:
        """Undo what was written before a refusal, the last first: each step leads back to a safe prefix."""
        left = list(done)
        while left:
            write, written = left[-1]
            patch = build_patch(write.part.pipeline, written, [write.before])
            try:
                self._patch(write.part.pipeline, patch)
            except IpaError as error:
                words = (
                    f"; undoing it failed too: {error.message}; the objects written so far are safe to run"
                )
                raise UnavailableError(_said(cause, len(left), total, words).message) from error
            left.pop()
        words = f"; the {len(done)} objects written before it were restored" if done else ""
        raise _said(cause, 0, total, words) from cause


def _writes(pipeline: Pipeline, parts: Sequence[Part], objects: Objects, change: Change) -> list[_Write]:
    """A patch for each object that differs, in the order in which they are to be sent."""
    check_variants(pipeline)
    check_configs(pipeline, change.configs)
    found = read_parts(pipeline, parts, objects)
    running = read_split(pipeline, parts, objects)
    wanted = as_asked(pipeline, change.configs, running)
    by_stage = {config.stage: config for config in wanted}
    by_step: Mapping[tuple[PartRole, str], Part] = {(part.role, part.stage): part for part in parts}
    writes = []
    asked = {
        part.stage: (found[part.name].variant, part.groups)
        for part in parts
        if part.role is PartRole.QUEUE and part.groups
    }
    for step in steps(running, wanted, asked, pipeline.bounds):
        part = by_step[step]
        live, before = objects[part.name], found[part.name]
        after = changed_config(part, before, config_of(pipeline, part, by_stage))
        writes.append(_Write(part, live, before, after, build_patch(part.pipeline, live, [after])))
    return writes


def _said(error: IpaError, written: int, total: int, more: str) -> IpaError:
    """The same error, with how far the change came."""
    words = f"{error.message}; {written} of {total} objects of the change are written{more}"
    return type(error)(words, problems=error.problems, hint=error.hint)
