"""The Metrics port over queries, which Prometheus answers over HTTP or the built-in scraper in-process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from ipa.adapters.prometheus.connection import PrometheusConnection
from ipa.adapters.prometheus.dialects import BATCHES, LOCAL, Dialect, queries
from ipa.adapters.prometheus.queries import Age, Quantile, Query
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

NO_QUEUE = Missing(MissingReason.NOT_ASKED, "this target has no central queue")
NO_SERIES = Missing(MissingReason.ABSENT, "no such series")
IDLE = "no request was answered in the window"


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
        reading = self._reading(pipeline)
        ages = reading.values("age")
        # Without any series of the router the stages' have the server's time.
        reading.values("stage_age")
        repeated_s = self._repeated_s(reading)
        stages = {stage.name: self._stage(reading, stage, repeated_s) for stage in pipeline.served}
        age = self._age(_pick(ages, WHOLE), repeated_s)
        rate = reading.value("arrivals", WHOLE, age)
        load = self._load(reading, "arrivals", age, window_s)
        if isinstance(load, Missing) and "entry_arrivals" in reading.asked:
            # The queue of the first stage counts the same requests.
            (entry,) = (stage for stage in pipeline.stages if not stage.after)
            rate = stages[entry.name].arrival_rate_rps
            label = self._dialect.stage_value(entry)
            entry_age = self._age(_pick(reading.values("stage_age"), label), repeated_s)
            load = self._load(reading, "entry_arrivals", entry_age, window_s)
        if _is_absent(load) and "alive" in reading.asked:
            load = self._idle(reading, window_s)
            if isinstance(load, Measured) and isinstance(rate, Missing):
                rate = Measured(0.0, load.age_s)
        sla_s = pipeline.sla.latency_s
        return Signals(
            arrival_rate_rps=rate,
            load=load,
            latency_s=reading.value("latency", WHOLE, age),
            stages=stages,
            attainment=self._attainment(reading, sla_s, age),
            parts=self._parts(reading, pipeline, age) if "part_latency" in reading.asked else {},
        )

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        """Return the load over the last `window_s` seconds, by two queries."""
        reading = self._reading(pipeline)
        ages = reading.values("age")
        age = self._age(_pick(ages, WHOLE), self._repeated_s(reading))
        load = self._load(reading, "arrivals", age, window_s)
        return self._idle(reading, window_s) if _is_absent(load) and "alive" in reading.asked else load

    def _reading(self, pipeline: Pipeline) -> _Reading:
        asked = queries(pipeline, self._dialect, self._namespace_label)
        return _Reading(self._ask, asked, self._monotonic_s())

    def _repeated_s(self, reading: _Reading) -> float:
        """The seconds since the server first answered with its newest time."""
        if not reading.server_now_s:
            # No series, so no time.
            return 0.0
        query = str(reading.asked["age"])
        before = self._answered.get(query)
        if before is None or before[0] != reading.server_now_s:
            self._answered[query] = before = (reading.server_now_s, reading.fetched_s)
        return max(reading.began_s - before[1], 0.0)

    def _age(self, age: Value, repeated_s: float) -> Value:
        """The age of the samples; Missing if they are stale."""
        if isinstance(age, Missing):
            return age
        age_s = age.value + repeated_s
        if age_s > self._stale_after_s:
            detail = f"the newest sample is {age_s:.0f} s old, the limit is {self._stale_after_s:g} s"
            return Missing(MissingReason.STALE, detail, age_s)
        return Measured(age_s)

    def _stage(self, reading: _Reading, stage: Stage, repeated_s: float) -> StageSignals:
        label, asked = self._dialect.stage_value(stage), reading.asked
        age = self._age(_pick(reading.values("stage_age"), label), repeated_s)
        served = {
            tuple(key.split(BETWEEN, 1)): rate for key, rate in reading.informing("stage_variants").items()
        }
        found = StageSignals(
            arrival_rate_rps=reading.value("stage_arrivals", label, age),
            latency_s=reading.value("stage_latency", label, age),
            queue_length=reading.value("stage_queue", label, age) if "stage_queue" in asked else NO_QUEUE,
            batches=self._batches(reading, label, age) if "batches" in asked else NO_QUEUE,
            served={variant: rate for (name, variant), rate in served.items() if name == label},
        )
        return _with_held(reading, found, label, age) if "held" in asked else found

    def _batches(
        self, reading: _Reading, label: str, age: Value, prefix: str = ""
    ) -> Measured[Batches] | Missing:
        """The batches that the replicas of that label served; Missing if none was in the window."""
        if "batch_age" in reading.asked:
            age = self._age(_pick(reading.values("batch_age"), label), 0.0)
        # All three are asked, whatever the first answers.
        rates = [reading.value(prefix + name, label, age) for name in BATCHES]
        numbers = []
        for rate in rates:
            if isinstance(rate, Missing):
                return rate
            numbers.append(rate.value)
        count, seconds, items = numbers
        if not count:
            return Missing(MissingReason.ABSENT, "no batch was served in the window", rates[0].age_s)
        window_s = self._dialect.batches_window_s
        batches = Batches(count * window_s, seconds / count, items / count, window_s)
        return Measured(batches, rates[0].age_s or 0.0)

    def _attainment(self, reading: _Reading, sla_s: float, age: Value) -> Measured[Attainment] | Missing:
        """The requests that ended, and the share of them within the SLA."""
        if isinstance(age, Missing):
            return age
        buckets = _numbers(reading.values("answered"))
        lost = _numbers(reading.values("lost") if "lost" in reading.asked else {})
        if isinstance(buckets, Missing):
            return buckets
        if isinstance(lost, Missing):
            return lost
        ended = self._ended(buckets, sum(lost.values()), sla_s, age.age_s)
        if isinstance(ended, Missing):
            return ended
        # What only informs is left out if it cannot be read.
        window_s = self._dialect.rate_window_s
        rates = reading.informing("losses") if any(lost.values()) else {}
        losses = []
        for label, rate in rates.items():
            stage, _, cause = label.rpartition(BETWEEN)
            if rate > 0:
                losses.append(Loss(stage, cause, rate * window_s))
        losses.sort(key=lambda loss: (-loss.count, loss.stage, loss.cause))
        retried = sum(reading.informing("retried").values()) * window_s
        return replace(ended, value=replace(ended.value, losses=tuple(losses), retried=retried))

    def _parts(self, reading: _Reading, pipeline: Pipeline, age: Value) -> dict[str, PartSignals]:
        """The signals of each configuration side by side; none if they cannot be read."""
        reading.values("part_latency")
        buckets = _numbers(reading.values("part_answered"))
        lost = _numbers(reading.values("part_lost") if "part_lost" in reading.asked else {})
        if isinstance(age, Missing) or isinstance(buckets, Missing) or isinstance(lost, Missing):
            return {}
        by_part: dict[str, dict[str, float]] = {name: {} for name in lost}
        for labels, rate in buckets.items():
            name, _, bound = labels.rpartition(BETWEEN)
            by_part.setdefault(name, {})[bound] = rate
        stages = pipeline.served if "part_batches" in reading.asked else ()
        found = {}
        for name, rates in by_part.items():
            lost_rps = lost.get(name, 0.0)
            ended = self._ended(rates, lost_rps, pipeline.sla.latency_s, age.value)
            if isinstance(ended, Measured) and lost_rps:
                # Of which stage and cause is not known.
                losses = (Loss("", "failed", lost_rps * self._dialect.rate_window_s),)
                ended = replace(ended, value=replace(ended.value, losses=losses))
            found[name] = PartSignals(
                reading.value("part_latency", name, age),
                ended,
                {
                    stage.name: self._batches(
                        reading, f"{name}{BETWEEN}{self._dialect.stage_value(stage)}", age, "part_"
                    )
                    for stage in stages
                },
            )
        return found

    def _ended(
        self, buckets: Mapping[str, float], lost_rps: float, sla_s: float, age_s: float
    ) -> Measured[Attainment] | Missing:
        """The requests that ended, from the rates of answered ones by bucket and of those without an answer.

        The share in time is interpolated in its bucket.
        """
        try:
            rates = {float(bound): rate for bound, rate in buckets.items()}
        except ValueError:
            return Missing(MissingReason.INVALID, "a latency bucket without its bound")
        ended_rps = max(rates.values(), default=0.0) + lost_rps
        if not ended_rps:
            return Missing(MissingReason.ABSENT, IDLE, age_s)
        ratio, window_s = min(rate_within(rates, sla_s) / ended_rps, 1.0), self._dialect.rate_window_s
        return Measured(Attainment(ended_rps * window_s, ratio, window_s), age_s)

    def _load(self, reading: _Reading, name: str, age: Value, window_s: float) -> Load:
        """The load per second up to the server's time; a second without a rate is a gap."""
        if isinstance(age, Missing):
            return age
        span = self._span(reading, window_s)
        points = reading.range(name, span)
        return points if isinstance(points, Missing) else self._whole(points, span, window_s, age.value)

    def _idle(self, reading: _Reading, window_s: float) -> Load:
        """The load if what counts requests is scraped and has not seen any: 0 wherever it has no count.

        Missing if it is not scraped either. A first count has no rate yet.
        """
        age = self._age(_pick(reading.values("alive_age"), WHOLE), 0.0)
        if isinstance(age, Missing):
            return age
        span = self._span(reading, window_s)
        alive, points, counts = (reading.range(name, span) for name in ("alive", "arrivals", "counts"))
        if isinstance(alive, Missing):
            return alive
        idle = alive.keys() - ({} if isinstance(counts, Missing) else counts)
        rates = {} if isinstance(points, Missing) else points
        return self._whole(rates, span, window_s, age.value, idle)

    def _span(self, reading: _Reading, window_s: float) -> range:
        """The seconds of a load over that window, or over that of its rates if it is longer."""
        end_s = math.floor(reading.server_now_s)
        return range(end_s - round(max(window_s, self._dialect.rate_window_s)) + 1, end_s + 1)

    def _whole(
        self,
        points: Mapping[int, float],
        span: range,
        window_s: float,
        age_s: float,
        idle: Collection[int] = (),
    ) -> Load:
        """The load over that window, 0 in seconds that were `idle`.

        Missing if it has just begun to be seen: until the window of its rates is full they are too low, since
        Prometheus takes nothing to have come before the first sample.
        """
        mean_s = self._dialect.rate_window_s
        rates = tuple(points.get(at_s, 0.0 if at_s in idle else None) for at_s in span)
        first = next((at for at, rate in enumerate(rates) if rate is not None), 0)
        filling_s = mean_s - (len(rates) - first) * STEP_S
        if first and not idle and filling_s > 0:
            words = f"it has just begun to be seen; its means over {mean_s:g} s are whole in {filling_s:g} s"
            return Missing(MissingReason.ABSENT, words, age_s)
        return Measured(LoadHistory(STEP_S, rates[-round(window_s) :], mean_s, float(span.stop - 1)), age_s)


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


class _Reading:
    """The queries of one reading, each sent once.

    After one that the server does not answer all are Missing.
    """

    def __init__(self, source: Ask, asked: Mapping[str, Query], began_s: float) -> None:
        self._source, self.asked, self.began_s = source, asked, began_s
        self._values: dict[str, Mapping[str, Value] | Missing] = {}
        self._unreachable: Missing | None = None
        # Of the newest answer: the server's time, and the monotonic time of the fetch.
        self.server_now_s = self.fetched_s = 0.0

    def value(self, name: str, label: str, age: Value) -> Value:
        """The value of that label, with the age of its samples; Missing if those are missing or stale.

        A stale age explains the absence that follows from it, so it takes precedence.
        """
        value = _pick(self.values(name), label)
        if isinstance(age, Missing):
            return age
        return value if isinstance(value, Missing) else Measured(value.value, age.value)

    def informing(self, name: str) -> dict[str, float]:
        """The values by label; none if the source has none, or they cannot be read."""
        values = _numbers(self.values(name)) if name in self.asked else {}
        return {} if isinstance(values, Missing) else values

    def values(self, name: str) -> Mapping[str, Value] | Missing:
        """The values now, by the query's label, or its labels with BETWEEN; WHOLE without one."""
        if name not in self._values:
            self._values[name] = self._fetch(self.asked[name])
        return self._values[name]

    def _fetch(self, query: Query) -> Mapping[str, Value] | Missing:
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

    def range(self, name: str, span: range) -> Mapping[int, float] | Missing:
        """The values per second of the span, without the seconds that have none."""
        query = self.asked[name]
        result = self._ask(query, (span.start, span.stop - 1))
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


def _with_held(reading: _Reading, seen: StageSignals, label: str, age: Value) -> StageSignals:
    """The signals of a stage whose replicas have queues: its arrivals in items, and the items that wait.

    The seconds that requests spend in the replicas, per second, are the requests that are there on average
    (Little's law). Those that a replica works on are known from its batches; the others wait.
    """
    requests, held = (reading.value(name, label, age) for name in ("held", "held_seconds"))
    if isinstance(requests, Missing) or isinstance(held, Missing):
        return replace(seen, queue_length=requests if isinstance(requests, Missing) else held)
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
        return Missing(MissingReason.ABSENT, IDLE)
    if isinstance(query, Age) and -CLOCK_GRAIN_S <= value < 0:
        value = 0.0
    if not math.isfinite(value) or value < 0:
        return Missing(MissingReason.INVALID, f"the value {value:g}")
    return Measured(value)


def _several(label: str) -> Missing:
    return Missing(MissingReason.INVALID, f"several series where one was expected ({label or 'whole'})")


def _is_absent(value: Load) -> bool:
    return isinstance(value, Missing) and value.reason is MissingReason.ABSENT


def _pick(values: Mapping[str, Value] | Missing, label: str) -> Value:
    """The value of that label; Missing if there is no such series."""
    return values if isinstance(values, Missing) else values.get(label, NO_SERIES)
