"""Guardrails for changes of files, in guardrails.yaml: rules over a pipeline's figures before and after."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import isfinite
from typing import Any

from ipa.files.document import Document, Pointer, unknown
from ipa.files.forms import check, either, file_section, section
from ipa.model.forms import NAME, NonNegative, PositiveNumber, ValueForm, entries, mapping
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

    cores_ratio: NonNegative = 0.02
    """Of the mean cores, relative; 0.02 where absent."""
    pas: NonNegative = 0.002
    """Of the mean PAS; 0.002 where absent."""
    slo_ratio: NonNegative = 0.002
    """Of the share of requests in time; 0.002 where absent."""
    latency_ratio: NonNegative = 0.1
    """Of the 99th percentile of the latency, relative; 0.1 where absent."""


@dataclass(frozen=True, slots=True)
class Guardrails:
    """The rules of a file."""

    fail_if: tuple[GuardrailRule, ...] = ()
    """A change fails where any of these holds for any pipeline."""
    by_pipeline: Mapping[str, tuple[GuardrailRule, ...]] | None = None
    """Rules of single pipelines, beside those of all."""
    threshold: Threshold = Threshold()
    """A change is told of where it is more than one of these, up or down."""
    usd_per_core_hour: PositiveNumber | None = None
    """The price of a core in a pipeline without its own prices."""
    workload: str | None = None
    """The named load to simulate, where the command names none."""
    trace: str | None = None
    """The recorded load to simulate, where the command names none."""
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


_TEXT = ValueForm({"type": "string"})
_RULE_TITLE = 'a rule such as "slo_ratio < 0.99"'
_RULES = either(f"{_RULE_TITLE}, or a list of them", _TEXT, entries(_TEXT.but(title=_RULE_TITLE), 10_000))
_LOADS = ("bursty", "fluctuating", "steady_high", "steady_low")
_OF_PIPELINE = section("pipeline_rules", Guardrails, "fail_if!", dict, fail_if=_RULES)
_KEYS = section(
    "guardrails",
    Guardrails,
    "fail_if by_pipeline=pipelines threshold usd_per_core_hour trace workload",
    dict,
    fail_if=_RULES,
    by_pipeline=mapping(NAME, _OF_PIPELINE, 10_000, 0),
    threshold=section("threshold", Threshold, "cores_ratio pas slo_ratio latency_ratio"),
    trace=_TEXT.but(title="a trace file, relative to this file", minLength=1),
    workload=_TEXT.but(enum=_LOADS),
)
GUARDRAILS = file_section("Guardrails", _KEYS)


_RULE = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*(\S+)\s*")
KNOWN = tuple(measure.value for measure in Measure)
_EXAMPLE = 'write a measure, <, <=, > or >=, and a number, as "slo_ratio < 0.99"'
NEEDS_PRICE = "give it some, or the guardrails usd_per_core_hour"


def guardrails_in(document: Document) -> Guardrails:
    """The guardrails in the document; InputError lists every problem."""
    given = check(document, GUARDRAILS)
    data = document.sound() or {}
    rules = _rules(document, data, ())
    by_pipeline = {
        name: _rules(document, entry or {}, ("pipelines", name))
        for name, entry in (data.get("pipelines") or {}).items()
    }
    if "trace" in data and "workload" in data:
        document.problem(("workload",), "there is a trace already; give one of the two", at_key=True)
    document.raise_problems()
    read = {"fail_if": rules, "by_pipeline": by_pipeline, "path": document.path}
    return Guardrails(**given | read)


def _rules(document: Document, data: Mapping[str, Any], pointer: Pointer) -> tuple[GuardrailRule, ...]:
    """The rules there; what is none is noted."""
    given, place = data.get("fail_if") or [], (*pointer, "fail_if")
    places = [place] if isinstance(given, str) else [(*place, at) for at in range(len(given))]
    texts = [given] if isinstance(given, str) else given
    found = [
        _rule(document, text, where) for where, text in zip(places, texts, strict=True) if text is not None
    ]
    return tuple(rule for rule in found if rule is not None)


def _rule(document: Document, text: str, where: Pointer) -> GuardrailRule | None:
    parts = _RULE.fullmatch(text)
    if parts is None:
        document.problem(where, f"{document.shown(where, text)} is no rule; {_EXAMPLE}")
        return None
    name, comparison, number = parts.groups()
    before = len(document.problems)
    if name not in KNOWN:
        document.problem(where, f"there is no measure {name!r}; {unknown(name, KNOWN)}")
    try:
        limit = float(number)
    except ValueError:
        limit = float("nan")
    if not isfinite(limit):
        document.problem(where, f"{number!r} is no number; {_EXAMPLE}")
    if len(document.problems) > before:
        return None
    return GuardrailRule(Measure(name), comparison, limit, document.marks.get(where, (0, 0))[0])
