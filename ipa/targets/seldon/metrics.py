"""The metrics of a pipeline on Seldon: of its executor, or in shape split of our router and queues.

PodMonitors have the Prometheus Operator scrape them. Seldon's operator labels pods by their SeldonDeployment
(an orchestrator's by its predictor's Service), and not with the labels of the SeldonDeployment. It names a
port of each container `metrics`: 8000 of the executor, 6000 or one of the next ones of a model server, and
has both serve /prometheus there. The series of model servers say no SeldonDeployment: the monitor adds the
label `deployment_name`, as the executor's have it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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
from ipa.targets.seldon.layouts import PORT, PartRole, is_split, parts_of
from ipa.targets.seldon.locate import LABEL_PIPELINE, container_name, object_of, target_of
from ipa.targets.seldon.section import SeldonTarget, seldon_of

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
    """The series of the executor, which has no queue of its own, and of the model servers that it calls.

    Those of model servers have the label `deployment_name` from their scrape (`monitors_of`).
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
    """The dialect of the pipeline's shape."""
    return ON_CLUSTER if is_split(pipeline) else EXECUTOR


class ShapedMetrics:
    """The Metrics port on a cluster: each pipeline's in the dialect of the shape it runs in."""

    def __init__(self, of: Callable[[Dialect], Metrics]) -> None:
        self._by_split = {False: of(EXECUTOR), True: of(ON_CLUSTER)}

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        """The signals of the pipeline now, as that dialect's metrics read them."""
        return self._by_split[is_split(pipeline)].read(pipeline, window_s)

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        """Its load alone, likewise."""
        return self._by_split[is_split(pipeline)].load(pipeline, window_s)


VERSION = "monitoring.coreos.com/v1"
# A rate needs two scrapes in its window of 30 s, and samples older than 15 s are stale.
INTERVAL = "5s"
LABEL_DEPLOYMENT, LABEL_PREDICTOR_SERVICE, LABEL_SHADOW = "seldon-deployment-id", "seldon-app", "shadow"
ENGINE = "seldon-container-engine"


def monitors_of(pipeline: Pipeline) -> list[dict[str, Any]]:
    """The PodMonitors of the pipeline in its shape. InputError without a `seldon:` section.

    The first has the load scraped, the last the batches of replicas.
    """
    target = target_of(pipeline)

    def monitor(scraped: str, selector: Mapping[str, Any], endpoint: Mapping[str, Any]) -> dict[str, Any]:
        # In the namespace of the pipeline's pods.
        scrape = {"path": "/prometheus", "interval": INTERVAL, **endpoint}
        made = object_of(target, {"selector": selector, "podMetricsEndpoints": [scrape]}, labels)
        made["metadata"]["name"] = f"{target.name}-{scraped}"
        return {**made, "apiVersion": VERSION, "kind": "PodMonitor"}

    labels = {LABEL_PIPELINE: pipeline.name}
    if is_split(pipeline):
        parts = [part.name for part in parts_of(pipeline) if part.role is not PartRole.MODEL]
        endpoint = {"targetPort": PORT, "path": "/metrics"}
        among = {"key": LABEL_DEPLOYMENT, "operator": "In", "values": sorted(parts)}
        return [monitor("router-and-queues", {"matchExpressions": [among]}, endpoint)]
    # Predictors that share the load are numbered; those of other names are not ours.
    ours = f"{target.name}-{target.predictor}{NUMBER}"
    engines = [
        _kept(f"label_{LABEL_PREDICTOR_SERVICE.replace('-', '_')}", ours),
        _kept("container_name", ENGINE),
    ]
    models = [
        _kept("container_name", "|".join(container_name(stage) for stage in pipeline.served)),
        {**_kept(f"label_{LABEL_SHADOW}", "true"), "action": "drop"},
        {"targetLabel": EXECUTOR.identity_label, "replacement": target.name},
    ]
    of_ours = {"matchLabels": {LABEL_DEPLOYMENT: target.name}}
    by_service = {"matchExpressions": [{"key": LABEL_PREDICTOR_SERVICE, "operator": "Exists"}]}
    return [
        monitor("orchestrator", by_service, {"port": "metrics", "relabelings": engines}),
        monitor("stages", of_ours, {"port": "metrics", "relabelings": models}),
    ]


def _kept(what: str, regex: str) -> dict[str, Any]:
    return {"action": "keep", "sourceLabels": [f"__meta_kubernetes_pod_{what}"], "regex": regex}
