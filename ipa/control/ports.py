"""What the engine needs of the world. Each protocol has a contract suite that every adapter passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from ipa.model.decision import Change, Decision, Event, Mode
from ipa.model.observation import NOT_ASKED, Batches, LoadHistory, Measured, Missing
from ipa.model.pipeline import Pin, Pipeline
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.model.rolling import Rolling

Load = Measured[LoadHistory] | Missing


class Clock(Protocol):
    """Time. Durations are taken from `monotonic_s`, never from `now`."""

    def monotonic_s(self) -> float:
        """Seconds that only grow."""
        ...

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        ...

    def wait(self, seconds: float) -> None:
        """Return after so many seconds, or earlier when the service stops."""
        ...


@dataclass(frozen=True, slots=True)
class StageSignals:
    """What the metrics say of one stage: items a second, latency of a request in it, requests waiting.

    `batches` are those that its replicas served.
    """

    arrival_rate_rps: Measured[float] | Missing
    latency_s: Measured[float] | Missing
    queue_length: Measured[float] | Missing
    batches: Measured[Batches] | Missing = NOT_ASKED


@dataclass(frozen=True, slots=True)
class Signals:
    """What the metrics say of a pipeline: `latency_s` at the SLA's percentile, `load` one rate a second."""

    arrival_rate_rps: Measured[float] | Missing
    load: Load
    latency_s: Measured[float] | Missing
    stages: Mapping[str, StageSignals] = field(default_factory=dict)


class Metrics(Protocol):
    """Reads load and latency. What cannot be read is Missing with its reason; nothing is raised."""

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        """The signals of the pipeline now, its load over the last `window_s` seconds."""
        ...

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        """The load alone, as `read` has it; asked for between ticks, so it costs little."""
        ...


@dataclass(frozen=True, slots=True)
class StageState:
    """What runs of one stage, and how many of its replicas answer."""

    config: StageConfig
    ready_replicas: int


@dataclass(frozen=True, slots=True)
class WorkloadState:
    """What runs, at one revision. `settled` is false while a change is still rolling out.

    `changed_by` is who changed it last where that is not us and the world knows it.
    """

    revision: str
    stages: tuple[StageState, ...]
    settled: bool
    changed_by: str = ""


class RolloutPhase(StrEnum):
    """How far a change is."""

    PROGRESSING = "progressing"
    READY = "ready"
    FAILED = "failed"
    # What was changed is gone, another carries its name: nothing of the change is left to wait for.
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class Rollout:
    """How far a change is, and in words what it waits for or why it failed.

    `lacks_room`: it waits for room alone; nothing is wrong with what is to run there.
    """

    phase: RolloutPhase
    detail: str = ""
    lacks_room: bool = False


class Workload(Protocol):
    """The running pipeline: local processes, a SeldonDeployment, or the simulator.

    Errors: NotFoundError (nothing runs under this name), ConflictError (the revision moved, or another hand
    changed it), ForbiddenError, UnavailableError (no answer; whether a write happened is unknown: read).
    """

    @property
    def rolling(self) -> Rolling:
        """How it replaces replicas."""
        ...

    def read(self, pipeline: Pipeline) -> WorkloadState:
        """What runs now."""
        ...

    def write(self, pipeline: Pipeline, change: Change) -> str:
        """The new revision, once the change is accepted (not yet ready). Writes only onto change.revision."""
        ...

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        """How far a written change is."""
        ...


@dataclass(frozen=True, slots=True)
class Freeze:
    """A window in which nothing is written; `weekly` ones come again every seven days (of UTC)."""

    start: datetime
    end: datetime
    reason: str = ""
    by: str = ""
    weekly: bool = False


@dataclass(frozen=True, slots=True)
class StagePin:
    """What a person fixed of one stage, beside what its pipeline's file pins."""

    stage: str
    pin: Pin
    reason: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class PipelineControl:
    """What people have said about a pipeline: its mode; whether, until when, why and by whom it is paused;
    what is pinned; when it is frozen.
    """

    mode: Mode = Mode.ADVISORY
    paused: bool = False
    paused_until: datetime | None = None
    paused_reason: str = ""
    paused_by: str = ""
    pins: tuple[StagePin, ...] = ()
    freezes: tuple[Freeze, ...] = ()
    mode_reason: str = ""
    mode_by: str = ""


class ControlAction(StrEnum):
    """What a person may do to a pipeline's control."""

    PAUSE = "pause"
    RESUME = "resume"
    MODE = "mode"
    PIN = "pin"
    UNPIN = "unpin"
    FREEZE = "freeze"
    UNFREEZE = "unfreeze"
    # To the pipeline itself, over the API.
    GIVE = "give"
    REPLACE = "replace"
    PROFILE = "profile"
    REMOVE = "remove"


@dataclass(frozen=True, slots=True)
class Attribution:
    """What a person did, who it was, and why; it is kept in the record."""

    deed: ControlAction
    by: str = ""
    why: str = ""


class Leadership(Protocol):
    """Which of several replicas of the service writes."""

    def leading(self) -> bool:
        """Whether this one may write now: it holds the lease, and had it renewed in time."""
        ...


class AlwaysLeading:
    """The leadership of a service that runs alone."""

    def leading(self) -> bool:
        """True."""
        return True


class EventSink(Protocol):
    """Tells those who look at the workload (Kubernetes Events). What cannot be told is logged, not raised."""

    def emit(self, pipeline: Pipeline, event: Event) -> None:
        """Tell it; the same thing again within a while only counts up."""
        ...


class NoEvents:
    """A sink for worlds in which nobody looks."""

    def emit(self, pipeline: Pipeline, event: Event) -> None:
        """Nothing."""


class DecisionLog(Protocol):
    """The durable record of decisions; written before anything else is."""

    def record(self, decision: Decision) -> None:
        """Return only when the decision is on disk; UnavailableError otherwise."""
        ...

    def decisions(
        self, pipeline: str, *, limit: int = 50, before_tick: int | None = None, applied_only: bool = False
    ) -> Sequence[Decision]:
        """The newest decisions first."""
        ...

    def decision(self, decision_id: str) -> Decision:
        """That decision; NotFoundError where there is none."""
        ...


class ControlStore(Protocol):
    """What people have said about pipelines, kept over restarts."""

    def control(self, pipeline: str, *, may_lag: bool = False) -> PipelineControl:
        """What was said last; the default where nothing was.

        Where it `may_lag`, what another process said within the last quarter of a second may be missing.
        """
        ...

    def set_control(self, pipeline: str, control: PipelineControl, said: Attribution) -> None:
        """Keep it, and in the record who said it; neither where one cannot be kept."""
        ...


class ProfileStore(Protocol):
    """The measured profiles, every revision kept; the newest counts."""

    def save_profile(self, profile: StageProfile) -> int:
        """The revision under which it is kept; the same one again where nothing changed."""
        ...

    def profile(self, pipeline: str, stage: str) -> StageProfile:
        """The newest profile; NotFoundError where there is none."""
        ...

    def profiles(self, pipeline: str) -> Mapping[str, StageProfile]:
        """The newest profile of every stage of the pipeline, by stage name."""
        ...
