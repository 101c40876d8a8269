"""Bounded series in memory, and the four query shapes over them with Prometheus' own arithmetic."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ipa.adapters.prometheus.queries import Age, Gauge, Quantile, Query, Rate, Selector

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


def _key(query: Query, labels: Mapping[str, str]) -> Key:
    return tuple(labels.get(name, "") for name in query.by)


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
        with self._lock:
            match query:
                case Rate():
                    return self._rates(query, at_s)
                case Quantile():
                    return self._quantiles(query, at_s)
                case Gauge():
                    return self._gauges(query, at_s)
                case Age():
                    return self._ages(query, at_s)

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

    def _rates(self, query: Rate, at_s: float) -> dict[Key, float]:
        sums: dict[Key, float] = {}
        for labels, samples in self._select(query.selector):
            rate = samples.rate(at_s, query.window_s)
            if rate is not None:
                label = _key(query, labels)
                sums[label] = sums.get(label, 0.0) + rate
        return sums

    def _quantiles(self, query: Quantile, at_s: float) -> dict[Key, float]:
        buckets: dict[Key, dict[float, float]] = {}
        for labels, samples in self._select(query.selector):
            rate = samples.rate(at_s, query.window_s)
            if rate is not None and "le" in labels:
                of_label = buckets.setdefault(_key(query, labels), {})
                bound = float(labels["le"])
                of_label[bound] = of_label.get(bound, 0.0) + rate
        return {label: histogram_quantile(query.quantile, rates) for label, rates in buckets.items()}

    def _gauges(self, query: Gauge, at_s: float) -> dict[Key, float]:
        sums: dict[Key, float] = {}
        for labels, samples in self._select(query.selector):
            newest = samples.newest(at_s)
            if newest is not None:
                label = _key(query, labels)
                sums[label] = sums.get(label, 0.0) + newest[1]
        return sums

    def _ages(self, query: Age, at_s: float) -> dict[Key, float]:
        oldest: dict[Key, float] = {}
        for labels, samples in self._select(query.selector):
            newest = samples.newest(at_s)
            if newest is not None:
                label = _key(query, labels)
                oldest[label] = min(oldest.get(label, math.inf), newest[0])
        return {label: at_s - time_s for label, time_s in oldest.items()}
