"""The metrics of a pipeline on Seldon: of its executor, or in shape split of our router and queues."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ipa.adapters.prometheus.dialects import ON_CLUSTER, Dialect, Selectors
from ipa.adapters.prometheus.queries import Selector
from ipa.control.ports import Load, Metrics, Signals
from ipa.metering import table
from ipa.model.pipeline import Pipeline
from ipa.targets.seldon.section import Shape, seldon_of
from ipa.targets.seldon.split import is_split

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


def _executor(pipeline: Pipeline, labels: Mapping[str, str], here: Mapping[str, str]) -> Selectors:
    """The series of the executor, which has no queue of its own, and of the model servers that it calls.

    Those of model servers have the label `deployment_name` from their scrape (`ipa.targets.seldon.monitors`).
    """
    target = seldon_of(pipeline)
    predictor = target.predictor if target else "default"
    # Those that share the load are numbered.
    predictors = {"predictor_name": predictor}
    served, called = {"service": SERVICES}, {"method": CALLS}
    batches = (table.REPLICA_BATCHES, table.REPLICA_SERVICE_SECONDS, table.REPLICA_ITEMS)
    count, seconds, items = (Selector(metric.name, labels, here) for metric in batches)
    return Selectors(
        arrivals=Selector(f"{SERVER}_count", labels, here, predictors, served),
        latency=Selector(f"{SERVER}_bucket", labels, here, predictors, {**served, "code": ANSWERED}),
        lost=Selector(f"{SERVER}_count", labels, here, predictors, {**served, "code": FAILED}),
        stage_arrivals=Selector(f"{CLIENT}_count", labels, here, predictors, called),
        stage_latency=Selector(f"{CLIENT}_bucket", labels, here, predictors, called),
        stage_batches=(count, seconds, items),
        stage_held=(Selector(f"{HELD}_count", labels, here), Selector(f"{HELD}_sum", labels, here)),
        alive=Selector(PROCESS, {}, here, starting={POD: f"{_deployment(pipeline)}-{predictor}-"}),
    )


def _deployment(pipeline: Pipeline) -> str:
    target = seldon_of(pipeline)
    return target.name if target else pipeline.name


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
    identity=_deployment,
    stage_value=lambda stage: stage.container or stage.name,
)


def dialect_of(pipeline: Pipeline) -> Dialect:
    """The dialect of the pipeline's shape."""
    return ON_CLUSTER if is_split(pipeline) else EXECUTOR


class ShapedMetrics:
    """The Metrics port on a cluster: each pipeline's in the dialect of the shape it runs in."""

    def __init__(self, of: Callable[[Dialect], Metrics]) -> None:
        self._by_shape = {Shape.SINGLE: of(EXECUTOR), Shape.SPLIT: of(ON_CLUSTER)}

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        """The signals of the pipeline now, as that dialect's metrics read them."""
        return self._of(pipeline).read(pipeline, window_s)

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        """Its load alone, likewise."""
        return self._of(pipeline).load(pipeline, window_s)

    def _of(self, pipeline: Pipeline) -> Metrics:
        return self._by_shape[Shape.SPLIT if is_split(pipeline) else Shape.SINGLE]
