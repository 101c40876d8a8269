"""Guardrails for changes of files: rules over a pipeline's figures before and after the change."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from ipa.model.resources import NO_RESOURCES, Resources

HOURS_A_MONTH = 730


@dataclass(frozen=True, slots=True)
class GuardrailFigures:
    """A pipeline's figures under a simulated load, over all seeds together.

    `late` counts requests that were late or lost. Means are over time; `cores_peak` is the most cores held at
    a tick. Latencies are None if nothing was answered. `usd_per_hour` is None without a price. `beside_mean`
    are the other resources.
    """

    requests: int
    late: int
    cores_mean: float
    cores_peak: float
    pas_mean: float
    latency_p50_s: float | None
    latency_p99_s: float | None
    changes: int
    usd_per_hour: float | None = None
    beside_mean: Resources = NO_RESOURCES

    @property
    def cost(self) -> float:
        """USD an hour; cores without a price."""
        return self.cores_mean if self.usd_per_hour is None else self.usd_per_hour

    @property
    def slo_ratio(self) -> float:
        """The share of requests answered in time; 1 without requests."""
        return 1.0 - self.late / self.requests if self.requests else 1.0


class Measure(StrEnum):
    """The measures of a rule: figures after the change, by their names, or differences from those before."""

    SLO_RATIO = "slo_ratio"
    CORES_MEAN = "cores_mean"
    CORES_PEAK = "cores_peak"
    PAS_MEAN = "pas_mean"
    LATENCY_P99_S = "latency_p99_s"
    USD_PER_HOUR = "usd_per_hour"
    COST_INCREASE_RATIO = "cost_increase_ratio"
    CORES_INCREASE = "cores_increase"
    ACCURACY_DROP = "accuracy_drop"
    SLO_DROP = "slo_drop"
    LATENCY_INCREASE_RATIO = "latency_increase_ratio"


COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class GuardrailRule:
    """A rule that fails a change if the measure compares so to the limit. `line` is its line in the file."""

    measure: Measure
    comparison: str
    limit: float
    line: int = 0

    def __str__(self) -> str:
        return f"{self.measure.value} {self.comparison} {self.limit:g}"

    def fails(self, value: float | None) -> bool:
        """True if the value breaks the rule; an unknown value breaks none."""
        return value is not None and COMPARISONS[self.comparison](value, self.limit)


@dataclass(frozen=True, slots=True)
class Threshold:
    """The threshold for reporting: a change of more than one of these, up or down."""

    # Relative, of the mean cores and of the price.
    cores_ratio: float = 0.02
    pas: float = 0.002
    # Absolute, of the share of requests in time.
    slo_ratio: float = 0.002
    # Relative, of the 99th percentile.
    latency_ratio: float = 0.1


@dataclass(frozen=True, slots=True)
class Guardrails:
    """The rules of a file. `workload` and `trace` name the load to simulate if the command names none."""

    fail_if: tuple[GuardrailRule, ...] = ()
    by_pipeline: Mapping[str, tuple[GuardrailRule, ...]] | None = None
    threshold: Threshold = Threshold()
    usd_per_core_hour: float | None = None
    workload: str | None = None
    trace: str | None = None
    path: str = ""

    def rules(self, pipeline: str) -> tuple[GuardrailRule, ...]:
        """The rules of all pipelines and those of this one."""
        return self.fail_if + (self.by_pipeline or {}).get(pipeline, ())


def measured(measure: Measure, before: GuardrailFigures | None, after: GuardrailFigures) -> float | None:
    """The value of the measure; None without figures to compare with, without answers, or without a price."""
    if hasattr(after, measure.value):
        value: float | None = getattr(after, measure.value)
        return value
    return None if before is None else _compared(measure, before, after)


def _compared(measure: Measure, before: GuardrailFigures, after: GuardrailFigures) -> float | None:
    match measure:
        case Measure.COST_INCREASE_RATIO:
            return relative(before.cost, after.cost)
        case Measure.CORES_INCREASE:
            return after.cores_mean - before.cores_mean
        case Measure.ACCURACY_DROP:
            return before.pas_mean - after.pas_mean
        case Measure.SLO_DROP:
            return before.slo_ratio - after.slo_ratio
        case _:
            return relative(before.latency_p99_s, after.latency_p99_s)


def relative(before: float | None, after: float | None) -> float | None:
    """The relative growth of the value; None if either is unknown or the old one is 0."""
    return None if before is None or after is None or before == 0 else after / before - 1


def is_notable(threshold: Threshold, before: GuardrailFigures, after: GuardrailFigures) -> bool:
    """True if a change of the figures exceeds the threshold."""
    latency = relative(before.latency_p99_s, after.latency_p99_s)
    costs = relative(before.cores_mean, after.cores_mean), relative(before.cost, after.cost)
    return (
        any(each is not None and abs(each) > threshold.cores_ratio for each in costs)
        or abs(after.pas_mean - before.pas_mean) > threshold.pas
        or abs(after.slo_ratio - before.slo_ratio) > threshold.slo_ratio
        or (latency is not None and abs(latency) > threshold.latency_ratio)
        or (before.latency_p99_s is None) != (after.latency_p99_s is None)
    )
