"""The verbs' answers where no service runs: from a cluster or a file, and the files of the pipelines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import typer

from ipa.bootstrap.targets import Target, check_honoured
from ipa.cli.clients.base import JsonObject, PipelineClient
from ipa.control.audit.record import Head, Verified, head_of
from ipa.control.audit.replay import ReplayResult
from ipa.control.canonical import plain
from ipa.control.engine.actuation import ActuationPhase
from ipa.control.loop.snapshot import Snapshot
from ipa.control.ports import Clock, DecisionLog, PipelineControl, Signals
from ipa.model.decision import Decision
from ipa.model.errors import InputError, NotFoundError, UsageError
from ipa.model.observation import Missing, MissingReason, Observation
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.model.row_counts import unbatched_notes
from ipa.service.checks import checked_configs
from ipa.service.commands import requested_by
from ipa.service.history import DecisionPage, record_view
from ipa.service.live import live_state
from ipa.service.status import status_view
from ipa.settings import Settings

_NOT_ASKED = Missing(MissingReason.NOT_ASKED, "no metrics are read here")
NO_SIGNALS = Signals(_NOT_ASKED, _NOT_ASKED, _NOT_ASKED)


@dataclass(frozen=True, slots=True)
class RunningState:
    """What runs, how far its last change is, and in words what that waits for or why it failed."""

    observation: Observation
    phase: ActuationPhase = ActuationPhase.IDLE
    detail: str = ""
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RequestedConfigs:
    """What a person (`by`) asked for: `detail` says who and why, `revision` what for ("" unknown)."""

    configs: tuple[StageConfig, ...]
    detail: str
    revision: str = ""
    by: str = ""


class DirectClient(PipelineClient):
    """A client that reads and writes by itself what the service would."""

    def __init__(
        self, at: str, settings: Settings, clock: Clock, target: Target, namespace: str | None = None
    ) -> None:
        self.target = target
        self._at, self.settings, self.clock, self.namespace = at, settings, clock, namespace
        self._replaying: dict[str, Callable[[Decision, str | None], ReplayResult]] = {}

    @property
    def at(self) -> str:
        return self._at

    @abstractmethod
    def seen(self, pipeline: Pipeline) -> RunningState:
        """What runs now."""

    @abstractmethod
    def apply_configs(self, pipeline: Pipeline, wanted: RequestedConfigs) -> Decision:
        """Make it run; the decision, applied or a hold that says why. ConflictError: the revision moved."""

    @abstractmethod
    def restore_configs(self, pipeline: Pipeline, to: str | None, detail: str, by: str) -> Decision:
        """Make run what ran before the last change, or after the decision `to`."""

    @abstractmethod
    def page(self, pipeline: Pipeline, limit: int, before: str | None, *, applied_only: bool) -> DecisionPage:
        """Decisions, newest first."""

    @property
    @abstractmethod
    def log(self) -> DecisionLog:
        """The record of decisions."""

    @abstractmethod
    def recorded_profiles(self, pipeline: Pipeline) -> Mapping[str, StageProfile]:
        """The profiles that those decide with who write the record."""

    @abstractmethod
    def verify(self, pipeline: Pipeline, anchor: Head | None) -> Verified:
        """What the record holds, each entry as it was written."""

    def status(self, pipeline: str) -> JsonObject:
        return self._status(self._pipeline(pipeline))

    def decisions(
        self,
        pipeline: str,
        *,
        limit: int,
        before: str | None = None,
        applied_only: bool = False,
        inputs: bool = True,
    ) -> JsonObject:
        return _object(self.page(self._pipeline(pipeline), limit, before, applied_only=applied_only))

    def decision(self, decision_id: str) -> JsonObject:
        return _object(self.log.decision(decision_id))

    def record(self, pipeline: str, anchor: str | None) -> JsonObject:
        found = self._pipeline(pipeline)
        verified = self.verify(found, head_of(anchor) if anchor else None)
        return _object(record_view(found.name, verified))

    def plan(self, pipeline: str, rate_rps: float | None, objective: str | None) -> JsonObject:
        return self._plan(self._pipeline(pipeline), rate_rps, objective)

    def apply(
        self, pipeline: str, configs: Sequence[StageConfig], *, by: str, reason: str, revision: str
    ) -> JsonObject:
        found = self._pipeline(pipeline)
        detail = requested_by("requested", by, reason)
        wanted = RequestedConfigs(self._checked(found, configs), detail, revision, by)
        return _object(self.apply_configs(found, wanted))

    def rollback(self, pipeline: str, to: str | None, *, by: str, reason: str, revision: str) -> JsonObject:
        found = self._pipeline(pipeline)
        return _object(self.restore_configs(found, to, requested_by("rollback", by, reason), by))

    def replay(self, decision_id: str, policy: str | None) -> JsonObject:
        return _object(self._replay(decision_id, policy))

    def _replay(self, decision_id: str, policy: str | None) -> ReplayResult:
        """The decision taken again with the pipeline and the profiles that are here."""
        decision = self.log.decision(decision_id)
        name = decision.pipeline.partition("@")[0]
        if name not in self._replaying:
            self._replaying[name] = self._replayer(self._of_file(name))
        return self._replaying[name](decision, policy)

    def _replayer(self, pipeline: Pipeline) -> Callable[[Decision, str | None], ReplayResult]:
        """What takes decisions of the pipeline again.

        A forecaster that learns from a trace would learn for minutes: then it is the recorded forecasts.
        """
        from ipa.adapters.forecasting import sight_of
        from ipa.bootstrap import Replayer

        profiles = self.recorded_profiles(pipeline)
        learns = bool(self.settings.forecast_trace)
        forecaster = None if learns else sight_of(self.settings, {pipeline.name: profiles}).forecaster
        again = Replayer(self.log, forecaster)
        return lambda decision, policy: again(decision, pipeline, profiles, policy)

    def _of_file(self, name: str) -> Pipeline:
        """The pipeline as its file says."""
        from ipa.cli.lookup import find_pipeline

        found = find_pipeline(name, self.settings.pipelines_dir)
        return self.target.shape(found, self._profiles(found))

    def _pipeline(self, name: str) -> Pipeline:
        found = self._of_file(name)
        if self.namespace is None:
            return found
        return self.target.in_namespace(found, self.namespace)

    def _checked(self, pipeline: Pipeline, configs: Sequence[StageConfig]) -> tuple[StageConfig, ...]:
        check_honoured(self.target, [pipeline])
        # As they read back; else what runs would seem to differ from what was asked.
        return self.target.check_configs(pipeline, checked_configs(pipeline, configs))

    def _status(self, pipeline: Pipeline) -> dict[str, Any]:
        seen, now = self.seen(pipeline), self.clock.now()
        snapshot = Snapshot(pipeline.name, 0, PipelineControl(), seen.phase, observation=seen.observation)
        live = live_state(pipeline, self._profiles(pipeline), snapshot, now=now, tick_s=0.0)
        live = replace(live, detail=seen.detail, degraded=live.degraded + seen.degraded)
        view = status_view(pipeline, PipelineControl(), live, now)
        # There is no loop here whose mode or pause could be told.
        return {**plain(view), "control": None}

    def _profiles(self, pipeline: Pipeline) -> Mapping[str, StageProfile]:
        """Without profiles that can be used only the accuracy of what runs is not known."""
        from ipa.files import load_profiles

        try:
            return load_profiles(self.settings.profiles_dir, pipeline.name)
        except (InputError, NotFoundError):
            return {}

    def _plan(self, pipeline: Pipeline, rate_rps: float | None, objective: str | None) -> dict[str, Any]:
        from ipa.files import load_profiles
        from ipa.policies.planning import plan_pipeline

        if rate_rps is None:
            raise UsageError(
                f"--rate is needed: nothing at {self.at} tells the load to plan for",
                hint="For example --rate 10, or --plan FILE as `ipa plan -o json` prints it.",
            )
        check_honoured(self.target, [pipeline])
        for note in unbatched_notes(pipeline):
            typer.echo(f"note: {note}", err=True)
        plan = plan_pipeline(
            pipeline,
            load_profiles(self.settings.profiles_dir, pipeline.name),
            rate_rps,
            objective=objective,
            solver=self.settings.solver,
            deadline_s=self.settings.solver_deadline_s,
        )
        return plan.to_json()


def placed_names(settings: Settings, target: Target) -> list[str]:
    """The pipelines whose files say how they run on the target; InputError if a file is wrong."""
    from ipa.files import load_pipelines

    found = load_pipelines(settings.pipelines_dir)
    return sorted(name for name, pipeline in found.items() if target.placed(pipeline))


def _object(value: Any) -> JsonObject:
    found = plain(value)
    assert isinstance(found, dict)
    return found
