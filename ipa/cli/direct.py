"""The verbs' answers where no service runs: from a cluster or a file, and the files of the pipelines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, ClassVar
from urllib.parse import unquote

import typer

from ipa.control.actuation import Phase
from ipa.control.audit import Head, Verified, head_of
from ipa.control.canonical import plain
from ipa.control.ports import Clock, DecisionLog, PipelineControl, Signals
from ipa.control.replay import Replayed
from ipa.control.snapshot import Snapshot
from ipa.model.decision import Decision
from ipa.model.errors import InputError, NotFoundError, UsageError
from ipa.model.observation import Missing, MissingReason, Observation
from ipa.model.on_seldon import at_cluster
from ipa.model.parts import parts_of
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.model.row_counts import unbatched_notes
from ipa.service.checks import checked_configs
from ipa.service.history import DecisionPage, record_view
from ipa.service.live import live_state
from ipa.service.status import status_view
from ipa.settings import Settings

_NOT_ASKED = Missing(MissingReason.NOT_ASKED, "no metrics are read here")
NO_SIGNALS = Signals(_NOT_ASKED, _NOT_ASKED, _NOT_ASKED)


@dataclass(frozen=True, slots=True)
class Seen:
    """What runs, how far its last change is, and in words what that waits for or why it failed."""

    observation: Observation
    phase: Phase = Phase.IDLE
    detail: str = ""
    degraded: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a person (`by`) asked for: `detail` says who and why, `revision` what for ("" unknown)."""

    configs: tuple[StageConfig, ...]
    detail: str
    revision: str = ""
    by: str = ""


class Direct(ABC):
    """A source that reads and writes by itself what the service would; see `Source` for its two methods."""

    interval_s: ClassVar[float | None]

    def __init__(self, at: str, settings: Settings, clock: Clock, namespace: str | None = None) -> None:
        self.at, self.settings, self.clock, self.namespace = at, settings, clock, namespace
        self._replaying: dict[str, Callable[[Decision, str | None], Replayed]] = {}

    def __enter__(self) -> Direct:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @abstractmethod
    def close(self) -> None:
        """Close what is open."""

    @abstractmethod
    def names(self) -> list[str]:
        """The pipelines that may be found here."""

    @abstractmethod
    def seen(self, pipeline: Pipeline) -> Seen:
        """What runs now."""

    @abstractmethod
    def apply(self, pipeline: Pipeline, wanted: Wanted) -> Decision:
        """Make it run; the decision, applied or a hold that says why. ConflictError: the revision moved."""

    @abstractmethod
    def rollback(self, pipeline: Pipeline, to: str | None, detail: str, by: str) -> Decision:
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

    def get(self, path: str, **query: Any) -> Any:
        """The answer at that address below /v1."""
        match path.split("/"):
            case ["pipelines"]:
                return {"pipelines": [{"pipeline": name} for name in self.names()]}
            case ["pipelines", name, "status"]:
                return self._status(self._pipeline(name))
            case ["pipelines", name, "record"]:
                pipeline = self._pipeline(name)
                anchor = query.get("anchor")
                verified = self.verify(pipeline, head_of(anchor) if anchor else None)
                return plain(record_view(pipeline.name, verified))
            case ["pipelines", name, ("history" | "decisions") as kind]:
                found = self.page(
                    self._pipeline(name), query["limit"], query["before"], applied_only=kind == "history"
                )
                return plain(found)
            case ["decisions", decision_id]:
                return plain(self.log.decision(unquote(decision_id)))
        raise UsageError(f"{path} is asked of a service only", hint="Say where it is with --at URL.")

    def lines(self, path: str, **query: Any) -> Iterator[str]:
        """UsageError: only a service tells as it goes."""
        raise UsageError(f"{path} is asked of a service only", hint="Say where it is with --at URL.")

    def send(self, method: str, path: str, body: dict[str, Any], *, if_match: str | None = None) -> Any:
        """The answer to that request; ConflictError where `if_match` no longer holds."""
        from ipa.service.commands import requested_by

        match path.split("/"):
            case ["pipelines", name, "plans"]:
                return self._plan(self._pipeline(name), body["rate_rps"], body["objective"])
            case ["pipelines", name, "apply"]:
                pipeline = self._pipeline(name)
                configs = self._checked(pipeline, [StageConfig(**config) for config in body["configs"]])
                detail = requested_by("requested", body["by"], body["reason"])
                revision = (if_match or "").strip('"')
                return plain(self.apply(pipeline, Wanted(configs, detail, revision, body["by"])))
            case ["pipelines", name, "rollback"]:
                detail = requested_by("rollback", body["by"], body["reason"])
                return plain(self.rollback(self._pipeline(name), body["to"], detail, body["by"]))
            case ["decisions", asked] if asked.endswith(":replay"):
                return plain(self._replay(unquote(asked.removesuffix(":replay")), body.get("policy")))
        verb = path.partition("?")[0].split("/")[2]
        raise UsageError(
            f"{verb} is for a service, and {self.at} is none: nothing there changes by itself",
            hint="Say where the service is with --at URL.",
        )

    def _replay(self, decision_id: str, policy: str | None) -> Replayed:
        """The decision taken again with the pipeline and the profiles that are here."""
        decision = self.log.decision(decision_id)
        name = decision.pipeline.partition("@")[0]
        if name not in self._replaying:
            self._replaying[name] = self._replayer(self._of_file(name))
        return self._replaying[name](decision, policy)

    def _replayer(self, pipeline: Pipeline) -> Callable[[Decision, str | None], Replayed]:
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
        from ipa.cli.plan import find_pipeline

        found = find_pipeline(unquote(name), self.settings.pipelines_dir)
        return at_cluster(found, self._profiles(found))

    def _pipeline(self, name: str) -> Pipeline:
        found = self._of_file(name)
        if self.namespace is None or found.seldon is None:
            return found
        return replace(found, seldon=replace(found.seldon, namespace=self.namespace))

    def _checked(self, pipeline: Pipeline, configs: list[StageConfig]) -> tuple[StageConfig, ...]:
        from ipa.adapters.kube.manifest import canonical, check_configs

        ordered = checked_configs(pipeline, configs)
        for part in parts_of(ordered):
            check_configs(pipeline, part)
        # As they read back; else what runs would seem to differ from what was asked.
        return canonical(ordered)

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
        from ipa.adapters.files import load_profiles

        try:
            return load_profiles(self.settings.profiles_dir, pipeline.name)
        except (InputError, NotFoundError):
            return {}

    def _plan(self, pipeline: Pipeline, rate_rps: float | None, objective: str | None) -> dict[str, Any]:
        from ipa.adapters.files import load_profiles
        from ipa.policies.planning import plan_pipeline

        if rate_rps is None:
            raise UsageError(
                f"--rate is needed: nothing at {self.at} tells the load to plan for",
                hint="For example --rate 10, or --plan FILE as `ipa plan -o json` prints it.",
            )
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


def seldon_names(settings: Settings) -> list[str]:
    """The pipelines whose files say where they run on Seldon; InputError where a file is wrong."""
    from ipa.adapters.files import load_pipelines

    found = load_pipelines(settings.pipelines_dir)
    return sorted(name for name, pipeline in found.items() if pipeline.seldon is not None)
