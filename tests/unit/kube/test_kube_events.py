"""Events on the SeldonDeployment, and leadership over Leases, on the fake API server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ipa.adapters.kube import kinds
from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.events import FORBIDDEN_S, LONGEST_MESSAGE, PER_MINUTE, KubeEvents, shortened
from ipa.adapters.kube.kinds import ObjectRef
from ipa.adapters.kube.lease import LeaseLeadership, elapsed_s, parse_lease, write_spec
from ipa.control.election import Lease, LeaseTimes
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
    return kube.store.find("events", "models")


def about(number: int) -> Event:
    return replace(DRIFT, message=f"number {number}")


def test_it_is_what_kubectl_describe_shows(kube: FakeKube, sink: KubeEvents) -> None:
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
        events = world.kube.store.find("events", NAMESPACE)
        client.close()
    taken_back = [one for one in events if one["reason"] == ReasonCode.ROLLBACK.value]
    assert taken_back
    assert all(one["type"] == "Warning" and one["involvedObject"]["name"] == NAME for one in taken_back)
    assert "CrashLoopBackOff" in taken_back[0]["message"]


PLACE = ObjectRef(kinds.LEASE, "default", "ipa-serving")
TIMES = LeaseTimes(15.0, 10.0, 2.0)


@dataclass
class World:
    """A cluster, one clock for all replicas (the election itself is tried with many), and those."""

    kube: FakeKube
    client: KubeClient
    now_s: float = 0.0
    led: list[str] = field(default_factory=list)

    def replica(self, name: str) -> LeaseLeadership:
        return LeaseLeadership(
            self.client,
            PLACE,
            name,
            TIMES,
            now_s=lambda: self.now_s,
            # A wall clock that stands still: all renewals at one moment.
            wall=lambda: datetime(2026, 1, 1, tzinfo=UTC),
            draw=lambda: 0.0,
            on_lead=lambda: self.led.append(name),
        )

    def run(self, seconds: float, *replicas: LeaseLeadership) -> None:
        """Let all take part for so long, in turn, every half second."""
        for _ in range(round(2 * seconds)):
            for replica in replicas:
                while replica.step() == 0.0:
                    pass
            self.now_s += 0.5

    def lease(self) -> dict[str, Any]:
        return self.kube.store.get("leases", "default", "ipa-serving")

    def edit(self, **spec: Any) -> None:
        with self.kube.store.lock:
            live = self.lease()
            live["spec"].update(spec)
            self.kube.store.replace("leases", live)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with FakeKube() as kube:
        client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0)
        yield World(kube, client)
        client.close()


def released(world: World) -> None:
    """A Lease that somebody gave up."""
    body = {"metadata": {"name": PLACE.name, "labels": {"theirs": "1"}}, "kind": "Lease"}
    spec = {**write_spec(Lease("", 1.0, "", "then", 3)), "preferredHolder": "x"}
    world.kube.store.create("leases", "default", {**body, "apiVersion": "v1", "spec": spec})


def test_it_keeps_what_others_wrote_in_the_lease(world: World) -> None:
    released(world)
    one = world.replica("one")
    world.run(5, one)
    lease = world.lease()
    assert one.leading()
    assert lease["metadata"]["labels"] == {"theirs": "1"}
    assert lease["spec"]["preferredHolder"] == "x"
    assert (lease["spec"]["leaseTransitions"], lease["spec"]["leaseDurationSeconds"]) == (4, 15)


def test_a_write_under_way_keeps_the_lease(world: World, caplog: pytest.LogCaptureFixture) -> None:
    released(world)
    one, other = world.replica("one"), world.replica("other")
    world.run(5, one, other)
    leading = []
    one.close(lambda: bool(leading.append(one.leading())))
    assert leading == [False]
    assert "a write is still in progress" in caplog.text
    world.run(10, other)
    assert not other.leading()
    world.run(7, other)
    assert other.leading()


def test_forbidden_is_said_and_never_leads(world: World) -> None:
    world.kube.fault(FaultKind.STATUS, resource="leases", status=403, times=1000)
    one = world.replica("one")
    world.run(30, one)
    assert not one.leading()
    assert "not allowed" in one.standing().words
    one.close()


def test_a_fault_of_this_program_does_not_end_the_taking_part(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    released(world)
    one = world.replica("one")
    world.run(5, one)
    body = world.lease()
    with world.kube.store.lock:
        world.kube.store.delete("leases", "default", "ipa-serving")
        world.kube.store.create("leases", "default", {**body, "spec": "nonsense"})
    assert parse_lease(world.lease(), 15.0).holder == ""
    one._draw = lambda: 1 / 0
    world.run(5, one)
    one._draw = lambda: 0.0
    assert "a step failed" in caplog.text
    world.run(40, one)
    assert one.leading()


def test_the_thread_takes_part_and_ends(world: World) -> None:
    released(world)
    one = LeaseLeadership(world.client, PLACE, "one", LeaseTimes(3.0, 2.0, 0.05))
    one.start()
    until_s = time.monotonic() + 10
    while not one.leading() and time.monotonic() < until_s:
        pass
    assert one.leading()
    one.close()
    assert not one.leading()
    assert world.lease()["spec"]["holderIdentity"] is None


@pytest.mark.parametrize(
    "spec",
    [None, "text", {}, {"holderIdentity": 3, "leaseDurationSeconds": "15", "leaseTransitions": -1}],
)
def test_what_is_no_lease_is_held_by_nobody_and_not_released(spec: Any) -> None:
    lease = parse_lease({"metadata": {"resourceVersion": "5"}, "spec": spec}, 15.0)
    assert lease == Lease("", 15.0)
    assert lease.version == "5"
    assert not lease.is_released


def test_the_clock_counts_suspends_where_there_is_one_that_does() -> None:
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    before_s = elapsed_s()
    now_s = time.monotonic() if boot is None else time.clock_gettime(boot)
    assert before_s <= now_s <= elapsed_s()
