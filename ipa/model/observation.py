"""What was seen of the world. A thing that was not seen is Missing, never zero."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from ipa.model.plan import StageConfig

T = TypeVar("T")


class MissingReason(StrEnum):
    """Why a value is not there."""

    UNREACHABLE = "unreachable"
    ABSENT = "absent"
    STALE = "stale"
    INVALID = "invalid"
    NOT_ASKED = "not_asked"


@dataclass(frozen=True, slots=True)
class Measured(Generic[T]):
    """A value that was seen `age_s` ago, by the sample's own time."""

    value: T
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Missing:
    """A value that was not seen, and why."""

    reason: MissingReason
    detail: str = ""
    age_s: float | None = None

    @property
    def is_idle(self) -> bool:
        """Whether there was merely nothing to see, rather than something wrong with seeing it."""
        return self.reason in (MissingReason.ABSENT, MissingReason.NOT_ASKED)


# Of what nobody reads here.
NOT_ASKED = Missing(MissingReason.NOT_ASKED)


@dataclass(frozen=True, slots=True)
class LoadHistory:
    """Arrival rates of the pipeline, oldest first, one every `step_s`. A gap is None.

    Each rate is the mean over the `averaged_s` before it, where that is longer than a step. The last one is
    that at `end_s`, in seconds since 1970 UTC; None where the time of day is not known.
    """

    step_s: float
    rates_rps: tuple[float | None, ...]
    averaged_s: float = 0.0
    end_s: float | None = None


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches that a stage's replicas served in the last `window_s`: how many, and their means.

    `service_s` is that of the time of one batch in a replica, `items` that of the items in it.
    """

    count: float
    service_s: float
    items: float
    window_s: float


@dataclass(frozen=True, slots=True)
class StageObservation:
    """What was seen of one stage, or of one part's stage where several configurations run side by side.

    `batches` are those of all parts together.
    """

    stage: str
    running: Measured[StageConfig] | Missing
    ready_replicas: Measured[int] | Missing
    arrival_rate_rps: Measured[float] | Missing
    latency_s: Measured[float] | Missing
    queue_length: Measured[float] | Missing = NOT_ASKED
    batches: Measured[Batches] | Missing = NOT_ASKED


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of a pipeline at one moment: its load, its latency, what runs and what is ready.

    `revision` is the state of the workload that was read (resourceVersion on Kubernetes); a change is
    written only against it. `settled` is false while an earlier change is still rolling out. `changed_by` is
    who changed it last, where that is not us and is known.
    """

    pipeline: str
    at_s: float
    arrival_rate_rps: Measured[float] | Missing
    load: Measured[LoadHistory] | Missing
    latency_s: Measured[float] | Missing
    stages: tuple[StageObservation, ...]
    revision: str = ""
    settled: bool = True
    problem: str = ""
    changed_by: str = ""

    def running(self) -> tuple[StageConfig, ...] | None:
        """The configuration of every stage in order, of each part, or None where one was not seen."""
        configs = [stage.running for stage in self.stages]
        seen = [config.value for config in configs if isinstance(config, Measured)]
        return tuple(seen) if len(seen) == len(configs) and seen else None
