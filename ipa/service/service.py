"""The service: the ports that its use cases work with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ipa.control.idempotency import AnswerStore
from ipa.control.ports import Clock, ControlStore, DecisionLog
from ipa.control.saved_plans import PlanStore
from ipa.model.errors import NotFoundError
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.service.ports import (
    DecisionReplayer,
    HealthChecks,
    LeadershipView,
    PipelineRegistry,
    PlanSolver,
    RecordNames,
    RecordVerifier,
)
from ipa.settings import Settings


@dataclass(frozen=True, slots=True)
class Service:
    """The ports of a running service, as far as one caller may see them (`visibility.visible_to`).

    The use cases are the functions of this room's modules.
    """

    # Those that the caller may see; the registry has all of them.
    pipelines: Mapping[str, Pipeline]
    registry: PipelineRegistry
    log: DecisionLog
    controls: ControlStore
    records: RecordNames
    verifier: RecordVerifier
    plans: PlanStore
    answers: AnswerStore
    planner: PlanSolver
    replayer: DecisionReplayer
    leadership: LeadershipView
    health: HealthChecks
    clock: Clock
    settings: Settings
    # Base URL of the router that takes the requests of a pipeline, if it runs on this machine.
    endpoints: Mapping[str, str] = field(default_factory=dict)

    def pipeline(self, name: str) -> Pipeline:
        """The pipeline of that name; NotFoundError names those there are."""
        if name not in self.pipelines:
            known = ", ".join(sorted(self.pipelines)) or "none"
            raise NotFoundError(f"there is no pipeline {name!r}", hint=f"There are: {known}")
        return self.pipelines[name]

    def profiles(self, name: str) -> Mapping[str, StageProfile]:
        """The newest profiles of that pipeline by stage."""
        return self.registry.profiles.get(name, {})

    def sees(self, pipeline: str, record: str) -> bool:
        """True if that record is the one that a pipeline that may be seen writes now.

        An earlier pipeline of the same name had another one.
        """
        return pipeline.partition("@")[0] in self.pipelines and record == self.records.of(pipeline)
