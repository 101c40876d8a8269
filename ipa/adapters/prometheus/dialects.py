"""Dialects of metrics: the names, labels and windows of each source, and the queries in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from ipa.adapters.prometheus.queries import Age, Gauge, Quantile, Query, Rate, Selector
from ipa.metering import labels as of
from ipa.metering import table
from ipa.model.pipeline import Pipeline, Stage

LOSS_LABELS = (of.STAGE.name, of.LOSS_CAUSE.name)
# The series of batches: their number, their seconds and their items.
BATCHES = ("batches", "batch_seconds", "batch_items")

# The series of a pipeline by what they tell; a source need not have all of them.
#   arrivals, latency                a counter of the requests, and the buckets of their latency
#   lost, losses                     requests without an answer, no fault of the client; by LOSS_LABELS
#   retried                          batches whose replica was lost
#   alive                            what is there, greater than 0, even before the first request
#   stage_arrivals, stage_latency, stage_queue    the same of the stages, and the items that wait
#   batches, batch_seconds, batch_items, stage_variants    of served batches; the items of each variant
#   held, held_seconds               requests that replicas with queues of their own answered, and their time
#                                    there; the series of batches are then of the replicas too
Series = Mapping[str, Selector]
# From a pipeline, labels of its own, and those that say its namespace if series say one.
Select = Callable[[Pipeline, Mapping[str, str], Mapping[str, str]], Series]


@dataclass(frozen=True, slots=True)
class Dialect:
    """Whose metrics are read.

    `identity_label` is the label that says whose a series is, `identity` what it says of a pipeline;
    `stage_label` and `stage_value` are the same for a stage; in series of held requests its label is
    `held_label`. `part_label` is the label that tells configurations side by side; empty if there are none.
    It `tells_batches` if series of batches have that label too. A rate is the mean over `rate_window_s`: two
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


def queries(pipeline: Pipeline, dialect: Dialect, namespace_label: str = "") -> dict[str, Query]:
    """The queries of that pipeline by name, as far as the source has their series.

    Those of stages answer for all stages at once, those of parts for all configurations side by side.
    `entry_arrivals` are those of the first stage alone, where it gets every request once and another process
    counts them than `arrivals`; `stage_variants` are there if a stage keeps several.

    `namespace_label` is the label in which series say the namespace of their target, where they do ("": none
    does). Without it pipelines of one name in several namespaces may be summed.
    """
    labels = {dialect.identity_label: dialect.identity(pipeline)}
    has_namespace = namespace_label and dialect.has_namespaces and pipeline.targets
    series = dialect.select(pipeline, labels, {namespace_label: pipeline.namespace} if has_namespace else {})
    rate = partial(Rate, window_s=dialect.rate_window_s)
    batch_rate = partial(Rate, window_s=dialect.batches_window_s)
    latency = partial(Quantile, pipeline.sla.percentile / 100, window_s=dialect.latency_window_s)
    stage, part = (dialect.stage_label,), (dialect.part_label,)
    rows: list[tuple[str, str, Callable[..., Query], tuple[str, ...]]] = [
        ("age", "arrivals", Age, ()),
        ("arrivals", "arrivals", rate, ()),
        ("counts", "arrivals", Gauge, ()),
        ("latency", "latency", latency, ()),
        ("answered", "latency", rate, ("le",)),
        ("lost", "lost", rate, ()),
        ("losses", "losses", rate, LOSS_LABELS),
        ("retried", "retried", rate, ()),
        ("alive", "alive", Gauge, ()),
        ("alive_age", "alive", Age, ()),
        ("stage_age", "stage_arrivals", Age, stage),
        ("stage_arrivals", "stage_arrivals", rate, stage),
        ("stage_latency", "stage_latency", latency, stage),
        ("stage_queue", "stage_queue", Gauge, stage),
        *((name, name, batch_rate, stage) for name in BATCHES),
        *((name, name, batch_rate, (dialect.held_label,)) for name in ("held", "held_seconds")),
    ]
    if "held" in series:
        # Another process than that of the stages' arrivals has them.
        rows.append(("batch_age", "batches", Age, stage))
    if any(each.residents > 1 for each in pipeline.served):
        rows.append(("stage_variants", "stage_variants", batch_rate, (*stage, of.VARIANT.name)))
    if dialect.part_label and (pipeline.sets or pipeline.canary is not None):
        rows += [
            ("part_latency", "latency", latency, part),
            ("part_answered", "latency", rate, (*part, "le")),
            ("part_lost", "lost", rate, part),
        ]
        if dialect.tells_batches:
            rows += [(f"part_{name}", name, batch_rate, part + stage) for name in BATCHES]
    asked = {name: shape(selector=series[of], by=by) for name, of, shape, by in rows if of in series}
    entries = [each for each in pipeline.stages if not each.after]
    if "stage_queue" in series and len(entries) == 1 and entries[0].variants:
        counted = series["stage_arrivals"]
        labels = {**counted.labels, dialect.stage_label: dialect.stage_value(entries[0])}
        asked["entry_arrivals"] = rate(selector=replace(counted, labels=labels))
    return asked


def _router_and_queues(pipeline: Pipeline, labels: Mapping[str, str], here: Mapping[str, str]) -> Series:
    """The series of our router and queues."""
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
    lost = Selector(table.ROUTER_REQUESTS.name, labels, here, among={"outcome": ("dropped", "failed")})
    return {"lost": lost} | {name: Selector(metric, labels, here) for name, metric in names.items()}


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
