"""The metrics of a pipeline on Seldon: the executor's, or in shape split those of ipa's router and queues.

The Prometheus Operator scrapes them by PodMonitors (deploy/prometheus/podmonitor.yaml). The series of model
servers do not name the SeldonDeployment: the monitor adds the executor's label `deployment_name` to them.
"""

from __future__ import annotations

from collections.abc import Callable

from ipa.adapters.prometheus.queries import (
    ANYTHING,
    BATCHES,
    NUMBER,
    ON_CLUSTER,
    Dialect,
    Matcher,
    Selector,
    Series,
)
from ipa.control.ports import Load, Metrics, Signals
from ipa.metering import table
from ipa.model.pipeline import Pipeline
from ipa.targets.seldon.section import SeldonTarget, is_split, seldon_of

# What the executor asks of each stage.
CLIENT = "seldon_api_executor_client_requests_seconds"
SERVER = "seldon_api_executor_server_requests_seconds"
# What both count by `service`: REST under one word, gRPC by the method (of protocol v2, and of Seldon's own).
SERVICES = (
    "predictions",
    "/inference.GRPCInferenceService/ModelInfer",
    "/seldon.protos.Seldon/Predict",
)
# Readiness and metadata are asked for by GET, over REST.
CALLS = ("post", "unary")
ANSWERED = ("200", "OK")
# Codes that are no fault of the client.
FAILED = (
    *("500", "502", "503", "504"),
    *("Unknown", "DeadlineExceeded", "ResourceExhausted", "Aborted", "Internal", "Unavailable", "DataLoss"),
)
# MLServer's own, of each request with its time in the queue: `batch_request_queue` is the queue before a
# batch is formed, which is empty while batches wait for the model; without worker processes it is not served.
HELD = "model_infer_request_duration"
# Of every Go process, as the executor is one: it has no series of requests before its first request.
PROCESS = "go_goroutines"
# The label that Prometheus' operator, and its example for Kubernetes, give to what they scrape.
POD = "pod"


def _executor(pipeline: Pipeline, own: tuple[Matcher, ...], here: tuple[Matcher, ...]) -> Series:
    """The series of the executor, which has no queue, and of the model servers that it calls.

    The scrape adds the label `deployment_name` to those of model servers.
    """
    target = seldon_of(pipeline) or SeldonTarget(pipeline.name)
    # Those that share the load are numbered.
    whole = (*own, *here, Matcher("predictor_name", (target.predictor,), NUMBER))
    served, called = (*whole, Matcher("service", SERVICES)), (*whole, Matcher("method", CALLS))
    batches = (table.REPLICA_BATCHES, table.REPLICA_SERVICE_SECONDS, table.REPLICA_ITEMS)
    names = dict(zip(BATCHES, (metric.name for metric in batches), strict=True))
    names |= {"held": f"{HELD}_count", "held_seconds": f"{HELD}_sum"}
    process = Matcher(POD, (f"{target.name}-{target.predictor}-",), ANYTHING)
    return {
        "arrivals": Selector(f"{SERVER}_count", served),
        "latency": Selector(f"{SERVER}_bucket", (*served, Matcher("code", ANSWERED))),
        "lost": Selector(f"{SERVER}_count", (*served, Matcher("code", FAILED))),
        "stage_arrivals": Selector(f"{CLIENT}_count", called),
        "stage_latency": Selector(f"{CLIENT}_bucket", called),
        "alive": Selector(PROCESS, (*here, process)),
        **{series: Selector(name, own + here) for series, name in names.items()},
    }


# Scraped every 5 to 15 s. A stage is called as its container, which is its graph node too.
EXECUTOR = Dialect(
    "seldon",
    _executor,
    rate_window_s=30.0,
    latency_window_s=60.0,
    batches_window_s=30.0,
    identity_label="deployment_name",
    stage_label="model_name",
    held_label="model",
    part_label="predictor_name",
    identity=lambda pipeline: (seldon_of(pipeline) or SeldonTarget(pipeline.name)).name,
    stage_value=lambda stage: stage.container or stage.name,
)


def dialect_of(pipeline: Pipeline) -> Dialect:
    """The metric names and labels of the pipeline's shape."""
    return ON_CLUSTER if is_split(pipeline) else EXECUTOR


class ShapedMetrics:
    """The Metrics port on a cluster: reads each pipeline by the metric names of its shape."""

    def __init__(self, of: Callable[[Dialect], Metrics]) -> None:
        self._by_split = {False: of(EXECUTOR), True: of(ON_CLUSTER)}

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        """The signals of the pipeline now, read by the metric names of its shape."""
        return self._by_split[is_split(pipeline)].read(pipeline, window_s)

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        """The load of the pipeline, read by the metric names of its shape."""
        return self._by_split[is_split(pipeline)].load(pipeline, window_s)
