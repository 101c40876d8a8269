"""Bounded series in memory, and the four query shapes over them with Prometheus' own arithmetic."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ipa.adapters.prometheus.queries import Age, Quantile, Query, Rate, Selector

Labels = frozenset[tuple[str, str]]
Key = tuple[str, ...]

# Two windows of the control loop with a margin, at one scrape per second.
MAX_SAMPLES = 900
# Prometheus' lookback: an older sample does not count as the current value.
LOOKBACK_S = 300.0


@dataclass(slots=True)
class Samples:
    """Samples of one series, oldest first. A stale series has `gone_at_s`, Prometheus' staleness marker."""

    times_s: list[float] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    gone_at_s: float = math.inf

    def add(self, at_s: float, value: float) -> None:
        """Append a sample; drop the oldest once there are twice as many as `MAX_SAMPLES`.

        A sample that is not newer than the last (the clock was set back) is ignored, as in Prometheus.
        """
        if self.times_s and at_s <= self.times_s[-1]:
            return
        self.times_s.append(at_s)
        self.values.append(value)
        self.gone_at_s = math.inf
        if len(self.times_s) > 2 * MAX_SAMPLES:
            del self.times_s[:-MAX_SAMPLES], self.values[:-MAX_SAMPLES]

    def newest(self, at_s: float) -> tuple[float, float] | None:
        """Return time and value of the current sample at `at_s`; None if there is none."""
        index = bisect_right(self.times_s, at_s) - 1
        if index < 0 or at_s >= self.gone_at_s or at_s - self.times_s[index] > LOOKBACK_S:
            return None
        return self.times_s[index], self.values[index]

    def rate(self, at_s: float, window_s: float) -> float | None:
        """Return Prometheus' rate() of a counter over [at - window, at], extrapolated to both ends.

        None with fewer than two samples. Follows promql/functions.go `extrapolatedRate` of Prometheus 2.53.
        """
        start = bisect_left(self.times_s, at_s - window_s)
        end = bisect_right(self.times_s, at_s)
        if end - start < 2:
            return None
        times, values = self.times_s[start:end], self.values[start:end]
        resets = sum(before for before, after in pairwise(values) if after < before)
        increase = values[-1] - values[0] + resets
        sampled_s = times[-1] - times[0]
        mean_gap_s = sampled_s / (len(times) - 1)
        before_s, after_s = times[0] - (at_s - window_s), at_s - times[-1]
        # The series is taken to reach the window's end if its last sample is about one scrape away from it.
        if before_s >= mean_gap_s * 1.1:
            before_s = mean_gap_s / 2
        if increase > 0 and values[0] >= 0:
            # A counter is never below zero, so neither before its first sample.
            before_s = min(before_s, sampled_s * values[0] / increase)
        if after_s >= mean_gap_s * 1.1:
            after_s = mean_gap_s / 2
        return increase * (sampled_s + before_s + after_s) / sampled_s / window_s


def histogram_quantile(quantile: float, buckets: Mapping[float, float]) -> float:
    """Return Prometheus' histogram_quantile of cumulative rates by upper bound; NaN without observations."""
    bounds = sorted(buckets)
    if len(bounds) < 2 or not math.isinf(bounds[-1]):
        return math.nan
    counts: list[float] = []
    for bound in bounds:
        counts.append(max(buckets[bound], counts[-1] if counts else 0.0))
    if not counts[-1]:
        return math.nan
    rank = quantile * counts[-1]
    index = bisect_left(counts, rank, hi=len(counts) - 1)
    if index == len(bounds) - 1:
        return bounds[-2]
    if index == 0 and bounds[0] <= 0:
        return bounds[0]
    start, below = (bounds[index - 1], counts[index - 1]) if index else (0.0, 0.0)
    inside = counts[index] - below
    return start + (bounds[index] - start) * ((rank - below) / inside if inside else 0.0)


def aggregate(query: Query, values: Sequence[tuple[Mapping[str, str], float]]) -> float:
    """The query's value of several series, each with its labels; at least one.

    Values are ages for an Age, rates for a Rate or a Quantile. NaN for a quantile without observations.
    """
    if isinstance(query, Age):
        return max(value for _, value in values)
    if not isinstance(query, Quantile):
        return math.fsum(value for _, value in values)
    buckets: dict[float, float] = defaultdict(float)
    for labels, value in values:
        buckets[float(labels.get("le", "nan"))] += value
    return histogram_quantile(query.quantile, buckets)


def _metric(query: Query, key: Key) -> dict[str, str]:
    return {name: value for name, value in zip(query.by, key, strict=True) if value}


class SeriesStore:
    """The series of all targets by metric and labels. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._series: dict[str, dict[Labels, Samples]] = {}
        self._known: dict[str, set[tuple[str, Labels]]] = {}

    def add(self, target: str, at_s: float, samples: Iterable[tuple[str, Mapping[str, str], float]]) -> None:
        """Add one scrape of a target: (metric, labels, value). Series that it lacks become stale."""
        seen: set[tuple[str, Labels]] = set()
        with self._lock:
            for metric, labels, value in samples:
                key = frozenset({**labels, "instance": target}.items())
                self._series.setdefault(metric, {}).setdefault(key, Samples()).add(at_s, value)
                seen.add((metric, key))
            for metric, key in self._known.get(target, set()) - seen:
                self._series[metric][key].gone_at_s = at_s
            self._known[target] = seen
            self._forget(at_s)

    def _forget(self, at_s: float) -> None:
        """Drop the series that have been stale for longer than any window."""
        for metric, series in list(self._series.items()):
            for key in [key for key, samples in series.items() if samples.gone_at_s < at_s - MAX_SAMPLES]:
                del series[key]
            if not series:
                del self._series[metric]

    def answer(self, query: Query, at_s: float) -> dict[Key, float]:
        """Return the values of the query at `at_s` by its labels ("" for one that a series lacks)."""
        found: dict[Key, list[tuple[Mapping[str, str], float]]] = defaultdict(list)
        with self._lock:
            for labels, samples in self._select(query.selector):
                value = _value(query, samples, at_s)
                if value is not None:
                    found[tuple(labels.get(name, "") for name in query.by)].append((labels, value))
        return {key: aggregate(query, values) for key, values in found.items()}

    def series(self, query: Query, now_s: float, span: tuple[int, int] | None = None) -> list[dict[str, Any]]:
        """Return the answer in Prometheus' form: the value at `now_s`, or one per second of the span."""
        if span is None:
            found = self.answer(query, now_s).items()
            return [{"metric": _metric(query, key), "value": [now_s, value]} for key, value in found]
        values: dict[Key, list[tuple[int, float]]] = {}
        for at_s in range(span[0], span[1] + 1):
            for key, value in self.answer(query, at_s).items():
                values.setdefault(key, []).append((at_s, value))
        return [{"metric": _metric(query, key), "values": each} for key, each in values.items()]

    def _select(self, selector: Selector) -> Iterable[tuple[dict[str, str], Samples]]:
        wanted = selector.labels.items()
        for key, samples in self._series.get(selector.metric, {}).items():
            if wanted <= key and selector.selects(labels := dict(key)):
                yield labels, samples


def _value(query: Query, samples: Samples, at_s: float) -> float | None:
    """The value of one series at that time; None if it has none."""
    if isinstance(query, Rate | Quantile):
        return samples.rate(at_s, query.window_s)
    newest = samples.newest(at_s)
    if newest is None:
        return None
    return at_s - newest[0] if isinstance(query, Age) else newest[1]
