"""Leadership over the Leases of the fake API server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ipa.adapters.kube import kinds
from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import ObjectRef
from ipa.adapters.kube.lease import LeaseLeadership, elapsed_s, parse_lease, write_spec
from ipa.control.election import Lease, LeaseTimes
from tests.fakes.kube import FakeKube, FaultKind

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
        with self.kube.store.lock:
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
    with world.kube.store.lock:
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
