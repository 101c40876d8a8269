"""A stage that another controller scales is refused, with its name and the remedy."""

from __future__ import annotations

import pytest

from ipa.model.errors import DriftError
from ipa.targets.kubernetes.workload import KubeWorkload
from tests.fakes.kube import FakeKube
from tests.fakes.kube.samples import sample_pipeline
from tests.fakes.kube.store import Json

PIPELINE = sample_pipeline()


def autoscaler(name: str, kind: str, target: str, labels: dict[str, str] | None = None) -> Json:
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": name, "labels": labels or {}},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": kind, "name": target}, "maxReplicas": 9},
    }


def put(kube: FakeKube, namespace: str, made: Json) -> None:
    with kube.store.lock:
        kube.store.create("horizontalpodautoscalers", namespace, made)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            autoscaler("fast", "Deployment", "sample-main-1-reader"),
            "stage 'read': HorizontalPodAutoscaler 'fast' scales Deployment sample-main-1-reader: "
            "another controller owns its replicas; remove it first",
        ),
        (
            autoscaler("keda", "Deployment", "sample-main-0-detect", {"scaledobject.keda.sh/name": "q"}),
            "stage 'detect': HorizontalPodAutoscaler 'keda' (of KEDA's ScaledObject 'q') scales",
        ),
        (
            autoscaler("all", "SeldonDeployment", "sample"),
            "every stage: HorizontalPodAutoscaler 'all' scales SeldonDeployment sample",
        ),
    ],
)
def test_an_autoscaler_from_outside_is_refused_by_name(
    kube: FakeKube, workload: KubeWorkload, made: Json, said: str
) -> None:
    put(kube, "models", made)
    with pytest.raises(DriftError) as caught:
        workload.read(PIPELINE)
    assert said in str(caught.value)


def test_autoscalers_of_others_are_no_matter(kube: FakeKube, workload: KubeWorkload) -> None:
    for made in (
        autoscaler("a", "Deployment", "other"),
        autoscaler("b", "SeldonDeployment", "other"),
        autoscaler("c", "StatefulSet", "sample-main-1-reader"),
    ):
        put(kube, "models", made)
    put(kube, "elsewhere", autoscaler("d", "SeldonDeployment", "sample"))
    assert workload.read(PIPELINE).settled


@pytest.mark.parametrize("field", ["hpaSpec", "kedaSpec"])
def test_one_inside_the_seldondeployment_is_refused_by_its_stage(
    kube: FakeKube, workload: KubeWorkload, field: str
) -> None:
    def add(sdep: Json) -> None:
        sdep["spec"]["predictors"][0]["componentSpecs"][1][field] = {"maxReplicas": 9}

    kube.edit("models", "sample", add)
    with pytest.raises(DriftError) as caught:
        workload.read(PIPELINE)
    assert f"stage 'read' has {field}: another controller owns its replicas; remove it first" in str(
        caught.value
    )
