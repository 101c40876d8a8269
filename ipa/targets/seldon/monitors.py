"""PodMonitors of a pipeline: what Prometheus must scrape for the loop, for the Prometheus Operator.

Seldon's operator labels pods by their SeldonDeployment (an orchestrator's by its predictor's Service), and
not with the labels of the SeldonDeployment. It names a port of each container `metrics`: 8000 of the
executor, 6000 or one of the next ones of a model server, and has both serve /prometheus there. The series of
model servers say no SeldonDeployment: the monitor adds the label `deployment_name`, as the executor's have
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ipa.adapters.prometheus.queries import NUMBER
from ipa.model.pipeline import Pipeline
from ipa.targets.seldon.locate import LABEL_PIPELINE, container_name, object_of, target_of
from ipa.targets.seldon.metrics import EXECUTOR
from ipa.targets.seldon.split import PORT, PartRole, is_split, parts_of

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
        made = object_of(target, {"selector": selector, "podMetricsEndpoints": [endpoint]}, labels)
        made["metadata"]["name"] = f"{target.name}-{scraped}"
        return {**made, "apiVersion": VERSION, "kind": "PodMonitor"}

    labels = {LABEL_PIPELINE: pipeline.name}
    if is_split(pipeline):
        parts = [part.name for part in parts_of(pipeline) if part.role is not PartRole.MODEL]
        endpoint = {"targetPort": PORT, "path": "/metrics", "interval": INTERVAL}
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
    by_service = {"matchExpressions": [{"key": LABEL_PREDICTOR_SERVICE, "operator": "Exists"}]}
    return [
        monitor("orchestrator", by_service, _endpoint(engines)),
        monitor("stages", {"matchLabels": {LABEL_DEPLOYMENT: target.name}}, _endpoint(models)),
    ]


def _endpoint(relabelings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {"port": "metrics", "path": "/prometheus", "interval": INTERVAL, "relabelings": list(relabelings)}


def _kept(what: str, regex: str) -> dict[str, Any]:
    return {"action": "keep", "sourceLabels": [f"__meta_kubernetes_pod_{what}"], "regex": regex}
