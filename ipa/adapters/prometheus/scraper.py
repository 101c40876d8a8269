"""The metrics server of this machine: scrapes targets and answers queries with Prometheus' arithmetic.

It runs in threads of this process, which needs no Prometheus.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

import httpx
from prometheus_client.parser import text_string_to_metric_families

from ipa.adapters.prometheus.queries import Key, Query, QueryShape, Rows
from ipa.model.errors import UnavailableError

log = logging.getLogger(__name__)

# The number of concurrent scrapes.
SCRAPERS = 8
# Two windows of the control loop with a margin, at one scrape per second.
MAX_SAMPLES = 900
# Prometheus' lookback: an older sample does not count as the current value.
LOOKBACK_S = 300.0

# Metric, labels and value.
Sample = tuple[str, Mapping[str, str], float]


@dataclass(slots=True)
class SampledSeries:
    """Samples of one series, oldest first. A stale series has `gone_at_s`, Prometheus' staleness marker."""

    labels: Mapping[str, str] = field(default_factory=dict)
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

    def value(self, query: Query, at_s: float) -> float | None:
        """Return the number that the query reads from the series at that time; None if there is none."""
        if query.shape is QueryShape.RATE:
            return self.rate(at_s, query.window_s)
        index = bisect_right(self.times_s, at_s) - 1
        if index < 0 or at_s >= self.gone_at_s or at_s - self.times_s[index] > LOOKBACK_S:
            return None
        return at_s - self.times_s[index] if query.shape is QueryShape.AGE else self.values[index]

    def samples(self, at_s: float, window_s: float) -> list[tuple[float, float]]:
        """The samples in (at - window, at]."""
        since, until = (bisect_right(self.times_s, time_s) for time_s in (at_s - window_s, at_s))
        return list(zip(self.times_s[since:until], self.values[since:until], strict=True))

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


class SeriesStore:
    """The series of all targets by metric and labels, bounded, in memory. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._series: dict[str, dict[frozenset[tuple[str, str]], SampledSeries]] = {}
        self._known: dict[str, set[tuple[str, frozenset[tuple[str, str]]]]] = {}

    def add(self, target: str, at_s: float, samples: Iterable[Sample]) -> None:
        """Add one scrape of a target. Series that are missing from it become stale.

        Series that have been stale for longer than any window are dropped.
        """
        scraped = set()
        with self._lock:
            for metric, labels, value in samples:
                whole = {**labels, "instance": target}
                key = frozenset(whole.items())
                series = self._series.setdefault(metric, {})
                if key not in series:
                    series[key] = SampledSeries(whole)
                series[key].add(at_s, value)
                scraped.add((metric, key))
            for metric, key in self._known.get(target, set()) - scraped:
                self._series[metric][key].gone_at_s = at_s
            self._known[target] = scraped
            for metric, series in list(self._series.items()):
                for key in [key for key, each in series.items() if each.gone_at_s < at_s - MAX_SAMPLES]:
                    del series[key]
                if not series:
                    del self._series[metric]

    def rows(self, query: Query, now_s: float) -> Rows:
        """Return the answer to the query at that time."""
        values: dict[Key, list[float]] = defaultdict(list)
        with self._lock:
            selected = [
                (query.key(series.labels), series)
                for series in self._series.get(query.selector.metric, {}).values()
                if query.selector.selects(series.labels)
            ]
            if query.shape is QueryShape.SAMPLES:
                samples = ((key, series.samples(now_s, query.window_s)) for key, series in selected)
                return {key: each for key, each in samples if each}
            for key, series in selected:
                value = series.value(query, now_s)
                if value is not None:
                    values[key].append(value)
        return {key: [(now_s, query.aggregate(each))] for key, each in values.items()}


class Scraper:
    """Scrapes the /metrics of every target, each interval until stopped, and answers queries."""

    def __init__(self, targets: Iterable[str], interval_s: float) -> None:
        self._store = SeriesStore()
        self._targets = tuple(targets)
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._client = httpx.Client(timeout=interval_s, trust_env=False)
        self._pool = ThreadPoolExecutor(SCRAPERS, thread_name_prefix="ipa-scrape")
        self._thread = threading.Thread(target=self._run, name="ipa-scraper", daemon=True)
        self._thread.start()

    def ask(self, query: Query) -> tuple[Rows, float]:
        """Answer a query without HTTP, with the monotonic time in s. UnavailableError: it was stopped."""
        if self._stopping.is_set():
            raise UnavailableError("the built-in metrics server has ended")
        return self._store.rows(query, time.time()), time.monotonic()

    def stop(self) -> None:
        """Stop scraping."""
        self._stopping.set()
        self._thread.join()
        self._pool.shutdown()
        self._client.close()

    def _run(self) -> None:
        due_s = time.monotonic()
        while not self._stopping.wait(max(0.0, due_s - time.monotonic())):
            scraped = self._pool.map(self._scrape, self._targets)
            for target, (at_s, samples) in zip(self._targets, scraped, strict=True):
                self._store.add(target, at_s, samples)
            # Scrapes missed during a slow one are not caught up.
            due_s = max(due_s + self._interval_s, time.monotonic())

    def _scrape(self, target: str) -> tuple[float, list[Sample]]:
        """The time and the samples of one scrape; no samples if the target does not answer properly."""
        at_s = time.time()
        try:
            response = self._client.get(f"http://{target}/metrics")
            response.raise_for_status()
            return at_s, list(parse_samples(response.text))
        except Exception as error:
            # Whatever a target sends (the parser raises many errors on invalid text), other scrapes continue.
            log.warning("scrape of %s failed: %s", target, type(error).__name__)
            return at_s, []


def parse_samples(text: str) -> Iterator[Sample]:
    """The samples of a page of metrics."""
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            yield sample.name, sample.labels, float(sample.value)
