"""Two replicas of the service: at most one writes, and soon another does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from random import Random
from typing import Any

from ipa.control.election import Lease
from ipa.model.decision import ReasonCode
from tests.fakes.elections import Simulation, Weather
from tests.fakes.kube.api import Request
from tests.faults.replicas import TIMES, Replica, Service
from tests.faults.table import Case
from tests.faults.world import KubeWorld, build

# `make faults` tries a thousand.
SEEDS = range(int(os.environ.get("IPA_FAULT_SEEDS", "100")))
LEASE_S, RETRY_S = 15.0, 2.0
# Long enough for two changes of the leader.
RUN_S = 40.0
# By then the first change has settled: its controllers see a write one step after the operator's, so pods are
# ready after 20 s. Before that each tick also reads the rollout, which is no part of the write.
SETTLED_S = 25.0
# Slow and lost answers, clocks that run two percent fast or slow and start anywhere.
POOR = Weather(slow_share=0.1, lost_share=0.05, drift_ratio=0.02)
BREAKS = replace(POOR, stop_every_s=20.0, die_every_s=30.0, cut_every_s=20.0)
EDITS = replace(POOR, edit_every_s=8.0)


def settled(seed: int, weather: Weather) -> Simulation:
    """Two replicas of which one has led for a while."""
    simulation = Simulation(seed, weather=weather)
    simulation.store.create(Lease("", 1.0, renewed_at="0"))
    simulation.run(10.0 + Random(seed).uniform(0, RETRY_S))
    return simulation


def takeovers_s(*, in_order: bool) -> list[float]:
    """For every seed, how long after the leader's end another led."""
    times_s = []
    for seed in SEEDS:
        simulation = settled(seed, Weather(latency_s=0.02, drift_ratio=0.001))
        leader = simulation.leader()
        assert leader is not None
        ended_s = simulation.now_s
        (simulation.release if in_order else simulation.kill)(leader)
        simulation.run(ended_s + 30.0)
        other = next(one for one in simulation.replicas if one is not leader)
        assert simulation.overlap_s() == 0.0
        times_s.append(min(start_s for start_s, _ in other.led) - ended_s)
    return sorted(times_s)


def quantile(values: list[float], share: float) -> float:
    return values[min(int(share * len(values)), len(values) - 1)]


def test_l1_the_leader_dies(case: Case) -> None:
    times_s = takeovers_s(in_order=False)
    case.seeds = f"{len(times_s)}"
    case.note("takeover s p50", quantile(times_s, 0.5))
    case.at_most("takeover s p99", quantile(times_s, 0.99), LEASE_S + RETRY_S)
    case.note("takeover s max", times_s[-1])


def test_l1_the_leader_ends_in_order(case: Case) -> None:
    times_s = takeovers_s(in_order=True)
    case.seeds = f"{len(times_s)}"
    case.note("takeover s p50", quantile(times_s, 0.5))
    case.at_most("takeover s p99", quantile(times_s, 0.99), RETRY_S + 0.5)


def double(weather: Weather) -> tuple[int, float, float]:
    """Seeds in which two led at once, for how long in all, and the share of time in which one led."""
    seeds, both_s, led_s = 0, 0.0, 0.0
    for seed in SEEDS:
        simulation = Simulation(seed, 2 + seed % 2, weather=weather)
        simulation.run(RUN_S)
        overlap_s = simulation.overlap_s()
        seeds += overlap_s > 0
        both_s += overlap_s
        led_s += simulation.led_s() - overlap_s
    return seeds, both_s, led_s / (RUN_S * len(SEEDS))


@contextmanager
def pair(**how: Any) -> Iterator[tuple[KubeWorld, Service]]:
    """A cluster and two replicas that elect one."""
    with build() as world:
        service = Service(world)
        for name in ("one", "other"):
            service.add(name, **how)
        yield world, service
        service.close()


def stopped_at(point: int) -> tuple[int, int]:
    """The leader stops when that request of its write arrives, and wakes after another led and wrote.

    How many requests its write had, and how many of its writes were accepted after the other's.
    """
    with pair() as (world, service):
        leader, other = service.led()
        sent: list[Request] = []

        def before(replica: Replica, request: Request) -> None:
            if replica is not leader or not world.clock.monotonic_s() >= SETTLED_S:
                return
            sent.append(request)
            # The loop's own read is the first.
            if len(sent) != point + 1:
                return
            leader.stopped = True
            assert service.until(other.leadership.leading, 30.0)
            world.rate_rps = 20.0
            service.ticks(other, 15.0)
            assert other.writes
            leader.stopped = False

        service.before = before
        service.ticks(leader, SETTLED_S - world.clock.monotonic_s())
        world.clock.wait(SETTLED_S - world.clock.monotonic_s())
        already = len(leader.writes)
        world.rate_rps = 14.0
        world.clock.wait(5.0)
        woke = service.tick(leader)
        assert woke.reason is (ReasonCode.CONFLICT if len(sent) > point else ReasonCode.SCALE_UP)
        return len(sent) - 1, len(leader.writes) - already


def test_l2_the_leader_stops_inside_of_its_write(case: Case) -> None:
    requests, _ = stopped_at(99)
    accepted = [stopped_at(point)[1] for point in range(1, requests + 1)]
    case.equal("points of a write", requests, 3)
    case.equal("writes accepted after the other's", sum(accepted), 0)


def cut_off() -> tuple[Replica, Replica, float]:
    """The leader cannot reach the Lease any more, and everything else; the load makes it write ever again.

    It, the other, and when it could not renew for as long as it may.
    """
    with pair() as (world, service):
        leader, other = service.led()
        service.ticks(leader, 20.0)
        leader.leases.cut = True
        # It renewed at most a retry before.
        deadline_s = world.clock.monotonic_s() + TIMES.renew_deadline_s
        for rate_rps in (8.0, 20.0, 3.0, 14.0, 5.0, 20.0) * 4:
            world.rate_rps = rate_rps
            service.tick(leader)
            if other.leadership.leading():
                service.tick(other)
            world.clock.wait(world.settings.tick_s)
        return leader, other, deadline_s


def test_l3_the_leader_cannot_renew_yet_can_patch(case: Case) -> None:
    leader, other, deadline_s = cut_off()
    case.equal("writes after the deadline", sum(at_s >= deadline_s for at_s in leader.writes), 0)
    case.note(
        "ticks after the deadline", sum(one.reason is ReasonCode.NOT_LEADER for one in leader.decisions)
    )
    case.at_least("writes by the other since", len(other.writes), 1)
    case.at_least("s between the last write and the other's first", other.writes[0] - leader.writes[-1], 0.0)


def test_l4_all_start_at_once_with_other_clocks_and_lose_answers(case: Case) -> None:
    seeds, both_s, led = double(BREAKS)
    case.seeds = f"{len(SEEDS)}"
    case.equal("seeds with two leaders", seeds, 0)
    case.equal("double-leader s", both_s, 0.0)
    case.note("share of time with a leader", led)


def test_l4_who_loses_the_race_to_make_the_lease_stands_by(case: Case) -> None:
    """Both read that there is none, and both make one."""
    led = []
    for seed in SEEDS:
        simulation = Simulation(seed, weather=replace(POOR, lost_share=0.0, slow_share=0.0))
        # They start within 3 s of each other.
        simulation.run(3.0 + LEASE_S + RETRY_S)
        assert simulation.overlap_s() == 0.0
        led.append(sum(one.leads(simulation.now_s) for one in simulation.replicas))
    case.seeds = f"{len(SEEDS)}"
    case.equal("leaders at the end", set(led), {1})


def test_l5_people_edit_and_delete_the_lease(case: Case) -> None:
    """Cleared, shortened, given to somebody or to the other replica, restored from before, deleted."""
    seeds, both_s, led = double(EDITS)
    case.seeds = f"{len(SEEDS)}"
    case.equal("seeds with two leaders", seeds, 0)
    case.equal("double-leader s", both_s, 0.0)
    case.note("share of time with a leader, an edit every 8 s", led)


def test_l5_a_leader_is_found_again_when_they_are_done(case: Case) -> None:
    none, longest_s = 0, 0.0
    for seed in range(200):
        simulation = Simulation(seed, 2 + seed % 2, weather=replace(BREAKS, edit_every_s=8.0))
        simulation.run(40.0)
        simulation.calm()
        began_s = simulation.now_s
        while simulation.leader() is None and simulation.now_s < began_s + 90.0:
            simulation.run(simulation.now_s + 1.0)
        none += simulation.leader() is None
        longest_s = max(longest_s, simulation.now_s - began_s)
        assert simulation.overlap_s() == 0.0
    case.seeds = "200"
    case.equal("seeds without a leader at the end", none, 0)
    # The rest of a stop of 30 s, another's lease and the wait of who makes it anew.
    case.at_most("s to a leader, longest", longest_s, 30.0 + 2 * LEASE_S + 2 * RETRY_S)


def installs() -> tuple[Replica, Replica]:
    """Two installs of the service, each its own leader, that were both given the same pipeline."""
    with build() as world:
        service = Service(world)
        first, second = (service.add(name, elects=False, install=name) for name in ("red", "blue"))
        # The second wants something else: it sees the load of another place.
        for rate_rps in sorted((6.0, 14.0, 20.0) * 8):
            world.rate_rps = rate_rps
            service.tick(first)
            world.rate_rps = 2.0 * rate_rps / 3.0
            service.tick(second)
            world.clock.wait(world.settings.tick_s)
        service.close()
        return first, second


def test_l6_two_installs_are_given_one_pipeline(case: Case) -> None:
    first, second = installs()
    case.at_least("writes by the first", len(first.writes), 2)
    case.equal("writes by the second", len(second.writes), 0)
    case.equal("its reasons", {one.reason.value for one in second.decisions[1:]}, {"hold.drift"})
    assert all("belongs to install 'red'" in one.detail for one in second.decisions[1:])
    case.equal("holds of the first because of another writer", reasons(first).count(ReasonCode.DRIFT), 0)


def reasons(replica: Replica) -> list[ReasonCode]:
    return [one.reason for one in replica.decisions]
