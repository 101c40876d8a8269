"""The pipeline of the contracts as objects that somebody else scales, on the fake API server."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from ipa.files import pipeline_from_mapping, pipeline_to_mapping
from tests.fakes.kube import FakeKube
from tests.fakes.kube.kinds import INSTALLED, Kind, Kinds
from tests.fakes.policy_contract import PIPELINE

Json = dict[str, Any]
KINDS = Kinds((*INSTALLED, Kind("argoproj.io", "v1alpha1", "rollouts", "Rollout", scales=True)))
ROLLOUT = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout"}
SECTION: Json = {
    "namespace": "shop",
    "stages": {
        "detect": {"name": "pages-detect", "variant": "small", "cores": 1},
        "read": {**ROLLOUT, "name": "pages-read", "variant": "big", "cores": 2, "batch_size": 2},
    },
    "load": {
        "arrivals": 'http_requests_total{service="pages"}',
        "latency": 'http_request_seconds_bucket{service="pages"}',
        "lost": 'http_requests_total{service="pages", code=~"5.."}',
    },
}


def mapping(edit: Callable[[Json], None] = lambda section: None) -> Json:
    """The pipeline's file with an edited section; its first stage has a pin that the section honours."""
    written = copy.deepcopy(pipeline_to_mapping(PIPELINE)) | {"scale": copy.deepcopy(SECTION)}
    edit(written["scale"])
    written["stages"][0]["pin"] = {"cores": 1}
    return written


ADVISED = pipeline_from_mapping(mapping())


def put(kube: FakeKube, resource: str, name: str, replicas: int, status: Json) -> None:
    """Make the object what its owner and its controllers say, by hands other than the service's."""
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": name}}}
    kind = KINDS.by_resource[resource]
    thing = {"apiVersion": kind.place, "kind": kind.kind, "metadata": {"name": name, "namespace": "shop"}}
    with kube.store.lock:
        if not any(it["metadata"]["name"] == name for it in kube.store.find(resource, "shop")):
            kube.store.create(resource, "shop", thing)
        kube.store.replace(resource, {**thing, "spec": spec, "status": status})
