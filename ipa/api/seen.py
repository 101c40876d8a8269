"""The services as far as someone may see them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ipa.api.services import Check, Services
from ipa.control.ports import DecisionLog
from ipa.model.access import EVERYWHERE, Identity, Operation
from ipa.model.decision import Decision
from ipa.model.errors import NotFoundError
from ipa.model.pipeline import Pipeline


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
    namespaces = {pipeline.namespace for pipeline in services.pipelines.values()}
    open_to = {namespace for namespace in namespaces if identity.may(Operation.READ, namespace)}
    pipelines = {
        name: pipeline for name, pipeline in services.pipelines.items() if pipeline.namespace in open_to
    }
    hidden = frozenset(services.pipelines) - frozenset(pipelines)

    def readiness() -> tuple[Check, ...]:
        return tuple(check for check in services.readiness() if check.name not in hidden)

    return replace(services, pipelines=pipelines, log=_SeenLog(services.log, pipelines), readiness=readiness)


class _SeenLog:
    """The decisions of those pipelines; of others' it says what it says of none."""

    def __init__(self, log: DecisionLog, pipelines: Mapping[str, Pipeline]) -> None:
        self._log, self._pipelines = log, pipelines

    def record(self, decision: Decision) -> None:
        self._log.record(decision)

    def decisions(
        self, pipeline: str, *, limit: int = 50, before_tick: int | None = None, applied_only: bool = False
    ) -> Sequence[Decision]:
        if not self._sees(pipeline):
            return ()
        return self._log.decisions(pipeline, limit=limit, before_tick=before_tick, applied_only=applied_only)

    def decision(self, decision_id: str) -> Decision:
        try:
            found = self._log.decision(decision_id)
        except NotFoundError:
            found = None
        if found is None or not self._sees(found.pipeline):
            raise NotFoundError(
                f"there is no decision {decision_id!r}", hint="`ipa history PIPELINE` lists them."
            )
        return found

    def _sees(self, record: str) -> bool:
        # Decisions of a policy beside a pipeline are recorded as PIPELINE@POLICY.
        return record.partition("@")[0] in self._pipelines
