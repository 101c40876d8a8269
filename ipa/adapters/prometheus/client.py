"""The Metrics port over queries, which Prometheus answers over HTTP or the built-in scraper in-process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from ipa.adapters.prometheus.connection import PrometheusConnection
from ipa.adapters.prometheus.dialects import (
    LOCAL,
    BatchQueries,
    Dialect,
    HeldQueries,
    PartQueries,
    Queries,
    queries,
)
from ipa.adapters.prometheus.queries import Age, Gauge, Quantile, Query, Rate
from ipa.adapters.prometheus.query_batching import Ask, PipelineLabel, QueryBatcher, Span
from ipa.adapters.prometheus.series import rate_within
from ipa.adapters.prometheus.transport import STEP_S, PrometheusHttp
from ipa.control.ports import Load, PartSignals, Signals, StageSignals
from ipa.model.errors import InputError, UnavailableError
from ipa.model.observation import Attainment, Batches, LoadHistory, Loss, Measured, Missing, MissingReason
from ipa.model.pipeline import Pipeline, Stage
from ipa.settings import Settings

# Neighbours tick within moments of each other.
SHARE_S = 1.0
WHOLE = ""
# Between the values of several labels.
BETWEEN = "/"
# A sample's time may be this much later than the time of the query.
CLOCK_GRAIN_S = 1.0

Value = Measured[float] | Missing
# Answers queries in-process, or is a Prometheus (by its base URL alone if that suffices).
Source = str | PrometheusConnection | Ask


class PrometheusMetrics:
    """A reader of a pipeline's load and latency in Prometheus. It returns Missing instead of raising errors.

    Ages are those of the samples by the server's own clock, so a lagging scrape shows, and a clock that
    differs from ours does not matter. An answer that a cache repeats ages from its first delivery. If one
    query of a reading gets no answer, its other queries are not sent.

    `source` answers queries in-process, or is a Prometheus or its base URL, whose queries the `pipelines`
    share.
    """

    def __init__(
        self,
        source: Source,
        timeout_s: float = 2.0,
        stale_after_s: float = 15.0,
        dialect: Dialect = LOCAL,
        *,
        namespace_label: str = "namespace",
        pipelines: Callable[[], Collection[Pipeline]] = tuple,
        share_s: float = SHARE_S,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stale_after_s = stale_after_s
        self._dialect = dialect
        self._namespace_label = namespace_label
        self._monotonic_s = monotonic_s
        # By query: the server's time in its newest answer, and the time of that answer's first delivery.
        self._answered: dict[str, tuple[float, float]] = {}
        if isinstance(source, str):
            source = PrometheusConnection(source, timeout_s)
        if isinstance(source, PrometheusConnection):
            identity = PipelineLabel(dialect.identity_label, dialect.identity)
            self._http = PrometheusHttp(source)
            source = QueryBatcher(identity, pipelines, self._http.fetch, share_s, monotonic_s).ask
        self._ask = source

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        """Return the pipeline's signals now, with its load over the last `window_s` seconds."""
        asked = queries(pipeline, self._dialect, self._namespace_label)
        reading = _Reading(self._ask, self._monotonic_s())
        ages = reading.instant(asked.age)
        stage_ages = reading.instant(asked.stage_age)
        # Without any series of the router the stages' have the server's time.
        repeated_s = self._repeated_s(str(asked.age), reading)
        stage_rates = reading.instant(asked.stage_arrivals)
        stage_latencies = reading.instant(asked.stage_latency)
        stage_queues = reading.instant(asked.stage_queue) if asked.stage_queue else None
        stage_batches = _StageBatches(reading, asked.stage_batches) if asked.stage_batches else None
        held = _Held(reading, asked.stage_held) if asked.stage_held else None
        served = _by_stage(reading, asked.stage_variants)
        stages = {}
        for stage in pipeline.served:
            label = self._dialect.stage_value(stage)
            age = self._age(_pick(stage_ages, label), repeated_s)
            batches = (
                _NOT_ASKED if stage_batches is None else stage_batches.of(label, age, self._stale_after_s)
            )
            seen = StageSignals(
                arrival_rate_rps=_aged(_pick(stage_rates, label), age),
                latency_s=_aged(_pick(stage_latencies, label), age),
                queue_length=_NOT_ASKED if stage_queues is None else _aged(_pick(stage_queues, label), age),
                batches=batches,
                served=served.get(label, {}),
            )
            stages[stage.name] = seen if held is None else held.added(seen, label, age)
        age = self._age(_pick(ages, WHOLE), repeated_s)
        rate = _aged(_pick(reading.instant(asked.arrivals), WHOLE), age)
        load = self._load(reading, asked.arrivals, age, window_s)
        if isinstance(load, Missing) and asked.entry_arrivals is not None:
            # The queue of the first stage counts the same requests.
            (entry,) = (stage for stage in pipeline.stages if not stage.after)
            rate = stages[entry.name].arrival_rate_rps
            entry_age = self._age(_pick(stage_ages, self._dialect.stage_value(entry)), repeated_s)
            load = self._load(reading, asked.entry_arrivals, entry_age, window_s)
        if _is_absent(load) and asked.alive is not None:
            load = self._idle(reading, asked, window_s)
            if isinstance(load, Measured) and isinstance(rate, Missing):
                rate = Measured(0.0, load.age_s)
        return Signals(
            arrival_rate_rps=rate,
            load=load,
            latency_s=_aged(_pick(reading.instant(asked.latency), WHOLE), age),
            stages=stages,
            attainment=_attainment(reading, asked, pipeline.sla.latency_s, age),
            parts=self._parts(reading, asked.parts, pipeline, age) if asked.parts else {},
        )

    def _parts(
        self, reading: _Reading, asked: PartQueries, pipeline: Pipeline, age: Value
    ) -> dict[str, PartSignals]:
        """The signals of each configuration side by side; none if they cannot be read."""
        found = _parts(reading, asked, pipeline.sla.latency_s, age)
        if asked.batches is None:
            return found
        batches = _StageBatches(reading, asked.batches)

        def of(part: str, stage: Stage) -> Measured[Batches] | Missing:
            label = f"{part}{BETWEEN}{self._dialect.stage_value(stage)}"
            return batches.of(label, age, self._stale_after_s)

        return {
            name: replace(part, batches={stage.name: of(name, stage) for stage in pipeline.served})
            for name, part in found.items()
        }

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        """Return the load over the last `window_s` seconds, by two queries."""
        asked = queries(pipeline, self._dialect, self._namespace_label)
        reading = _Reading(self._ask, self._monotonic_s())
        ages = reading.instant(asked.age)
        age = self._age(_pick(ages, WHOLE), self._repeated_s(str(asked.age), reading))
        load = self._load(reading, asked.arrivals, age, window_s)
        return self._idle(reading, asked, window_s) if _is_absent(load) and asked.alive else load

    def _repeated_s(self, query: str, reading: _Reading) -> float:
        """The seconds since the server first answered with its newest time."""
        if not reading.server_now_s:
            # No series, so no time.
            return 0.0
        before = self._answered.get(query)
        if before is None or before[0] != reading.server_now_s:
            self._answered[query] = before = (reading.server_now_s, reading.fetched_s)
        return max(reading.began_s - before[1], 0.0)

    def _age(self, age: Value, repeated_s: float) -> Value:
        """The age of the samples; Missing if they are stale."""
        if isinstance(age, Measured):
            age = Measured(age.value + repeated_s)
        return _fresh(age, self._stale_after_s)

    def _load(self, reading: _Reading, asked: Rate, age: Value, window_s: float) -> Load:
        """The load per second up to the server's time; a second without a rate is a gap."""
        if isinstance(age, Missing):
            return age
        span = _span(reading, asked, window_s)
        points = reading.range(asked, span.start, span.stop - 1)
        return points if isinstance(points, Missing) else _whole(points, span, asked, window_s, age.value)

    def _idle(self, reading: _Reading, asked: Queries, window_s: float) -> Load:
        """The load if what counts requests is scraped and has not seen any: 0 wherever it has no count.

        Missing if it is not scraped either. A first count has no rate yet.
        """
        assert asked.alive is not None
        age = self._age(_pick(reading.instant(Age(asked.alive.selector)), WHOLE), 0.0)
        if isinstance(age, Missing):
            return age
        span = _span(reading, asked.arrivals, window_s)
        first_s, last_s = span.start, span.stop - 1
        alive = reading.range(asked.alive, first_s, last_s)
        points = reading.range(asked.arrivals, first_s, last_s)
        counts = reading.range(Gauge(asked.arrivals.selector), first_s, last_s)
        if isinstance(alive, Missing):
            return alive
        idle = alive.keys() - ({} if isinstance(counts, Missing) else counts)
        known = {} if isinstance(points, Missing) else points
        return _whole(known, span, asked.arrivals, window_s, age.value, idle)


def _span(reading: _Reading, asked: Rate, window_s: float) -> range:
    """The seconds of a load over that window, or over that of its rates if it is longer."""
    end_s = math.floor(reading.server_now_s)
    return range(end_s - round(max(window_s, asked.window_s)) + 1, end_s + 1)


def _whole(
    points: Mapping[int, float],
    span: range,
    asked: Rate,
    window_s: float,
    age_s: float,
    idle: Collection[int] = (),
) -> Load:
    """The load over that window, 0 in seconds that were `idle`.

    Missing if it has just begun to be seen: until the window of its rates is full they are too low, since
    Prometheus takes nothing to have come before the first sample.
    """
    rates = tuple(points.get(at_s, 0.0 if at_s in idle else None) for at_s in span)
    first = next((at for at, rate in enumerate(rates) if rate is not None), 0)
    filling_s = asked.window_s - (len(rates) - first) * STEP_S
    if first and not idle and filling_s > 0:
        words = (
            f"it has just begun to be seen; its means over {asked.window_s:g} s are whole in {filling_s:g} s"
        )
        return Missing(MissingReason.ABSENT, words, age_s)
    history = LoadHistory(STEP_S, rates[-round(window_s) :], asked.window_s, float(span.stop - 1))
    return Measured(history, age_s)


def metrics_of(
    settings: Settings, source: Source, dialect: Dialect, pipelines: Mapping[str, Pipeline]
) -> PrometheusMetrics:
    """The reader of the source, with the deadlines and labels of the settings."""
    return PrometheusMetrics(
        source,
        settings.prometheus_timeout_s,
        settings.stale_after_s,
        dialect,
        namespace_label=settings.prometheus_namespace_label,
        pipelines=pipelines.values,
    )


_NOT_ASKED = Missing(MissingReason.NOT_ASKED, "this target has no central queue")


class _Reading:
    """The queries of one reading; after one that the server does not answer all are Missing."""

    def __init__(self, source: Ask, began_s: float) -> None:
        self._source, self.began_s = source, began_s
        self._unreachable: Missing | None = None
        # Of the newest answer: the server's time, and the monotonic time of the fetch.
        self.server_now_s = self.fetched_s = 0.0

    def instant(self, query: Query) -> Mapping[str, Value] | Missing:
        """The values now, by the query's label, or its labels with BETWEEN; WHOLE without one."""
        result = self._ask(query)
        if isinstance(result, Missing):
            return result
        values: dict[str, Value] = {}
        for series in result:
            try:
                label = BETWEEN.join(series["metric"].get(name, "") for name in query.by)
                at_s, text = series["value"]
                value, self.server_now_s = float(text), float(at_s)
            except (AttributeError, KeyError, TypeError, ValueError):
                return Missing(MissingReason.INVALID, "a series that is not a label, a time and a number")
            # Each query aggregates to one series per label: two mean that an assumption is wrong.
            values[label] = _several(label) if label in values else _checked(value, query)
        return values

    def range(self, query: Rate | Gauge, start_s: int, end_s: int) -> Mapping[int, float] | Missing:
        """The values per second from `start_s` to `end_s`, without the seconds that have none."""
        result = self._ask(query, (start_s, end_s))
        if isinstance(result, Missing):
            return result
        if not result:
            return Missing(MissingReason.ABSENT, "no rate in the window")
        if len(result) > 1:
            return _several(WHOLE)
        points: dict[int, float] = {}
        try:
            for at_s, text in result[0]["values"]:
                value = _checked(float(text), query)
                if isinstance(value, Missing):
                    return value
                points[round(float(at_s))] = value.value
        except (KeyError, TypeError, ValueError):
            return Missing(MissingReason.INVALID, "a series that is not times and numbers")
        return points

    def _ask(self, query: Query, span: Span = None) -> list[Any] | Missing:
        if self._unreachable is not None:
            return self._unreachable
        try:
            answered = self._source(query, span)
        except UnavailableError as error:
            self._unreachable = Missing(MissingReason.UNREACHABLE, error.message)
            return self._unreachable
        except InputError as error:
            return Missing(MissingReason.INVALID, error.message)
        self.fetched_s = answered.at_s
        return answered.result


def _attainment(
    reading: _Reading, asked: Queries, sla_s: float, age: Value
) -> Measured[Attainment] | Missing:
    """The requests that ended, and the share of them within the SLA, interpolated in its latency bucket."""
    if isinstance(age, Missing):
        return age
    buckets = _numbers(reading.instant(asked.answered))
    lost = _numbers(reading.instant(asked.lost) if asked.lost else {})
    if isinstance(buckets, Missing):
        return buckets
    if isinstance(lost, Missing):
        return lost
    seen = _ended(buckets, sum(lost.values()), sla_s, asked.answered.window_s, age.age_s)
    if isinstance(seen, Missing):
        return seen
    losses = _losses(reading, asked.losses) if asked.losses and any(lost.values()) else ()
    return replace(seen, value=replace(seen.value, losses=losses, retried=_retried(reading, asked.retried)))


def _retried(reading: _Reading, asked: Rate | None) -> float:
    """The batches that were served again; 0 if they cannot be read, since they only inform."""
    rates = _numbers(reading.instant(asked)) if asked else {}
    return 0.0 if asked is None or isinstance(rates, Missing) else sum(rates.values()) * asked.window_s


def _ended(
    buckets: Mapping[str, float], lost_rps: float, sla_s: float, window_s: float, age_s: float
) -> Measured[Attainment] | Missing:
    """The requests that ended, from the rates of answered ones by bucket and of those without an answer."""
    try:
        rates = {float(bound): rate for bound, rate in buckets.items()}
    except ValueError:
        return Missing(MissingReason.INVALID, "a latency bucket without its bound")
    ended_rps = max(rates.values(), default=0.0) + lost_rps
    if not ended_rps:
        return Missing(MissingReason.ABSENT, _IDLE, age_s)
    ratio = min(rate_within(rates, sla_s) / ended_rps, 1.0)
    return Measured(Attainment(ended_rps * window_s, ratio, window_s), age_s)


def _parts(reading: _Reading, asked: PartQueries, sla_s: float, age: Value) -> dict[str, PartSignals]:
    """The latency and the ended requests of each configuration side by side; none if they cannot be read."""
    latencies = reading.instant(asked.latency)
    buckets = _numbers(reading.instant(asked.answered))
    lost = _numbers(reading.instant(asked.lost) if asked.lost else {})
    if isinstance(age, Missing) or isinstance(buckets, Missing) or isinstance(lost, Missing):
        return {}
    by_part: dict[str, dict[str, float]] = {name: {} for name in lost}
    for labels, rate in buckets.items():
        name, _, bound = labels.rpartition(BETWEEN)
        by_part.setdefault(name, {})[bound] = rate
    window_s = asked.answered.window_s
    return {
        name: PartSignals(
            _aged(_pick(latencies, name), age),
            _failed(_ended(rates, lost.get(name, 0.0), sla_s, window_s, age.value), lost.get(name, 0.0)),
        )
        for name, rates in by_part.items()
    }


def _failed(seen: Measured[Attainment] | Missing, lost_rps: float) -> Measured[Attainment] | Missing:
    """With the failed requests, of which stage and cause are not known."""
    if isinstance(seen, Missing) or not lost_rps:
        return seen
    losses = (Loss("", "failed", lost_rps * seen.value.window_s),)
    return replace(seen, value=replace(seen.value, losses=losses))


def _losses(reading: _Reading, asked: Rate) -> tuple[Loss, ...]:
    """The losses by stage and cause, most first; none if they cannot be read, since they only inform."""
    rates = _numbers(reading.instant(asked))
    if isinstance(rates, Missing):
        return ()
    found = []
    for label, rate in rates.items():
        stage, _, cause = label.rpartition(BETWEEN)
        if rate > 0:
            found.append(Loss(stage, cause, rate * asked.window_s))
    return tuple(sorted(found, key=lambda loss: (-loss.count, loss.stage, loss.cause)))


def _by_stage(reading: _Reading, asked: Rate | None) -> dict[str, dict[str, float]]:
    """The items a second of each variant, by stage; empty if they cannot be read, since they only inform."""
    rates = _numbers(reading.instant(asked)) if asked else {}
    found: dict[str, dict[str, float]] = {}
    for label, rate in {} if isinstance(rates, Missing) else rates.items():
        stage, _, variant = label.partition(BETWEEN)
        found.setdefault(stage, {})[variant] = rate
    return found


def _numbers(values: Mapping[str, Value] | Missing) -> dict[str, float] | Missing:
    """The values by label; the first that is missing."""
    if isinstance(values, Missing):
        return values
    found = {}
    for label, value in values.items():
        if isinstance(value, Missing):
            return value
        found[label] = value.value
    return found


class _StageBatches:
    """The batches that the stages' replicas served, from three rates of each stage."""

    def __init__(self, reading: _Reading, asked: BatchQueries) -> None:
        self._window_s = asked.count.window_s
        self._rates = [reading.instant(query) for query in (asked.count, asked.service, asked.items)]
        self._ages = reading.instant(asked.age) if asked.age else None

    def of(self, label: str, age: Value, stale_after_s: float) -> Measured[Batches] | Missing:
        """The batches of the stage with that label; Missing if none was served in the window."""
        if self._ages is not None:
            age = _fresh(_pick(self._ages, label), stale_after_s)
        rates = [_aged(_pick(values, label), age) for values in self._rates]
        for rate in rates:
            if isinstance(rate, Missing):
                return rate
        count, service, items = (rate.value for rate in rates if isinstance(rate, Measured))
        if not count:
            return Missing(MissingReason.ABSENT, "no batch was served in the window", rates[0].age_s)
        batches = Batches(count * self._window_s, service / count, items / count, self._window_s)
        return Measured(batches, rates[0].age_s or 0.0)


class _Held:
    """The items that wait in replicas with queues of their own, by Little's law, and the items of a request.

    The seconds that requests spend in the replicas, per second, are the requests that are there on average.
    Those that a replica works on are known from its batches; the others wait.
    """

    def __init__(self, reading: _Reading, asked: HeldQueries) -> None:
        self._requests, self._seconds = (reading.instant(each) for each in (asked.requests, asked.seconds))

    def added(self, seen: StageSignals, label: str, age: Value) -> StageSignals:
        """The signals of the stage with that label, with its arrivals in items and the items that wait."""
        requests, held = (_aged(_pick(values, label), age) for values in (self._requests, self._seconds))
        if isinstance(requests, Missing) or isinstance(held, Missing):
            missing = requests if isinstance(requests, Missing) else held
            return replace(seen, queue_length=missing)
        if not requests.value:
            return replace(seen, queue_length=Measured(0.0, held.age_s))
        if isinstance(seen.batches, Missing):
            # It is not known which of them wait.
            return replace(seen, queue_length=seen.batches)
        batches = seen.batches.value
        batches_rps = batches.count / batches.window_s
        items = batches_rps * batches.items / requests.value
        in_service = batches_rps * batches.service_s * batches.items
        rate = seen.arrival_rate_rps
        return replace(
            seen,
            arrival_rate_rps=rate if isinstance(rate, Missing) else replace(rate, value=rate.value * items),
            queue_length=Measured(max(held.value * items - in_service, 0.0), held.age_s),
        )


def _checked(value: float, query: Query) -> Value:
    """The value; Missing if it is not valid for a rate, latency, length or age.

    A quantile of a histogram without observations is NaN: it is absent, not invalid.
    """
    if math.isnan(value) and isinstance(query, Quantile):
        return Missing(MissingReason.ABSENT, _IDLE)
    if isinstance(query, Age) and -CLOCK_GRAIN_S <= value < 0:
        value = 0.0
    if not math.isfinite(value) or value < 0:
        return Missing(MissingReason.INVALID, f"the value {value:g}")
    return Measured(value)


_IDLE = "no request was answered in the window"


def _fresh(age: Value, stale_after_s: float) -> Value:
    """The age of the samples; Missing if they are stale."""
    if isinstance(age, Measured) and age.value > stale_after_s:
        detail = f"the newest sample is {age.value:.0f} s old, the limit is {stale_after_s:g} s"
        return Missing(MissingReason.STALE, detail, age.value)
    return age


def _several(label: str) -> Missing:
    return Missing(MissingReason.INVALID, f"several series where one was expected ({label or 'whole'})")


def _is_absent(value: Load) -> bool:
    return isinstance(value, Missing) and value.reason is MissingReason.ABSENT


def _pick(values: Mapping[str, Value] | Missing, label: str) -> Value:
    """The value of that label; Missing if there is no such series."""
    if isinstance(values, Missing):
        return values
    return values.get(label, Missing(MissingReason.ABSENT, "no such series"))


def _aged(value: Value, age: Value) -> Value:
    """The value with the age of its samples; Missing if those are missing or stale.

    A stale age explains the absence that follows from it, so it takes precedence.
    """
    if isinstance(age, Missing):
        return age
    return value if isinstance(value, Missing) else Measured(value.value, age.value)
