"""A drift says whose it is, where the API server knows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.adapters.kube.responses import last_hand
from ipa.control.engine.guards import GuardSettings
from ipa.control.loop.control_loop import ControlLoop, LoopPorts
from ipa.control.ports import PipelineControl
from ipa.model.decision import Mode, ReasonCode
from ipa.model.errors import DriftError, UnavailableError
from ipa.model.forecast import Forecast
from ipa.model.observation import LoadHistory
from ipa.targets.kubernetes.workload import KubeWorkload
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube
from tests.fakes.kube.samples import sample_configs, sample_pipeline
from tests.fakes.kube.store import Json
from tests.fakes.metrics import FakeMetrics
from tests.fakes.store import FakeStore
from tests.fakes.world import ours

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


def no_forecast(load: LoadHistory) -> Forecast:
    raise UnavailableError("nothing is forecast here")


def test_reverts_are_held_by_name_and_after_some_nothing_more_is_written(
    kube: FakeKube, workload: KubeWorkload
) -> None:
    """A GitOps tool that takes back what people ask of the service, each time."""
    clock, store = VirtualClock(), FakeStore(PipelineControl(mode=Mode.ACTIVE))
    loop = ControlLoop(
        PIPELINE,
        LoopPorts(clock, FakeMetrics(clock, lambda t_s: 1.0), workload, store, store),
        policy=ours(),
        predict=lambda configs, rate_rps: None,
        forecaster=no_forecast,
        settings=GuardSettings(tick_s=5.0, max_drifts=3),
        window_s=60.0,
        run_id="test",
    )
    more = (replace(sample_configs()[0], replicas=2), *sample_configs()[1:])

    def ticks(count: int) -> list[tuple[ReasonCode, str]]:
        found = []
        for _ in range(count):
            clock.wait(5.0)
            kube.tick()
            decision = loop.tick_once()
            found.append((decision.reason, decision.detail))
        return found

    def revert(sdep: Json) -> None:
        by_argocd(sdep)
        sdep["spec"]["predictors"][0]["componentSpecs"][0]["replicas"] = 1

    ticks(2)
    held = []
    for _ in range(3):
        loop.request(more, "asked for")
        ticks(8)
        kube.edit("models", "sample", revert)
        held += [said for said in ticks(8) if said[0] is ReasonCode.DRIFT]
    assert held and all("argocd at 2026-11-24T12:00:00Z" in detail for _, detail in held)
    kube.writes.clear()
    refused = loop.request(more, "asked for")
    assert (refused.reason, kube.writes) == (ReasonCode.DRIFT, [])
    assert "to continue, `ipa pause`" in refused.detail
