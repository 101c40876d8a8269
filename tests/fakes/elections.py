"""Replicas that elect a leader over one Lease, in simulated time: lost answers, stops, deaths, hands.

Every replica has a monotonic clock of its own, which starts anywhere and runs a little fast or slow. The
times in which each leads are kept as intervals of true time, so that no moment goes unlooked at.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from math import inf
from random import Random

from ipa.control.election import (
    Election,
    Lease,
    LeaseAction,
    LeaseStep,
    LeaseTimes,
    leads,
    next_step,
    refused,
    release_of,
    resigned,
    saw,
    sending,
    unanswered,
    wrote,
)


class LeaseStore:
    """One Lease as the API server keeps it. False from a write: refused, since the version moved."""

    def __init__(self) -> None:
        self.lease: Lease | None = None
        self.versions = count(1)
        self.backups: list[Lease] = []

    def create(self, lease: Lease) -> Lease | None:
        return self._keep(lease) if self.lease is None else None

    def replace(self, lease: Lease) -> Lease | None:
        fits = self.lease is not None and self.lease.version == lease.version
        return self._keep(lease) if fits else None

    def edit(self, **changed: object) -> None:
        """By hand, onto whatever is there."""
        if self.lease is not None:
            self._keep(replace(self.lease, **changed))  # type: ignore[arg-type]

    def delete(self) -> None:
        self.lease = None

    def restore(self, lease: Lease) -> None:
        """By hand, what was there before."""
        if self.lease is not None:
            self._keep(lease)

    def _keep(self, lease: Lease) -> Lease:
        self.lease = replace(lease, version=str(next(self.versions)))
        self.backups.append(self.lease)
        return self.lease


@dataclass(frozen=True)
class Weather:
    """The behaviour of the network and the machines. Lengths in seconds, shares in 0..1."""

    latency_s: float = 0.03
    slow_share: float = 0.0
    lost_share: float = 0.0
    timeout_s: float = 5.0
    drift_ratio: float = 0.0
    # Between two stops, deaths, partitions and edits by hand of the whole simulation; inf for none.
    stop_every_s: float = inf
    die_every_s: float = inf
    cut_every_s: float = inf
    edit_every_s: float = inf


TIMES = LeaseTimes()
CALM = Weather()


@dataclass
class Replica:
    """A replica of the service: its election, its clock, and when it cannot run or be heard."""

    name: str
    election: Election
    offset_s: float
    rate: float
    stopped_until_s: float = 0.0
    cut_until_s: float = 0.0
    alive: bool = True
    since_s: float = 0.0
    lives: int = 0
    led: list[tuple[float, float]] = field(default_factory=list)

    def local_s(self, at_s: float) -> float:
        return self.offset_s + self.rate * at_s

    def true_s(self, local_s: float) -> float:
        return (local_s - self.offset_s) / self.rate

    def leads(self, at_s: float) -> bool:
        return self.alive and leads(self.election, self.local_s(at_s))

    def becomes(self, election: Election, at_s: float) -> None:
        """Keep in which times it led until now; go on with that election."""
        start_s = max(self.since_s, self.true_s(self.election.from_s))
        end_s = min(at_s, self.true_s(self.election.until_s))
        if self.alive and start_s < end_s:
            self.led.append((start_s, end_s))
        self.election, self.since_s = election, at_s


class Simulation:
    """Some replicas in some weather, from one seed."""

    def __init__(
        self,
        seed: int,
        replicas: int = 2,
        times: LeaseTimes = TIMES,
        weather: Weather = CALM,
    ) -> None:
        self.random, self.times, self.weather = Random(seed), times, weather
        self.store, self.now_s = LeaseStore(), 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        self._stamps = count(1)
        self.replicas = [self._replica(number) for number in range(replicas)]
        for replica in self.replicas:
            # Some start at the very same moment, some a little later.
            self.at(self.random.choice([0.0, 0.0, self.random.uniform(0, 3)]), self._step_of(replica))
        for every_s, happens in (
            (weather.stop_every_s, self._stop_one),
            (weather.die_every_s, self._one_dies),
            (weather.cut_every_s, self._cut_one),
            (weather.edit_every_s, self._edit),
        ):
            if every_s < inf:
                self._again(every_s, happens)

    def at(self, wait_s: float, does: Callable[[], None]) -> None:
        """Let that happen so much later."""
        heapq.heappush(self._queue, (self.now_s + wait_s, next(self._order), does))

    def run(self, until_s: float) -> None:
        while self._queue and self._queue[0][0] <= until_s:
            self.now_s, _, does = heapq.heappop(self._queue)
            does()
        self.now_s = until_s
        for replica in self.replicas:
            replica.becomes(replica.election, until_s)

    def leader(self) -> Replica | None:
        return next((one for one in self.replicas if one.leads(self.now_s)), None)

    def kill(self, replica: Replica) -> None:
        """It is no more, and nothing of it is."""
        replica.becomes(replica.election, self.now_s)
        replica.alive = False

    def stop(self, replica: Replica, seconds: float) -> None:
        """It does nothing for so long; its clock goes on, and so does what it has sent."""
        replica.stopped_until_s = max(replica.stopped_until_s, self.now_s + seconds)

    def cut(self, replica: Replica, seconds: float) -> None:
        """Nothing it sends arrives for so long."""
        replica.cut_until_s = max(replica.cut_until_s, self.now_s + seconds)

    def release(self, replica: Replica) -> None:
        """It ends in order: first what is under way."""
        if replica.election.tried is not None:
            self.at(0.01, lambda: self.release(replica))
            return
        released = release_of(replica.election, replica.local_s(self.now_s), self._stamp())
        replica.becomes(resigned(replica.election), self.now_s)
        replica.alive = False
        if released is not None:
            self.at(self._latency_s(), lambda: self.store.replace(released) and None)

    def calm(self) -> None:
        """From now on nothing goes wrong any more; what stopped goes on when it was to."""
        self.weather = CALM
        for replica in self.replicas:
            replica.cut_until_s = self.now_s

    def overlap_s(self) -> float:
        """For how long more than one led."""
        spans = sorted((*span, one.name) for one in self.replicas for span in one.led)
        total_s, latest = 0.0, ("", -inf)
        for start_s, end_s, name in spans:
            if name != latest[0]:
                total_s += max(0.0, min(end_s, latest[1]) - start_s)
            if end_s > latest[1]:
                latest = (name, end_s)
        return total_s

    def led_s(self) -> float:
        return sum(end_s - start_s for one in self.replicas for start_s, end_s in one.led)

    def _replica(self, number: int) -> Replica:
        drift = self.weather.drift_ratio
        rate = 1 + self.random.uniform(-drift, drift)
        name = f"ipa-{number}"
        return Replica(name, Election(name, self.times), self.random.uniform(-1e4, 1e4), rate)

    def _step_of(self, replica: Replica) -> Callable[[], None]:
        life = replica.lives
        return lambda: self._awake(replica, life, lambda: self._step(replica))

    def _awake(self, replica: Replica, life: int, does: Callable[[], None]) -> None:
        """Do it where that life goes on, once it is not stopped."""
        if not replica.alive or replica.lives != life:
            return
        if self.now_s < replica.stopped_until_s:
            wait_s = replica.stopped_until_s - self.now_s
            self.at(wait_s, lambda: self._awake(replica, life, does))
            return
        does()

    def _step(self, replica: Replica) -> None:
        now_s = replica.local_s(self.now_s)
        step = next_step(replica.election, now_s, self._stamp())
        if step.act is LeaseAction.WAIT:
            self.at(step.wait_s / replica.rate + 1e-9, self._step_of(replica))
            return
        if step.act is not LeaseAction.READ:
            replica.becomes(sending(replica.election, step, now_s), self.now_s)
        self._send(replica, step)

    def _send(self, replica: Replica, step: LeaseStep) -> None:
        timeout_s, lost = self.weather.timeout_s, self.weather.lost_share
        there_s, back_s = self._latency_s(), self._latency_s()
        answer: list[Lease | None] = []

        def arrives() -> None:
            if self.now_s < replica.cut_until_s and there_s < timeout_s:
                return
            answer.append(self._serve(step))

        if self.random.random() >= lost:
            self.at(there_s, arrives)
        is_heard = self.random.random() >= lost and there_s + back_s < timeout_s
        life = replica.lives

        def hears() -> None:
            if is_heard and answer and self.now_s >= replica.cut_until_s:
                self._hear(replica, step, answer[0])
            else:
                local_s = replica.local_s(self.now_s)
                replica.becomes(unanswered(replica.election, local_s, self.random.random()), self.now_s)
            self._step(replica)

        wait_s = there_s + back_s if is_heard else timeout_s
        self.at(wait_s, lambda: self._awake(replica, life, hears))

    def _serve(self, step: LeaseStep) -> Lease | None:
        if step.act is LeaseAction.READ:
            return self.store.lease
        assert step.lease is not None
        return (
            self.store.create(step.lease)
            if step.act is LeaseAction.CREATE
            else self.store.replace(step.lease)
        )

    def _hear(self, replica: Replica, step: LeaseStep, answer: Lease | None) -> None:
        now_s, jitter, before = replica.local_s(self.now_s), self.random.random(), replica.election
        if step.act is LeaseAction.READ:
            after = saw(before, answer, now_s, jitter)
        elif answer is None:
            after = refused(before, now_s, jitter)
        else:
            after = wrote(before, answer.version, now_s, jitter)
        replica.becomes(after, self.now_s)

    def _latency_s(self) -> float:
        if self.random.random() < self.weather.slow_share:
            return self.random.uniform(0, 1.5 * self.weather.timeout_s)
        return self.random.expovariate(1 / self.weather.latency_s)

    def _stamp(self) -> str:
        """The wall clock's words, of a clock that steps back and forth."""
        return f"{self.random.choice(['00:59', '01:00', '02:00'])}.{next(self._stamps)}"

    def _again(self, every_s: float, happens: Callable[[], None]) -> None:
        def once() -> None:
            if self.weather is not CALM:
                happens()
                self._again(every_s, happens)

        self.at(self.random.expovariate(1 / every_s), once)

    def _anyone(self) -> Replica:
        return self.leader() or self.random.choice(self.replicas)

    def _stop_one(self) -> None:
        self.stop(self._anyone(), self.random.uniform(1, 30))

    def _cut_one(self) -> None:
        self.cut(self._anyone(), self.random.uniform(1, 30))

    def _one_dies(self) -> None:
        replica = self._anyone()
        if not replica.alive:
            return
        self.kill(replica)
        replica.lives += 1

        def reborn() -> None:
            replica.alive, replica.since_s = True, self.now_s
            replica.election = Election(f"{replica.name}.{replica.lives}", self.times)
            self._step(replica)

        self.at(self.random.uniform(1, 10), reborn)

    def _edit(self) -> None:
        self.random.choice(EDITS)(self)


def _named(names: Callable[[Simulation], str]) -> Callable[[Simulation], None]:
    return lambda simulation: simulation.store.edit(holder=names(simulation))


# What people do to a Lease.
EDITS: Sequence[Callable[[Simulation], object]] = (
    lambda simulation: simulation.store.delete(),
    _named(lambda simulation: ""),
    _named(lambda simulation: "somebody"),
    _named(lambda simulation: simulation.random.choice(simulation.replicas).election.me),
    lambda simulation: simulation.store.edit(lease_s=1.0),
    lambda simulation: simulation.store.edit(lease_s=1.0, holder=""),
    lambda simulation: simulation.store.edit(renewed_at="1970", acquired_at="1970"),
    lambda simulation: simulation.store.edit(transitions=0),
    lambda simulation: (
        simulation.store.backups
        and simulation.store.restore(simulation.random.choice(simulation.store.backups[-20:]))
    ),
    # An annotation: another version, and nothing else.
    lambda simulation: simulation.store.edit(),
)
