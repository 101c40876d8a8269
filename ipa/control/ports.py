"""The ports of the control loop. Each protocol has a contract suite that every adapter passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Protocol, runtime_checkable

from ipa.model.decision import Change, Decision, Event, Mode
from ipa.model.observation import NOT_ASKED, Attainment, Batches, LoadHistory, Measured, Missing
from ipa.model.pipeline import Pin, Pipeline
from ipa.model.plan import StageConfig
from ipa.model.recording import UNLESS_DEFAULT
from ipa.model.rolling import Rolling

Load = Measured[LoadHistory] | Missing


class Clock(Protocol):
    """Time. Durations are taken from `monotonic_s`, never from `now`."""

    def monotonic_s(self) -> float:
        """Seconds that only grow."""

    def now(self) -> datetime:
        """The wall clock, in UTC."""

    def wait(self, seconds: float) -> None:
        """Return after this many seconds, or earlier when the service stops."""


@runtime_checkable
class SimulatedClock(Clock, Protocol):
    """A clock of a simulated world."""

    @property
    def speed(self) -> float:
        """Simulated seconds per real second."""


@dataclass(frozen=True, slots=True)
class StageSignals:
    """The signals of one stage: items a second, latency of a request in it, requests waiting.

    `batches` are those that its replicas served, `served` the items a second by variant, if that is known.
    """

    arrival_rate_rps: Measured[float] | Missing
    latency_s: Measured[float] | Missing
    queue_length: Measured[float] | Missing
    batches: Measured[Batches] | Missing = NOT_ASKED
    served: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PartSignals:
    """The signals of one of several configurations side by side: its latency, and its requests that ended.

    `batches` has for each stage those that its replicas served; empty if metrics do not distinguish them.
    """

    latency_s: Measured[float] | Missing
    attainment: Measured[Attainment] | Missing
    batches: Mapping[str, Measured[Batches] | Missing] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Signals:
    """The signals of a pipeline: `latency_s` at the SLA's percentile, `load` one rate a second.

    `parts` has the signals of each of several configurations side by side, by `StageState.part`.
    """

    arrival_rate_rps: Measured[float] | Missing
    load: Load
    latency_s: Measured[float] | Missing
    stages: Mapping[str, StageSignals] = field(default_factory=dict)
    attainment: Measured[Attainment] | Missing = NOT_ASKED
    parts: Mapping[str, PartSignals] = field(default_factory=dict)


class Metrics(Protocol):
    """Reads load and latency. An unreadable value is Missing with its reason; nothing is raised."""

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        """The signals of the pipeline now, its load over the last `window_s` seconds."""

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        """The load alone, as in `read`; it is read between ticks, so it must be cheap."""


@dataclass(frozen=True, slots=True)
class StageState:
    """The running configuration of one stage, and the number of its ready replicas.

    `lost` is the reason, in words, why replicas are not ready although no change waits for them; they may
    stay so. `part` is the name in metrics of the configuration it belongs to, if several run side by side.
    """

    config: StageConfig
    ready_replicas: int
    lost: str = ""
    part: str = ""


@dataclass(frozen=True, slots=True)
class WorkloadState:
    """The running configuration at one revision. `settled` is false while a change is still rolling out.

    `changed_by` is the author of the last change, if known and not this service. `problem` is a
    fault, in words, of a workload that runs the wanted configuration.
    """

    revision: str
    stages: tuple[StageState, ...]
    settled: bool
    changed_by: str = ""
    problem: str = ""


class RolloutPhase(StrEnum):
    """The phase of a rollout."""

    PROGRESSING = "progressing"
    READY = "ready"
    FAILED = "failed"
    # What was changed is gone, another carries its name: nothing of the change is left to wait for.
    REPLACED = "replaced"


@dataclass(frozen=True, slots=True)
class Rollout:
    """The state of a rollout, and the cause if it waits or failed, in words.

    `lacks_room`: it only waits for room; the new pods themselves are fine. `room_cores` are the cores of the
    replicas that found room, if known.
    """

    phase: RolloutPhase
    detail: str = ""
    lacks_room: bool = False
    room_cores: float | None = field(default=None, metadata=UNLESS_DEFAULT)


class Workload(Protocol):
    """The running pipeline: local processes, objects of a cluster, or the simulator.

    The pipeline passed to it has the pins of people and those of its file.

    Errors: NotFoundError (nothing runs under this name), ConflictError (the revision changed, or someone else
    changed it), ForbiddenError, UnavailableError (no answer; a write may or may not have happened: read).
    """

    @property
    def rolling(self) -> Rolling:
        """The strategy by which it replaces replicas."""

    def read(self, pipeline: Pipeline) -> WorkloadState:
        """The state of the workload now."""

    def write(self, pipeline: Pipeline, change: Change) -> str:
        """Write the change onto `change.revision`; return the new revision once accepted (not yet ready)."""

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        """The state of the rollout of a written change."""


class PipelineManifest(Protocol):
    """The manifest of one pipeline in the text of a file."""

    def configs(self) -> tuple[StageConfig, ...]:
        """The configuration in the manifest. DriftError if the pipeline cannot have it."""

    def changed(self, wanted: Sequence[StageConfig]) -> str:
        """The text with these configurations; everything that plans do not decide stays as it is."""


@dataclass(frozen=True, slots=True)
class Freeze:
    """A window in which nothing is written; a `weekly` one repeats every seven days (UTC)."""

    start: datetime
    end: datetime
    reason: str = ""
    by: str = ""
    weekly: bool = False


@dataclass(frozen=True, slots=True)
class StagePin:
    """A pin of one stage that a person set, besides those of the pipeline's file."""

    stage: str
    pin: Pin
    reason: str = ""
    by: str = ""


@dataclass(frozen=True, slots=True)
class PipelineControl:
    """The overrides that people have set: mode, pause (until when, why, by whom), pins and freezes.

    `resumed_at` is the time of the last resumption by a person, which also ends a block.
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
    resumed_at: datetime | None = field(default=None, metadata=UNLESS_DEFAULT)


class ControlAction(StrEnum):
    """An action of a person on a pipeline's control."""

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
    # To the files of the pipeline.
    EDIT = "edit"


@dataclass(frozen=True, slots=True)
class Attribution:
    """A person's action, with its author and reason, for the record."""

    deed: ControlAction
    by: str = ""
    why: str = ""


class Leadership(Protocol):
    """The leadership among several replicas of the service."""

    def leading(self) -> bool:
        """True if this replica may write now: it holds the lease and renewed it in time."""


class AlwaysLeading:
    """The leadership of a service that runs alone."""

    def leading(self) -> bool:
        """True."""
        return True


class EventSink(Protocol):
    """A sink of events at the workload (Kubernetes Events). A failure is logged, not raised."""

    def emit(self, pipeline: Pipeline, event: Event) -> None:
        """Emit the event; a quick repetition only increases its count."""


class NoEvents:
    """A sink that drops events."""

    def emit(self, pipeline: Pipeline, event: Event) -> None:
        """Do nothing."""


class DecisionLog(Protocol):
    """The durable record of decisions, written before any other effect."""

    def record(self, decision: Decision) -> None:
        """Record the decision durably; UnavailableError if it is not on disk."""

    def decisions(
        self, pipeline: str, *, limit: int = 50, before_tick: int | None = None, applied_only: bool = False
    ) -> Sequence[Decision]:
        """The newest decisions first."""

    def decision(self, decision_id: str) -> Decision:
        """The decision of that id; NotFoundError if there is none."""


class ControlStore(Protocol):
    """The overrides of pipelines, which survive restarts."""

    def control(self, pipeline: str, *, may_lag: bool = False) -> PipelineControl:
        """The current control; the default if nobody set one.

        With `may_lag`, a change by another process in the last quarter of a second may be missing.
        """

    def set_control(self, pipeline: str, control: PipelineControl, attribution: Attribution) -> None:
        """Store the control and the record of who changed it: both or neither."""
