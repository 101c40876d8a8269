"""The Metrics port over queries, which Prometheus answers over HTTP or the built-in scraper in-process."""

from __future__ import annotations

import math
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np

from ipa.adapters.prometheus.queries import (
    BATCHES,
    LATELY_S,
    LOCAL,
    Dialect,
    Key,
    Query,
    QueryShape,
    Rows,
    entry_stage,
    queries,
)
from ipa.adapters.prometheus.server import Ask, PrometheusHttp, SharedQueries, check_connection
from ipa.control.counters import Counted, load_of
from ipa.control.ports import Load, PartSignals, Signals, StageSignals
from ipa.model.errors import InputError, UnavailableError
from ipa.model.observation import Attainment, Batches, LoadHistory, Loss, Measured, Missing, MissingReason
from ipa.model.pipeline import Pipeline, Stage
from ipa.settings import Settings

T = TypeVar("T")
# Neighbours tick within moments of each other.
SHARE_S = 1.0
WHOLE: Key = ()
# A sample's time may be this much later than the time of the query.
CLOCK_GRAIN_S = 1.0

NO_QUEUE = Missing(MissingReason.NOT_ASKED, "this target has no central queue")
NO_SERIES = Missing(MissingReason.ABSENT, "no such series")
IDLE = "no request was answered in the window"


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


def rate_within(buckets: Mapping[float, float], limit: float) -> float:
    """The rate of observations up to the limit, from cumulative rates by upper bound, interpolated linearly.

    An observation beyond the largest finite bound never counts as within the limit.
    """
    below_bound, below = 0.0, 0.0
    for bound in sorted(buckets):
        if bound >= limit:
            if math.isinf(bound):
                return below
            share = (limit - below_bound) / (bound - below_bound)
            return below + (max(buckets[bound], below) - below) * share
        below_bound, below = bound, max(buckets[bound], below)
    return below


class PrometheusMetrics:
    """A reader of a pipeline's load and latency in Prometheus. It returns Missing instead of raising errors.

    Ages are those of the samples by the server's own clock, so that a lagging scrape shows and a difference
    from our clock does not matter. An answer that a cache repeats ages from its first delivery. If one
    query of a reading gets no answer, its other queries are not sent.

    It queries the server of the settings, with queries that the `pipelines` share, or `ask` in-process.
    ConfigurationError if the server cannot be reached with these settings.
    """

    def __init__(
        self,
        settings: Settings,
        dialect: Dialect = LOCAL,
        *,
        ask: Ask | None = None,
        pipelines: Callable[[], Collection[Pipeline]] = tuple,
        share_s: float = SHARE_S,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings, self._dialect, self._monotonic_s = settings, dialect, monotonic_s
        # By query: the server's time in its newest answer, and the time of that answer's first delivery.
        self._delivered: dict[Query, tuple[float, float]] = {}
        self._followed: dict[Query, _Followed] = {}
        if ask is None:
            self.http = PrometheusHttp(check_connection(settings))
            ask = SharedQueries(dialect, pipelines, self.http.fetch, share_s, monotonic_s).ask
        self._ask = ask

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        """Return the pipeline's signals now, with its load over the last `window_s` seconds."""
        return self._reading(pipeline).signals(window_s)

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        """Return the load over the last `window_s` seconds, by few queries."""
        return self._reading(pipeline).load(window_s)

    def _reading(self, pipeline: Pipeline) -> _Reading:
        return _Reading(
            pipeline,
            self._dialect,
            queries(pipeline, self._dialect, self._settings.prometheus_namespace_label),
            self._ask,
            self._settings.stale_after_s,
            self._monotonic_s(),
            self._delivered,
            self._followed,
        )


class _MissingError(Exception):
    """Raised in a reading if a signal is missing."""

    def __init__(self, missing: Missing) -> None:
        super().__init__(missing.detail)
        self.missing = missing


def _read(read: Callable[[], T]) -> T | Missing:
    try:
        return read()
    except _MissingError as error:
        return error.missing


@dataclass(slots=True)
class _Reading:
    """The queries of one reading, each sent once, and the signals from their answers."""

    _pipeline: Pipeline
    _dialect: Dialect
    _queries: Mapping[str, Query]
    _ask: Ask
    _limit_s: float
    _began_s: float
    _delivered: dict[Query, tuple[float, float]]
    _followed: dict[Query, _Followed]
    _values: dict[str, Mapping[Key, float] | Missing] = field(default_factory=dict)
    _unreachable: Missing | None = None
    # Of the newest answer with a number: the server's time, and the monotonic time of the fetch.
    _server_now_s: float = 0.0
    _fetched_s: float = 0.0
    # The seconds since the server first answered with its newest time.
    _repeated_s: float | None = None

    def signals(self, window_s: float) -> Signals:
        """All signals of the pipeline; the load is that over `window_s`."""
        # Without series of the router, those of the stages give the server's time.
        for name in ("age", "stage_age"):
            _read(partial(self._all, name))
        load, mean_s = self.load(window_s), self._dialect.rate_window_s
        rate = load if isinstance(load, Missing) else Measured(load.value.mean_rps(mean_s) or 0.0, load.age_s)
        return Signals(
            arrival_rate_rps=rate,
            load=load,
            latency_s=self._measured("age", WHOLE, partial(self._quantile, "latency")),
            stages={stage.name: self._stage(stage) for stage in self._pipeline.served},
            attainment=self._measured("age", WHOLE, self._attainment),
            parts=self._parts() if "part_latency" in self._queries else {},
        )

    def load(self, window_s: float) -> Load:
        """The load per second up to the newest sample."""
        load = _read(partial(self._load, "arrivals", "age", WHOLE, window_s))
        entry = entry_stage(self._pipeline)
        if isinstance(load, Missing) and entry and "entry_arrivals" in self._queries:
            # The queue of the first stage counts the same requests.
            label = (self._dialect.stage_value(entry),)
            load = _read(partial(self._load, "entry_arrivals", "stage_age", label, window_s))
        return load

    def _rows(self, query: Query) -> Rows:
        if self._unreachable is not None:
            raise _MissingError(self._unreachable)
        try:
            rows, at_s = self._ask(query)
        except UnavailableError as error:
            self._unreachable = Missing(MissingReason.UNREACHABLE, error.message)
            raise _MissingError(self._unreachable) from None
        except InputError as error:
            raise _MissingError(Missing(MissingReason.INVALID, error.message)) from None
        if query.shape is not QueryShape.SAMPLES and rows:
            self._server_now_s, self._fetched_s = next(iter(rows.values()))[-1][0], at_s
        return rows

    def _all(self, name: str) -> Mapping[Key, float]:
        """The present values by the query's labels, not validated."""
        if name not in self._values:
            query = self._queries.get(name)
            rows = NO_SERIES if query is None else _read(partial(self._rows, query))
            self._values[name] = (
                rows if isinstance(rows, Missing) else {key: samples[-1][1] for key, samples in rows.items()}
            )
        values = self._values[name]
        if isinstance(values, Missing):
            raise _MissingError(values)
        return values

    def _value(self, name: str, key: Key = WHOLE) -> float:
        values = self._all(name)
        if key not in values:
            raise _MissingError(NO_SERIES)
        return _checked(values[key])

    def _numbers(self, name: str) -> dict[Key, float]:
        """All values; none if the source has no such series."""
        if name not in self._queries:
            return {}
        return {key: _checked(value) for key, value in self._all(name).items()}

    def _informing(self, name: str) -> dict[Key, float]:
        """The values of a query that decisions do not need; empty if they cannot be read."""
        values = _read(partial(self._numbers, name))
        return {} if isinstance(values, Missing) else values

    def _histograms(self, name: str) -> dict[Key, dict[float, float]]:
        """The rates by upper bound, for each value of the other labels."""
        histograms: dict[Key, dict[float, float]] = defaultdict(dict)
        for key, rate in self._numbers(name).items():
            try:
                histograms[key[:-1]][float(key[-1])] = rate
            except ValueError:
                words = "a latency bucket without its bound"
                raise _MissingError(Missing(MissingReason.INVALID, words)) from None
        return histograms

    def _quantile(self, name: str, key: Key = WHOLE) -> float:
        """The latency at the SLA's percentile."""
        buckets = self._histograms(name).get(key)
        if buckets is None:
            raise _MissingError(NO_SERIES)
        latency_s = histogram_quantile(self._pipeline.sla.percentile / 100, buckets)
        if math.isnan(latency_s):
            raise _MissingError(Missing(MissingReason.ABSENT, IDLE))
        return latency_s

    def _age(self, name: str, key: Key = WHOLE) -> float:
        """The age of the samples; raises if they are stale."""
        values = self._all(name)
        if key not in values:
            raise _MissingError(NO_SERIES)
        if self._repeated_s is None:
            # For the first age of a reading, whose query is sent each time.
            query, now_s = self._queries["age"], self._server_now_s
            if self._delivered.get(query, (0.0, 0.0))[0] != now_s:
                self._delivered[query] = now_s, self._fetched_s
            self._repeated_s = max(self._began_s - self._delivered[query][1], 0.0)
        age_s = values[key]
        age_s = _checked(0.0 if -CLOCK_GRAIN_S <= age_s < 0 else age_s) + self._repeated_s
        if age_s > self._limit_s:
            words = f"the newest sample is {age_s:.0f} s old, the limit is {self._limit_s:g} s"
            raise _MissingError(Missing(MissingReason.STALE, words, age_s))
        return age_s

    def _measured(self, age: str, of: Key, read: Callable[[], T]) -> Measured[T] | Missing:
        """The value, with the age of its samples; Missing if those are missing or stale.

        A stale age explains the absence that follows from it, so it takes precedence.
        """

        def measured() -> Measured[T]:
            age_s = self._age(age, of)
            return Measured(read(), age_s)

        return _read(measured)

    def _stage(self, stage: Stage) -> StageSignals:
        names, name = self._queries, self._dialect.stage_value(stage)
        latency = partial(self._quantile, "stage_latency", (name,))
        served = self._informing("stage_variants")
        signals = StageSignals(
            arrival_rate_rps=self._of_stage("stage_arrivals", name),
            latency_s=self._measured("stage_age", (name,), latency),
            queue_length=self._of_stage("stage_queue", name) if "stage_queue" in names else NO_QUEUE,
            batches=self._batches(name) if "batches" in names else NO_QUEUE,
            served={variant: rate for (where, variant), rate in served.items() if where == name},
        )
        return self._with_held(signals, name) if "held" in names else signals

    def _of_stage(self, query: str, name: str) -> Measured[float] | Missing:
        return self._measured("stage_age", (name,), partial(self._value, query, (name,)))

    def _batches(self, stage: str, part: str = "") -> Measured[Batches] | Missing:
        """The batches that the replicas with that label served; Missing if none was in the window."""
        key, prefix = ((part, stage), "part_") if part else ((stage,), "")
        own_age = "batch_age" if "batch_age" in self._queries else "stage_age"
        age, of = ("age", WHOLE) if part else (own_age, (stage,))

        def read() -> Batches:
            count, seconds, items = (self._value(prefix + name, key) for name in BATCHES)
            if not count:
                words = "no batch was served in the window"
                raise _MissingError(Missing(MissingReason.ABSENT, words, self._age(age, of)))
            window_s = self._dialect.batches_window_s
            return Batches(count * window_s, seconds / count, items / count, window_s)

        return self._measured(age, of, read)

    def _with_held(self, signals: StageSignals, name: str) -> StageSignals:
        """The signals of a stage whose replicas queue for themselves: arrivals in items, and waiting items.

        The seconds that requests spend in the replicas, per second, are the mean number of requests there
        (Little's law). The batches tell how many of them are being served; the others wait.
        """
        requests, held = (self._of_stage(query, name) for query in ("held", "held_seconds"))
        if isinstance(requests, Missing) or isinstance(held, Missing):
            return replace(signals, queue_length=requests if isinstance(requests, Missing) else held)
        if not requests.value:
            return replace(signals, queue_length=replace(held, value=0.0))
        if isinstance(signals.batches, Missing):
            # Without batches it is unknown how many of them wait.
            return replace(signals, queue_length=signals.batches)
        batches, rate = signals.batches.value, signals.arrival_rate_rps
        batches_rps = batches.count / batches.window_s
        items = batches_rps * batches.items / requests.value
        in_service = batches_rps * batches.service_s * batches.items
        return replace(
            signals,
            arrival_rate_rps=rate if isinstance(rate, Missing) else replace(rate, value=rate.value * items),
            queue_length=replace(held, value=max(held.value * items - in_service, 0.0)),
        )

    def _attainment(self) -> Attainment:
        """The requests that ended, and the share of them within the SLA."""
        buckets = self._histograms("answered").get(WHOLE, {})
        lost_rps = sum(self._numbers("lost").values())
        ended = self._ended(buckets, lost_rps, self._age("age"))
        window_s = self._dialect.rate_window_s
        rates = self._informing("losses") if lost_rps else {}
        losses = [Loss(stage, cause, rate * window_s) for (stage, cause), rate in rates.items() if rate > 0]
        losses.sort(key=lambda loss: (-loss.count, loss.stage, loss.cause))
        retried = sum(self._informing("retried").values()) * window_s
        return replace(ended, losses=tuple(losses), retried=retried)

    def _ended(self, buckets: Mapping[float, float], lost_rps: float, age_s: float) -> Attainment:
        """The requests that ended, from the rates of answered ones by bucket and of those without an answer.

        The share in time is interpolated in its bucket.
        """
        ended_rps, window_s = max(buckets.values(), default=0.0) + lost_rps, self._dialect.rate_window_s
        if not ended_rps:
            raise _MissingError(Missing(MissingReason.ABSENT, IDLE, age_s))
        ratio = min(rate_within(buckets, self._pipeline.sla.latency_s) / ended_rps, 1.0)
        return Attainment(ended_rps * window_s, ratio, window_s)

    def _parts(self) -> dict[str, PartSignals]:
        """The signals of each configuration that serves side by side; empty if they cannot be read."""
        try:
            self._age("age")
            buckets, lost = self._histograms("part_answered"), self._numbers("part_lost")
        except _MissingError:
            return {}
        stages = self._pipeline.served if "part_batches" in self._queries else ()

        def ended(part: Key) -> Attainment:
            lost_rps = lost.get(part, 0.0)
            attainment = self._ended(buckets.get(part, {}), lost_rps, self._age("age"))
            # The stage and the cause of the losses are not known.
            losses = (Loss("", "failed", lost_rps * attainment.window_s),) if lost_rps else ()
            return replace(attainment, losses=losses)

        return {
            part[0]: PartSignals(
                self._measured("age", WHOLE, partial(self._quantile, "part_latency", part)),
                self._measured("age", WHOLE, partial(ended, part)),
                {stage.name: self._batches(self._dialect.stage_value(stage), part[0]) for stage in stages},
            )
            for part in buckets.keys() | lost.keys()
        }

    def _load(self, name: str, age_name: str, key: Key, window_s: float) -> Measured[LoadHistory]:
        has_alive, begun_s = name == "arrivals" and "alive" in self._queries, self._server_now_s - window_s
        # What counts requests has no count before the first.
        is_idle = has_alive and key not in self._all(age_name)
        age_s = self._age("alive_age" if is_idle else age_name, key)
        series = self._samples(name, window_s)
        if is_idle or (has_alive and all(times_s[0] > begun_s for times_s, _ in series)):
            series += [(times_s, counts * 0.0) for times_s, counts in self._samples("alive", window_s)]
        load = load_of(series, window_s)
        if load is None:
            words = "its series has just begun; the next scrape tells the first rate"
            raise _MissingError(Missing(MissingReason.ABSENT, words, age_s) if series else NO_SERIES)
        return Measured(load, age_s)

    def _samples(self, name: str, window_s: float) -> list[Counted]:
        """The series of a query of samples in the window; only the newest samples are asked for again."""
        query, now_s = self._queries[name], self._server_now_s
        followed = self._followed.get(query)
        if followed is None or followed.read_s < now_s - LATELY_S or followed.window_s < window_s:
            followed = _Followed(window_s, now_s, {})
            rows = self._rows(replace(query, window_s=math.ceil(window_s) + LATELY_S))
        else:
            rows = self._rows(query)
        self._followed[query] = followed = followed.with_newest(rows, now_s)
        return list(followed.series.values())


@dataclass(frozen=True, slots=True)
class _Followed:
    """The series of a query of samples in a window and LATELY_S before it, as read at a server's time."""

    window_s: float
    read_s: float
    series: Mapping[Key, Counted]

    def with_newest(self, rows: Rows, now_s: float) -> _Followed:
        """These series with newer samples, without those that the window has left."""
        series = dict(self.series)
        for key, samples in rows.items():
            times_s, counts = np.array(samples).T
            if not (np.isfinite(counts) & (counts >= 0)).all():
                raise _MissingError(Missing(MissingReason.INVALID, "a count is negative or not finite"))
            if key in series:
                known_s, before = series[key]
                newer = times_s > known_s[-1]
                times_s, counts = np.append(known_s, times_s[newer]), np.append(before, counts[newer])
            series[key] = times_s, counts
        since_s = now_s - self.window_s - LATELY_S
        kept = {
            key: (times_s[(new := times_s > since_s)], counts[new])
            for key, (times_s, counts) in series.items()
        }
        return _Followed(self.window_s, now_s, {key: each for key, each in kept.items() if len(each[0])})


def _checked(value: float) -> float:
    """The value, if it is valid for a rate, length or age."""
    if not math.isfinite(value) or value < 0:
        raise _MissingError(Missing(MissingReason.INVALID, f"its value is {value:g}"))
    return value
