"""Dialects of metrics: the names, labels and windows of each source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ipa.adapters.prometheus.queries import Age, Gauge, Quantile, Rate, Selector
from ipa.metering import labels as of
from ipa.metering import table
from ipa.model.pipeline import Pipeline, Stage

LOSS_LABELS = (of.STAGE.name, of.LOSS_CAUSE.name)


@dataclass(frozen=True, slots=True)
class BatchQueries:
    """Expressions of a stage's served batches, their seconds and their items, each per second.

    `age` is that of their samples, where another process than the stage's arrivals has them.
    """

    count: Rate
    service: Rate
    items: Rate
    age: Age | None = None


@dataclass(frozen=True, slots=True)
class HeldQueries:
    """Expressions of the requests that a stage's replicas answered and of their time there, per second."""

    requests: Rate
    seconds: Rate


@dataclass(frozen=True, slots=True)
class PartQueries:
    """Queries of several configurations side by side, which answer for all by `label`.

    `batches` answer by `label` and that of the stage; None where series of batches have no `label`.
    """

    label: str
    latency: Quantile
    answered: Rate
    lost: Rate | None
    batches: BatchQueries | None


@dataclass(frozen=True, slots=True)
class Queries:
    """The queries of one pipeline. Those of the stages answer for all stages at once, by `stage_label`.

    `entry_arrivals` are those of the first stage alone, where it gets every request once and another process
    counts them than `arrivals`. `stage_variants` are the items that each variant answered, by `stage_label`
    and variant, where more than one may. `alive` counts the processes that have no series of arrivals before
    the first request.
    """

    age: Age
    arrivals: Rate
    latency: Quantile
    answered: Rate
    lost: Rate | None
    losses: Rate | None
    retried: Rate | None
    entry_arrivals: Rate | None
    alive: Gauge | None
    stage_label: str
    stage_age: Age
    stage_arrivals: Rate
    stage_latency: Quantile
    stage_queue: Gauge | None
    stage_batches: BatchQueries | None
    stage_variants: Rate | None = None
    stage_held: HeldQueries | None = None
    parts: PartQueries | None = None


@dataclass(frozen=True, slots=True)
class Selectors:
    """The series of a pipeline, and those of its stages; None for those that the source does not have.

    `lost` counts requests without an answer that are no fault of the client, `losses` tells their stages and
    causes by `LOSS_LABELS`, `retried` counts batches whose replica was lost. `stage_batches` are the series
    of count, seconds and items of batches, `stage_variants` that of items by variant. `stage_held` are those
    of the requests that replicas answered and of their seconds there, where replicas have queues of their
    own; both are then of the replicas, not of what calls them. `alive` is what is there, greater than 0, even
    before the first request.
    """

    arrivals: Selector
    latency: Selector
    stage_arrivals: Selector
    stage_latency: Selector
    stage_queue: Selector | None = None
    stage_batches: tuple[Selector, Selector, Selector] | None = None
    stage_variants: Selector | None = None
    stage_held: tuple[Selector, Selector] | None = None
    lost: Selector | None = None
    losses: Selector | None = None
    retried: Selector | None = None
    alive: Selector | None = None


# Labels of the pipeline's own, and those that say its namespace if series say one.
Select = Callable[[Pipeline, Mapping[str, str], Mapping[str, str]], Selectors]


@dataclass(frozen=True, slots=True)
class Dialect:
    """Whose metrics are read.

    `identity_label` is the label that says whose a series is, `identity` what it says of a pipeline;
    `stage_label` and `stage_value` are the same for a stage; in `stage_held` its label is `held_label`.
    `part_label` is the label that tells configurations side by side; empty if there are none. It
    `tells_batches` if series of batches have that label too. A rate is the mean over `rate_window_s`: two
    samples at least.
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


def queries(pipeline: Pipeline, dialect: Dialect, namespace_label: str = "") -> Queries:
    """The queries of that pipeline in that dialect.

    `namespace_label` is the label in which series say the namespace of their target, where they do ("": none
    does). Without it pipelines of one name in several namespaces may be summed.
    """
    labels = {dialect.identity_label: dialect.identity(pipeline)}
    known = namespace_label and dialect.has_namespaces and pipeline.targets
    found = dialect.select(pipeline, labels, {namespace_label: pipeline.namespace} if known else {})
    rate_s, latency_s, label = dialect.rate_window_s, dialect.latency_window_s, dialect.stage_label
    quantile = pipeline.sla.percentile / 100
    batches = _batches(dialect, found, label)
    held = None
    if found.stage_held:
        window_s, by = dialect.batches_window_s, (dialect.held_label,)
        requests, seconds = (Rate(selector, window_s, by) for selector in found.stage_held)
        held = HeldQueries(requests, seconds)
    parts = None
    if dialect.part_label and (pipeline.sets or pipeline.canary is not None):
        part = dialect.part_label
        parts = PartQueries(
            part,
            Quantile(quantile, found.latency, latency_s, (part,)),
            Rate(found.latency, rate_s, (part, "le")),
            Rate(found.lost, rate_s, (part,)) if found.lost else None,
            _batches(dialect, found, part, label) if dialect.tells_batches else None,
        )
    return Queries(
        age=Age(found.arrivals),
        arrivals=Rate(found.arrivals, rate_s),
        latency=Quantile(quantile, found.latency, latency_s),
        answered=Rate(found.latency, rate_s, ("le",)),
        lost=Rate(found.lost, rate_s) if found.lost else None,
        losses=Rate(found.losses, rate_s, LOSS_LABELS) if found.losses else None,
        retried=Rate(found.retried, rate_s) if found.retried else None,
        entry_arrivals=_entry_arrivals(pipeline, dialect, found),
        alive=Gauge(found.alive) if found.alive else None,
        stage_label=label,
        stage_age=Age(found.stage_arrivals, (label,)),
        stage_arrivals=Rate(found.stage_arrivals, rate_s, (label,)),
        stage_latency=Quantile(quantile, found.stage_latency, latency_s, (label,)),
        stage_queue=Gauge(found.stage_queue, (label,)) if found.stage_queue else None,
        stage_batches=batches,
        stage_variants=_variants(pipeline, dialect, found),
        stage_held=held,
        parts=parts,
    )


def _batches(dialect: Dialect, found: Selectors, *by: str) -> BatchQueries | None:
    if not found.stage_batches:
        return None
    count, service, items = (Rate(it, dialect.batches_window_s, by) for it in found.stage_batches)
    return BatchQueries(count, service, items, Age(found.stage_batches[0], by) if found.stage_held else None)


def _variants(pipeline: Pipeline, dialect: Dialect, found: Selectors) -> Rate | None:
    if not found.stage_variants or not any(it.residents > 1 for it in pipeline.served):
        return None
    return Rate(found.stage_variants, dialect.batches_window_s, (dialect.stage_label, of.VARIANT.name))


def _entry_arrivals(pipeline: Pipeline, dialect: Dialect, found: Selectors) -> Rate | None:
    entries = [stage for stage in pipeline.stages if not stage.after]
    if found.stage_queue is None or len(entries) != 1 or not entries[0].variants:
        return None
    asked = found.stage_arrivals
    labels = {**asked.labels, dialect.stage_label: dialect.stage_value(entries[0])}
    return Rate(replace(asked, labels=labels), dialect.rate_window_s)


def _router_and_queues(pipeline: Pipeline, labels: Mapping[str, str], here: Mapping[str, str]) -> Selectors:
    """The series of our router and queues."""
    return Selectors(
        arrivals=Selector(table.ROUTER_ARRIVALS.name, labels, here),
        latency=Selector(table.ROUTER_SECONDS.bucket, labels, here),
        stage_arrivals=Selector(table.QUEUE_ARRIVALS.name, labels, here),
        stage_latency=Selector(table.QUEUE_STAGE_SECONDS.bucket, labels, here),
        stage_queue=Selector(table.QUEUE_LENGTH.name, labels, here),
        stage_batches=(
            Selector(table.QUEUE_SERVICE_SECONDS.count, labels, here),
            Selector(table.QUEUE_SERVICE_SECONDS.sum, labels, here),
            Selector(table.QUEUE_BATCH_SIZE.sum, labels, here),
        ),
        stage_variants=Selector(table.QUEUE_VARIANT_ITEMS.name, labels, here),
        lost=Selector(table.ROUTER_REQUESTS.name, labels, here, among={"outcome": ("dropped", "failed")}),
        losses=Selector(table.ROUTER_LOSSES.name, labels, here),
        retried=Selector(table.QUEUE_RETRIES.name, labels, here),
    )


# Our router and queues on this machine. Rates over five scrapes of a second: the mean a plan is made for
# (forecast.SMOOTH_S). A p99 wants a hundred requests, a change should be seen within two ticks. Batches over
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
