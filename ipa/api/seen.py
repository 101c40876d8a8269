"""The services as far as someone may see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ipa.api.services import Services
from ipa.model.access import EVERYWHERE, Identity, Operation
from ipa.model.decision import Decision
from ipa.model.errors import NotFoundError
from ipa.model.pipeline import Pipeline
from ipa.service.health import Check


def pipeline_named(services: Services, name: str) -> Pipeline:
    """The pipeline of that name; NotFoundError names those there are."""
    if name not in services.pipelines:
        known = ", ".join(sorted(services.pipelines)) or "none"
        raise NotFoundError(f"there is no pipeline {name!r}", hint=f"There are: {known}")
    return services.pipelines[name]


def seen_by(identity: Identity, services: Services) -> Services:
    """The services without the pipelines that they may not read: what is hidden is as what is not there.

    UnavailableError where it cannot be found out what they may.
    """
    if identity.may(Operation.READ, EVERYWHERE):
        return services
    there = list(services.pipelines.values())
    open_to = {each for each in {it.namespace for it in there} if identity.may(Operation.READ, each)}
    pipelines: dict[str, Pipeline] = {}
    records: dict[str, str] = {}
    for pipeline in there:
        owner = services.owner_of(pipeline.name)
        # Another namespace may have been given the name just now.
        if pipeline.namespace in open_to and (owner is None or owner.namespace == pipeline.namespace):
            pipelines[pipeline.name] = pipeline
            records[pipeline.name] = owner.record if owner else services.record_of(pipeline.name)
    hidden = frozenset(it.name for it in there) - frozenset(pipelines)

    def record_of(name: str) -> str:
        pipeline, at, policy = name.partition("@")
        return f"{records.get(pipeline, pipeline)}{at}{policy}"

    def readiness() -> tuple[Check, ...]:
        return tuple(check for check in services.readiness() if check.name not in hidden)

    return replace(
        services,
        pipelines=pipelines,
        record_of=record_of,
        log=_SeenLog(services, pipelines, record_of),
        verify=lambda name, anchor: services.verify(record_of(name), anchor),
        readiness=readiness,
    )


class _SeenLog:
    """The decisions of those pipelines; of others' it says what it says of none.

    By their records as of now: what is recorded under a name once another has it is not theirs.
    """

    def __init__(
        self, services: Services, pipelines: Mapping[str, Pipeline], record_of: Callable[[str], str]
    ) -> None:
        self._log, self._live, self._pipelines = services.log, services.record_of, pipelines
        self._record_of = record_of

    def record(self, decision: Decision) -> None:
        self._log.record(decision)

    def decisions(
        self, pipeline: str, *, limit: int = 50, before_tick: int | None = None, applied_only: bool = False
    ) -> Sequence[Decision]:
        if not self._sees(pipeline):
            return ()
        record = self._record_of(pipeline)
        return self._log.decisions(record, limit=limit, before_tick=before_tick, applied_only=applied_only)

    def decision(self, decision_id: str) -> Decision:
        try:
            found = self._log.decision(decision_id)
        except NotFoundError:
            found = None
        if (
            found is None
            or not self._sees(found.pipeline)
            or self._live(found.pipeline) != self._record_of(found.pipeline)
        ):
            raise NotFoundError(
                f"there is no decision {decision_id!r}", hint="`ipa history PIPELINE` lists them."
            )
        return found

    def _sees(self, record: str) -> bool:
        # Decisions of a policy beside a pipeline are recorded as PIPELINE@POLICY.
        return record.partition("@")[0] in self._pipelines
