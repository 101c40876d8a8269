"""A drift says whose it is, where the API server knows."""

from __future__ import annotations

import pytest

from ipa.model.errors import DriftError
from ipa.targets.kubernetes.layout import last_hand
from ipa.targets.kubernetes.workload import KubeWorkload
from tests.fakes.kube import FakeKube
from tests.fakes.kube.samples import sample_pipeline
from tests.fakes.kube.store import Json

PIPELINE = sample_pipeline()


def entry(manager: str, time: str, field: str = "f:spec", subresource: str = "") -> Json:
    made: Json = {"manager": manager, "operation": "Update", "time": time, "fieldsV1": {field: {}}}
    return {**made, "subresource": subresource} if subresource else made


@pytest.mark.parametrize(
    ("entries", "who"),
    [
        (None, ""),
        ([], ""),
        ([entry("kubectl-edit", "2026-11-24T10:00:00Z")], "kubectl-edit at 2026-11-24T10:00:00Z"),
        ([entry("kubectl", "2026-11-24T10:00:00Z"), entry("ipa-serving", "2026-11-24T11:00:00Z")], ""),
        (
            [entry("argocd", "2026-11-24T12:00:00Z"), entry("ipa-serving", "2026-11-24T11:00:00Z")],
            "argocd at 2026-11-24T12:00:00Z",
        ),
        (
            [
                entry("kubectl", "2026-11-24T10:00:00Z", subresource="scale"),
                entry("manager", "2026-11-24T12:00:00Z", subresource="status"),
                entry("labeler", "2026-11-24T12:00:00Z", "f:metadata"),
            ],
            "kubectl at 2026-11-24T10:00:00Z",
        ),
        ([{"manager": None, "fieldsV1": {"f:spec": {}}}, "nonsense"], ""),
    ],
)
def test_the_newest_change_of_the_spec_beside_ours_counts(entries: list[Json] | None, who: str) -> None:
    assert last_hand({"metadata": {"managedFields": entries}}) == who


def by_argocd(sdep: Json) -> None:
    sdep["metadata"]["managedFields"] = [entry("argocd", "2026-11-24T12:00:00Z")]


def test_a_refusal_names_the_hand(kube: FakeKube, workload: KubeWorkload) -> None:
    def edit(sdep: Json) -> None:
        by_argocd(sdep)
        sdep["spec"]["predictors"][0]["componentSpecs"][0]["spec"]["containers"][0]["image"] = "theirs:1"

    kube.edit("models", "sample", edit)
    with pytest.raises(DriftError) as caught:
        workload.read(PIPELINE)
    assert "its spec was last changed by argocd at 2026-11-24T12:00:00Z" in str(caught.value)
