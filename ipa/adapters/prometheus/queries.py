"""The queries to a metrics server: their PromQL, and the queries of a pipeline in the dialect of a source.

    rate      sum by (LABEL) (rate(METRIC{...}[5s]))
    gauge     sum by (LABEL) (METRIC{...})
    age       time() - min by (LABEL) (timestamp(METRIC{...}))
    samples   METRIC{...}[60s]

There may be several LABELs, or none for a single value. Sums aggregate several series (replicas, terminated
pods that were scraped until now); ages take the oldest, since a sum is as old as its oldest part. No user
text becomes PromQL: names are fixed, label values are escaped. The fifth query, NOW, reads the server's
clock.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from ipa.metering import labels as of
from ipa.metering import table
from ipa.model.pipeline import Pipeline, Stage

NOW = "vector(time())"
# Endings of a regular expression: the series may lack the label, the value may end in a number or anyhow.
OPTIONAL, NUMBER, ANYTHING = "|", "(-[0-9]+)?", ".*"

# The values of a query's labels, "" for one that a series lacks.
Key = tuple[str, ...]
# Time in s and value of each.
Samples = Sequence[tuple[float, float]]
# The answer to a query.
Rows = Mapping[Key, Samples]


@dataclass(frozen=True, slots=True)
class Matcher:
    """A label and its accepted values; `ending` matches the rest of the value after any of them."""

    label: str
    values: tuple[str, ...]
    ending: str = ""

    def __str__(self) -> str:
        if len(self.values) == 1 and not self.ending:
            return f'{self.label}="{_escape(self.values[0])}"'
        return f'{self.label}=~"{_escape(self._pattern)}"'

    @property
    def _pattern(self) -> str:
        # Each value as Go's QuoteMeta makes it: a regular expression that matches exactly that.
        literals = [re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", value) for value in self.values]
        return "|".join(literals) + self.ending

    def matches(self, value: str) -> bool:
        """True if the value of a series' label matches; the value is "" if the series lacks the label."""
        return value in self.values or (
            bool(self.ending) and re.fullmatch(self._pattern, value, re.DOTALL) is not None
        )


def exact(labels: Mapping[str, str]) -> tuple[Matcher, ...]:
    """The matchers of exactly these values."""
    return tuple(Matcher(label, (value,)) for label, value in labels.items())


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric's name and the matchers of its series."""

    metric: str
    matchers: tuple[Matcher, ...] = ()

    def __str__(self) -> str:
        return f"{self.metric}{{{','.join(map(str, self.matchers))}}}"

    def matcher(self, label: str) -> Matcher | None:
        """The matcher of that label."""
        return next((each for each in self.matchers if each.label == label), None)

    def selects(self, labels: Mapping[str, str]) -> bool:
        """True if it selects a series with these labels."""
        return all(each.matches(labels.get(each.label, "")) for each in self.matchers)


class QueryShape(StrEnum):
    """The number to read of each series: its value, age or rate over `window_s`; or the samples in that."""

    SAMPLES = "{selector}[{window}]"
    RATE = "sum{by} (rate({selector}[{window}]))"
    GAUGE = "sum{by} ({selector})"
    AGE = "time() - min{by} (timestamp({selector}))"


@dataclass(frozen=True, slots=True)
class Query:
    """The numbers of the selected series, aggregated by labels or over all."""

    shape: QueryShape
    selector: Selector
    by: tuple[str, ...] = ()
    window_s: float = 0.0

    def __str__(self) -> str:
        by = f" by ({', '.join(self.by)})" if self.by else ""
        return self.shape.value.format(by=by, selector=self.selector, window=duration(self.window_s))

    def key(self, labels: Mapping[str, str]) -> Key:
        """The values of its labels; of samples, which are of each series alone, all labels with theirs."""
        if self.shape is QueryShape.SAMPLES:
            return tuple(sorted(f"{name}={value}" for name, value in labels.items()))
        return tuple(labels.get(name, "") for name in self.by)

    def aggregate(self, values: Iterable[float]) -> float:
        """The aggregation of the values of several series."""
        return max(values) if self.shape is QueryShape.AGE else math.fsum(values)


def duration(seconds: float) -> str:
    """Return the PromQL duration: whole seconds, or milliseconds if they are not whole."""
    return f"{seconds:.0f}s" if float(seconds).is_integer() else f"{round(seconds * 1000)}ms"


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}


def _escape(value: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in value)


# A series that is followed is read over this window, and over that of the load when it is read first.
LATELY_S = 60.0

# The series of batches: their number, their seconds and their items.
BATCHES = ("batches", "batch_seconds", "batch_items")

# The series of a pipeline by what they tell; a source need not have all of them.
#   arrivals, latency                a counter of the requests, and the buckets of their latency
#   lost, losses                     requests without an answer, no fault of the client; by stage and cause
#   retried                          batches whose replica was lost
#   alive                            what is there, greater than 0, even before the first request
#   stage_arrivals, stage_latency, stage_queue    the same of the stages, and the items that wait
#   batches, batch_seconds, batch_items, stage_variants    of served batches; the items of each variant
#   held, held_seconds               requests that replicas with queues of their own answered, and their time
#                                    there; the series of batches are then of the replicas too
Series = Mapping[str, Selector]
# From a pipeline, the matchers of its own series, and the optional one of its namespace.
Select = Callable[[Pipeline, tuple[Matcher, ...], tuple[Matcher, ...]], Series]


@dataclass(frozen=True, slots=True)
class Dialect:
    """The names, labels and windows of a source's metrics.

    `identity_label` is the label that names the owner of a series, `identity` its value for a pipeline;
    `stage_label` and `stage_value` are the same for a stage, `held_label` for requests held by replicas.
    `part_label` is the label that distinguishes configurations side by side; empty if there is none.
    `tells_batches`: series of batches have that label too. A rate is the mean over `rate_window_s`, which
    spans at least two samples.
    """

    name: str
    select: Select
    rate_window_s: float
    latency_window_s: float
    batches_window_s: float
    identity_label: str
    stage_label: str
    identity: Callable[[Pipeline], str] = lambda pipeline: pipeline.name
    stage_value: Callable[[Stage], str] = lambda stage: stage.name
    # True if series may also say the namespace of what was scraped.
    has_namespaces: bool = True
    held_label: str = ""
    part_label: str = ""
    tells_batches: bool = False

    def __str__(self) -> str:
        return self.name


def queries(pipeline: Pipeline, dialect: Dialect, namespace_label: str = "") -> dict[str, Query]:
    """The queries of that pipeline by name, as far as the source has their series.

    A query of stages answers for all stages at once, one of parts for all configurations side by side.
    `entry_arrivals` counts the first stage alone, if it gets every request once and another process counts
    its requests than `arrivals`; `stage_variants` exists if a stage keeps several variants loaded.

    `namespace_label` is the label with the namespace of a series' target ("": series have none). Without it
    pipelines of one name in several namespaces may be summed.
    """
    own = exact({dialect.identity_label: dialect.identity(pipeline)})
    has_namespace = namespace_label and dialect.has_namespaces and pipeline.targets
    here = (Matcher(namespace_label, (pipeline.namespace,), OPTIONAL),) if has_namespace else ()
    series = dialect.select(pipeline, own, here)
    rate, gauge = QueryShape.RATE, QueryShape.GAUGE
    age, samples = QueryShape.AGE, QueryShape.SAMPLES
    mean_s, latency_s, batch_s = dialect.rate_window_s, dialect.latency_window_s, dialect.batches_window_s
    stage, part, held = (dialect.stage_label,), (dialect.part_label,), (dialect.held_label,)
    rows: list[tuple[str, str, QueryShape, tuple[str, ...], float]] = [
        ("age", "arrivals", age, (), 0.0),
        ("arrivals", "arrivals", samples, (), LATELY_S),
        ("latency", "latency", rate, ("le",), latency_s),
        ("answered", "latency", rate, ("le",), mean_s),
        ("lost", "lost", rate, (), mean_s),
        ("losses", "losses", rate, (of.STAGE.name, of.LOSS_CAUSE.name), mean_s),
        ("retried", "retried", rate, (), mean_s),
        ("alive", "alive", samples, (), LATELY_S),
        ("alive_age", "alive", age, (), 0.0),
        ("stage_age", "stage_arrivals", age, stage, 0.0),
        ("stage_arrivals", "stage_arrivals", rate, stage, mean_s),
        ("stage_latency", "stage_latency", rate, (*stage, "le"), latency_s),
        ("stage_queue", "stage_queue", gauge, stage, 0.0),
        *((name, name, rate, stage, batch_s) for name in BATCHES),
        *((name, name, rate, held, batch_s) for name in ("held", "held_seconds")),
    ]
    if "held" in series:
        # These series come from another process than the stages' arrivals.
        rows.append(("batch_age", "batches", age, stage, 0.0))
    if any(each.residents > 1 for each in pipeline.served):
        rows.append(("stage_variants", "stage_variants", rate, (*stage, of.VARIANT.name), batch_s))
    if dialect.part_label and (pipeline.sets or pipeline.canary is not None):
        rows += [
            ("part_latency", "latency", rate, (*part, "le"), latency_s),
            ("part_answered", "latency", rate, (*part, "le"), mean_s),
            ("part_lost", "lost", rate, part, mean_s),
        ]
        if dialect.tells_batches:
            rows += [(f"part_{name}", name, rate, part + stage, batch_s) for name in BATCHES]
    by_name = {
        name: Query(shape, series[of], by, window_s) for name, of, shape, by, window_s in rows if of in series
    }
    if "stage_queue" in series and (entry := entry_stage(pipeline)):
        counted = series["stage_arrivals"]
        first = exact({dialect.stage_label: dialect.stage_value(entry)})
        entered = replace(counted, matchers=counted.matchers + first)
        by_name["entry_arrivals"] = Query(samples, entered, (), LATELY_S)
    return by_name


def entry_stage(pipeline: Pipeline) -> Stage | None:
    """The stage that gets every request and has a queue; None if there is none."""
    entries = [each for each in pipeline.stages if not each.after]
    return entries[0] if len(entries) == 1 and entries[0].variants else None


def _router_and_queues(pipeline: Pipeline, own: tuple[Matcher, ...], here: tuple[Matcher, ...]) -> Series:
    """The queries of the data plane's router and queues."""
    names = {
        "arrivals": table.ROUTER_ARRIVALS.name,
        "latency": table.ROUTER_SECONDS.bucket,
        "losses": table.ROUTER_LOSSES.name,
        "retried": table.QUEUE_RETRIES.name,
        "stage_arrivals": table.QUEUE_ARRIVALS.name,
        "stage_latency": table.QUEUE_STAGE_SECONDS.bucket,
        "stage_queue": table.QUEUE_LENGTH.name,
        "batches": table.QUEUE_SERVICE_SECONDS.count,
        "batch_seconds": table.QUEUE_SERVICE_SECONDS.sum,
        "batch_items": table.QUEUE_BATCH_SIZE.sum,
        "stage_variants": table.QUEUE_VARIANT_ITEMS.name,
    }
    unanswered = Matcher("outcome", ("dropped", "failed"))
    lost = Selector(table.ROUTER_REQUESTS.name, (*own, *here, unanswered))
    return {"lost": lost} | {name: Selector(metric, own + here) for name, metric in names.items()}


# Our router and queues on this machine. Rates over five scrapes of a second: the mean a plan is made for
# (forecast.SMOOTH_S). A p99 wants a hundred requests, a change should show within two ticks. Batches over
# a tick: a mean wants fewer than a quantile.
LOCAL = Dialect(
    *("local", _router_and_queues, 5.0, 15.0, 10.0, "pipeline", "stage"),
    has_namespaces=False,
    part_label="part",
    tells_batches=True,
)
# The same on a cluster, scraped every 5 to 15 s.
ON_CLUSTER = replace(
    LOCAL,
    name="split",
    rate_window_s=30.0,
    latency_window_s=60.0,
    batches_window_s=30.0,
    has_namespaces=True,
    part_label="",
    tells_batches=False,
)
