"""Observations and forecasts of a pipeline. A value that was not observed is Missing, never zero."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from typing import Generic, TypeVar

from ipa.model.plan import StageConfig
from ipa.model.recording import UNLESS_DEFAULT

T = TypeVar("T")


class MissingReason(StrEnum):
    """The reason for a missing value."""

    UNREACHABLE = "unreachable"
    ABSENT = "absent"
    STALE = "stale"
    INVALID = "invalid"
    NOT_ASKED = "not_asked"


@dataclass(frozen=True, slots=True)
class Measured(Generic[T]):
    """An observed value; `age_s` is the age of its sample."""

    value: T
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Missing:
    """A value that was not observed, and why."""

    reason: MissingReason
    detail: str = ""
    age_s: float | None = None

    @property
    def is_idle(self) -> bool:
        """True if there was nothing to observe, as opposed to a failure to observe it."""
        return self.reason in (MissingReason.ABSENT, MissingReason.NOT_ASKED)


def known(observed: Measured[T] | Missing) -> T | None:
    """The observed value; None if it is missing."""
    return observed.value if isinstance(observed, Measured) else None


# A value that this configuration does not read.
NOT_ASKED = Missing(MissingReason.NOT_ASKED)


@dataclass(frozen=True, slots=True)
class LoadHistory:
    """Arrival rates of the pipeline, oldest first, one every `step_s`. A gap is None.

    Each rate is the mean over the `averaged_s` before it, if that is longer than a step. The last rate is
    that at `end_s`, in seconds since 1970 UTC; None if the time of day is unknown.
    """

    step_s: float
    rates_rps: tuple[float | None, ...]
    averaged_s: float = 0.0
    end_s: float | None = None

    def mean_rps(self, last_s: float) -> float | None:
        """The mean of the rates observed in the last `last_s`, in whole steps; None without any."""
        last = self.rates_rps[-max(1, round(last_s / self.step_s)) :]
        rates = [rate for rate in last if rate is not None and isfinite(rate) and rate >= 0]
        return sum(rates) / len(rates) if rates else None


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches that a stage's replicas served in the last `window_s`: their number and means.

    `service_s` is the mean service time of a batch in a replica, `items` the mean number of items in it.
    """

    count: float
    service_s: float
    items: float
    window_s: float

    @property
    def busy_replicas(self) -> float:
        """The mean number of replicas that served at the same time."""
        return self.count * self.service_s / self.window_s


# The causes of requests that were given up; all others of `ipa.serving.batching.LossCause` are faults.
DROPS = frozenset({"overload", "queue_full", "no_time_left", "no_replicas", "batch_late"})


@dataclass(frozen=True, slots=True)
class Loss:
    """Requests without an answer: how many, the stage that had them, and the data plane's cause.

    The causes are those of `ipa.serving.batching.LossCause`.
    """

    stage: str
    cause: str
    count: float

    @property
    def is_drop(self) -> bool:
        """True if the data plane dropped the requests as too late; False if they failed."""
        return self.cause in DROPS


@dataclass(frozen=True, slots=True)
class Attainment:
    """The requests that ended in the last `window_s`: their number, and the share answered within the SLA.

    Late, dropped and failed ones count against it. `losses` are those without an answer, most first, if the
    source knows stage and cause. `retried` are batches whose replica was lost, and that another served.
    """

    count: float
    in_time_ratio: float
    window_s: float
    losses: tuple[Loss, ...] = field(default=(), metadata=UNLESS_DEFAULT)
    retried: float = field(default=0.0, metadata=UNLESS_DEFAULT)

    @property
    def dropped_rps(self) -> float:
        """The requests a second that were dropped."""
        return sum(loss.count for loss in self.losses if loss.is_drop) / self.window_s

    @property
    def failed_rps(self) -> float:
        """The requests a second that failed."""
        return sum(loss.count for loss in self.losses if not loss.is_drop) / self.window_s

    @property
    def retried_rps(self) -> float:
        """The rate of batches that were served again."""
        return self.retried / self.window_s


@dataclass(frozen=True, slots=True)
class StageObservation:
    """The observation of one stage, or of one part's stage if several configurations run side by side.

    `batches` are those of all parts together, or of this part if `is_own`. `lost` is the reason, in words,
    why replicas are not ready although no change waits for them. `served` are the shares of the items that
    each variant answered, over all parts, the largest first; empty if not known.
    """

    stage: str
    running: Measured[StageConfig] | Missing
    ready_replicas: Measured[int] | Missing
    arrival_rate_rps: Measured[float] | Missing
    latency_s: Measured[float] | Missing
    queue_length: Measured[float] | Missing = NOT_ASKED
    batches: Measured[Batches] | Missing = NOT_ASKED
    lost: str = field(default="", metadata=UNLESS_DEFAULT)
    is_own: bool = field(default=False, metadata=UNLESS_DEFAULT)
    served: tuple[tuple[str, float], ...] = field(default=(), metadata=UNLESS_DEFAULT)

    @property
    def service_s(self) -> float | None:
        """The mean time of a batch in a replica; None if none was observed."""
        if isinstance(self.batches, Missing) or not self.batches.value.count:
            return None
        return self.batches.value.service_s

    @property
    def lost_replicas(self) -> int:
        """The replicas that are not ready although no change waits for them."""
        if not self.lost or isinstance(self.running, Missing) or isinstance(self.ready_replicas, Missing):
            return 0
        return max(0, self.running.value.replicas - self.ready_replicas.value)


@dataclass(frozen=True, slots=True)
class PartObservation:
    """The observation of one of several configurations side by side: its latency and its ended requests."""

    latency_s: Measured[float] | Missing
    attainment: Measured[Attainment] | Missing


@dataclass(frozen=True, slots=True)
class Observation:
    """The observation of a pipeline at one moment: load, latency, running configuration and ready replicas.

    `revision` is the version of the workload that was read (uid and generation on Kubernetes); a change is
    written only against it. `settled` is false while an earlier change rolls out. `changed_by` is the author
    of the last change, if known and not this service. `parts` are those of `running()`, in its order; empty
    if one configuration runs alone.
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
    attainment: Measured[Attainment] | Missing = NOT_ASKED
    parts: tuple[PartObservation, ...] = field(default=(), metadata=UNLESS_DEFAULT)

    @property
    def is_whole(self) -> bool:
        """True if the running configuration serves with all its replicas."""
        return self.settled and not any(stage.lost_replicas for stage in self.stages)

    @property
    def ended(self) -> Attainment | None:
        """The requests that ended lately; None if unknown."""
        return known(self.attainment)

    @property
    def in_time_ratio(self) -> float | None:
        """The share of the ended requests that were answered within the SLA; None if unknown."""
        return self.ended.in_time_ratio if self.ended else None

    def busy(self) -> dict[str, float]:
        """The share of the time in which the ready replicas of each stage served batches, at most 1.

        A stage is missing if its batches or its replicas were not observed.
        """
        ready: dict[str, int] = {}
        for stage in self.stages:
            if isinstance(stage.ready_replicas, Measured):
                ready[stage.stage] = ready.get(stage.stage, 0) + stage.ready_replicas.value
        return {
            stage.stage: min(1.0, stage.batches.value.busy_replicas / ready[stage.stage])
            for stage in self.stages
            if isinstance(stage.batches, Measured) and ready.get(stage.stage)
        }

    def running(self) -> tuple[StageConfig, ...] | None:
        """The configuration of every stage in order, of each part; None if one was not observed."""
        configs = [stage.running for stage in self.stages]
        observed = [config.value for config in configs if isinstance(config, Measured)]
        return tuple(observed) if len(observed) == len(configs) and observed else None


# The probabilities of the classes of a load, from the lowest rates: narrower where requests begin to be late.
RATE_SHARES = (0.2, 0.2, 0.2, 0.175, 0.125, 0.07, 0.03)


@dataclass(frozen=True, slots=True)
class Forecast:
    """The peak arrival rate expected over `horizon_s`: a point and an upper quantile.

    A rate is a mean over `peak_s`, the shortest peak that counts. `rung` is the forecaster of the ladder with
    the largest weight, `weights` the weights of all, `steps_down` the reasons why others have none;
    `quality_ratio` is 1 for a full window without gaps. `rates_rps` are the mean rates of the classes of
    RATE_SHARES; a forecast without them is taken for normally distributed.
    """

    point_rps: float
    upper_rps: float
    quantile: float
    horizon_s: float
    rung: str
    quality_ratio: float
    steps_down: tuple[str, ...] = ()
    peak_s: float = 1.0
    weights: tuple[tuple[str, float], ...] = ()
    rates_rps: tuple[float, ...] = field(default=(), metadata=UNLESS_DEFAULT)
