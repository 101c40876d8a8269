"""Events on the SeldonDeployment: not too many, and never in the loop's way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.events import FORBIDDEN_S, LONGEST_MESSAGE, PER_MINUTE, KubeEvents, shortened
from ipa.model.decision import Event, ReasonCode
from ipa.targets.seldon.target import SELDON
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube, FaultKind, Trouble
from tests.fakes.kube.api import Request
from tests.fakes.kube.samples import sample_pipeline
from tests.faults.world import NAME, NAMESPACE, build

Json = dict[str, Any]
PIPELINE = sample_pipeline()
DRIFT = Event(ReasonCode.DRIFT, "kubectl scaled stage 'read'", is_warning=True)


@pytest.fixture
def sink(client: KubeClient, clock: VirtualClock) -> KubeEvents:
    return KubeEvents(client, clock, SELDON.entry_of)


def recorded_events(kube: FakeKube) -> list[Json]:
    with kube.store.lock:
        return kube.store.find("events", "models")


def about(number: int) -> Event:
    return replace(DRIFT, message=f"number {number}")


def test_it_is_what_kubectl_describe_shows(kube: FakeKube, sink: KubeEvents) -> None:
    with kube.store.lock:
        sdep = kube.store.get("seldondeployments", "models", "sample")
    sink.emit(PIPELINE, DRIFT)
    (event,) = recorded_events(kube)
    assert event["involvedObject"]["uid"] == sdep["metadata"]["uid"]
    assert (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == (
        "SeldonDeployment",
        "sample",
    )
    assert (event["type"], event["reason"]) == ("Warning", "hold.drift")
    assert event["message"] == DRIFT.message
    assert (event["source"]["component"], event["count"]) == ("ipa-serving", 1)
    sink.emit(PIPELINE, Event(ReasonCode.SCALE_UP, "8 rps"))
    assert sorted(one["type"] for one in recorded_events(kube)) == ["Normal", "Warning"]


def test_only_so_many_in_a_minute(kube: FakeKube, sink: KubeEvents, clock: VirtualClock) -> None:
    for number in range(100):
        sink.emit(PIPELINE, about(number))
    assert (len(recorded_events(kube)), sink.dropped) == (PER_MINUTE, 100 - PER_MINUTE)
    clock.wait(60.0)
    sink.emit(PIPELINE, about(100))
    assert len(recorded_events(kube)) == PER_MINUTE + 1


@pytest.mark.parametrize("kind", list(FaultKind))
@pytest.mark.parametrize("resource", ["seldondeployments", "events"])
def test_whatever_the_server_does_nothing_is_raised_and_no_body_is_logged(
    kube: FakeKube, tmp_path: Path, kind: FaultKind, resource: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 0.3, clock=VirtualClock())
    kube.fault(kind, resource=resource)
    KubeEvents(client, VirtualClock(), SELDON.entry_of).emit(PIPELINE, DRIFT)
    assert "secret" not in caplog.text
    client.close()


def test_all_of_it_takes_no_longer_than_one_call_may(
    kube: FakeKube, sink: KubeEvents, clock: VirtualClock
) -> None:
    def slow(request: Request) -> None:
        clock.wait(4.0)

    kube.delay = slow
    before_s = clock.monotonic_s()
    sink.emit(PIPELINE, DRIFT)
    # Read and told.
    assert clock.monotonic_s() - before_s == 8.0
    kube.delay = lambda request: clock.wait(11.0)
    before_s = clock.monotonic_s()
    sink.emit(PIPELINE, about(1))
    assert clock.monotonic_s() - before_s == 11.0
    assert sink.dropped == 1


def test_a_role_that_allows_no_events_is_not_asked_with_each(
    kube: FakeKube, sink: KubeEvents, clock: VirtualClock
) -> None:
    kube.denied = {("create", "events")}
    for number in range(5):
        sink.emit(PIPELINE, about(number))
    assert [one.verb for one in kube.requests] == ["get", "create"]
    kube.denied = set()
    clock.wait(FORBIDDEN_S)
    sink.emit(PIPELINE, about(9))
    assert len(recorded_events(kube)) == 1


def test_a_long_message_is_cut_to_what_the_server_takes() -> None:
    assert shortened("short") == "short"
    long = shortened("λ" * 2000)
    assert len(long.encode()) <= LONGEST_MESSAGE
    assert long.endswith("λ…")


def test_a_pipeline_that_runs_nowhere_on_seldon_is_dropped(sink: KubeEvents) -> None:
    sink.emit(replace(PIPELINE, targets={}), DRIFT)
    assert sink.dropped == 1


def test_the_loop_tells_of_a_rollout_that_was_taken_back(tmp_path: Path) -> None:
    with build(over="http") as world:
        client = KubeClient.from_kubeconfig(str(world.kube.kubeconfig(tmp_path)), 10.0, clock=world.clock)
        world.events = KubeEvents(client, world.clock, SELDON.entry_of)  # type: ignore[assignment]
        world.start_service()
        world.settle()
        world.kube.cluster.trouble_of = lambda pod: Trouble.CRASH
        world.rate_rps = 25.0
        world.ticks(20)
        with world.kube.store.lock:
            events = world.kube.store.find("events", NAMESPACE)
        client.close()
    taken_back = [one for one in events if one["reason"] == ReasonCode.ROLLBACK.value]
    assert taken_back
    assert all(one["type"] == "Warning" and one["involvedObject"]["name"] == NAME for one in taken_back)
    assert "CrashLoopBackOff" in taken_back[0]["message"]
