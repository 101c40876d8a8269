"""Clocks: a wall clock that steps, processes that sleep, servers with another time, ticks that are late."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.lease import LeaseLeadership, write_spec
from ipa.adapters.prometheus.client import PrometheusMetrics
from ipa.control.election import Lease
from ipa.control.ports import Freeze
from ipa.model.decision import Decision, ReasonCode
from ipa.model.observation import Missing, MissingReason
from ipa.policies.ours import Ours
from ipa.settings import Settings
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube
from tests.fakes.kube.api import Request
from tests.fakes.world import PIPELINE, SMALLEST, Scenario, scenario
from tests.faults import sleeper
from tests.faults.prometheus import EPOCH_S, FakePrometheus
from tests.faults.replicas import Service
from tests.faults.table import Case
from tests.faults.world import NAMESPACE, PLANNER, build, theirs

START = datetime(2026, 1, 1, tzinfo=UTC)
# An hour either way (a zone set wrong), what NTP corrects at once, and a leap second.
STEPS_S = (3600.0, -3600.0, 0.5, -0.5, 90.0, -90.0, -1.0)
ROOT = Path(__file__).resolve().parents[2]


def days(seed: int) -> Callable[[float], float]:
    """A load that goes up and down in steps, so that cooldowns are what decides."""
    random = Random(seed)
    rates = [random.choice([3.0, 9.0, 20.0]) for _ in range(40)]
    return lambda t_s: rates[int(max(t_s, 0.0) // 45.0) % len(rates)]


def decided(seed: int, steps: bool) -> list[tuple[Any, ...]]:
    """The results of the ticks, a variant failing on the way; with steps of the wall clock, or without."""
    made = scenario(days(seed), policy=Ours(PIPELINE, PLANNER))
    made.workload.broken = {("read", "big")}
    random, decisions = Random(-seed), []
    for tick in range(50):
        if steps and random.random() < 0.2:
            made.clock.set_wall(made.clock.now() + timedelta(seconds=random.choice(STEPS_S)))
        if tick == 25:
            made.workload.broken = set()
        decisions += [(one.action, one.reason, one.configs) for one in made.ticks(1)]
    return decisions


def test_c1_the_wall_clock_steps(case: Case) -> None:
    seeds = range(10)
    straight = {seed: decided(seed, steps=False) for seed in seeds}
    other = sum(decided(seed, steps=True) != straight[seed] for seed in seeds)
    reasons = {reason for decisions in straight.values() for _, reason, _ in decisions}
    assert ReasonCode.ROLLBACK in reasons
    case.seeds = f"{len(seeds)}"
    case.equal("seeds with a cooldown skipped or frozen", other, 0)
    case.note("distinct reasons", len(reasons))


def test_c1_people_mean_the_wall_clock(case: Case) -> None:
    """A pause until noon ends at noon, however the clock came to say so; a frozen hour is that hour."""
    wrong = 0
    for step_s in (3600.0, -3600.0, 0.0):
        for say in (paused, frozen):
            made = scenario(5.0, policy=Ours(PIPELINE, PLANNER))
            start = made.clock.now()
            until = start + timedelta(seconds=600)
            say(made, until)
            for tick in range(90):
                if tick == 5:
                    made.clock.set_wall(made.clock.now() + timedelta(seconds=step_s))
                held = made.loop.tick_once().reason in (ReasonCode.PAUSED, ReasonCode.FROZEN)
                meant = made.clock.now() < until and (say is paused or made.clock.now() >= start)
                wrong += held != meant
                made.clock.wait(60.0)
    case.equal("ticks held or released at the wrong time", wrong, 0)


def paused(made: Scenario, until: datetime) -> None:
    made.say(paused=True, paused_until=until)


def frozen(made: Scenario, until: datetime) -> None:
    made.say(freezes=(Freeze(made.clock.now(), until, "black friday"),))


def slept_in_a_tick(*, elsewhere: bool) -> tuple[int, Decision]:
    """The leader sleeps 60 s after it has recorded a decision, and has renewed the lease when it goes on.

    Its writes under the decision of the old lease, and what the tick came to. `elsewhere`: another led.
    """
    with build() as world:
        service = Service(world)
        one, other = service.add("one"), service.add("other")
        other.stopped = True
        assert service.until(one.leadership.leading, 20.0)
        service.ticks(one, 30.0)
        world.rate_rps = 20.0
        world.clock.wait(10.0)
        record, writes = world.store.record, len(one.writes)

        def sleeps(decision: Decision) -> None:
            record(decision)
            world.store.record = record  # type: ignore[method-assign]
            one.stopped, other.stopped = True, not elsewhere
            world.clock.wait(30.0)
            other.stopped = True
            world.clock.wait(30.0)
            one.stopped = False
            assert service.until(one.leadership.leading, 30.0)

        world.store.record = sleeps  # type: ignore[method-assign]
        woke = service.tick(one)
        written = len(one.writes) - writes
        # And it goes on in its new term.
        assert service.tick(one).reason is not ReasonCode.NOT_LEADER
        service.close()
        return written, woke


@pytest.mark.parametrize("elsewhere", [True, False], ids=["another led", "nobody led"])
def test_c2_asleep_in_the_middle_of_a_tick(case: Case, elsewhere: bool) -> None:
    written, woke = slept_in_a_tick(elsewhere=elsewhere)
    case.equal("writes after resume under the old lease", written, 0)
    case.equal("outcome of the tick", woke.reason.value, ReasonCode.NOT_LEADER.value)


class Child:
    """The process of `sleeper.py` on a cluster of its own."""

    def __init__(self, kube: FakeKube, folder: Path, *how: str) -> None:
        self.kube, self.ticks = kube, []
        spec = write_spec(Lease("", 1.0, renewed_at="then"))
        lease = {"kind": "Lease", "metadata": {"name": sleeper.PLACE.name}, "spec": spec}
        kube.store.create("leases", NAMESPACE, lease)
        kube.store.create("seldondeployments", NAMESPACE, theirs(sleeper.PIPELINE, SMALLEST))
        kube.tick(8)
        folder.mkdir()
        self.kubeconfig = str(kube.kubeconfig(folder))
        command = [sys.executable, "-m", "tests.faults.sleeper", self.kubeconfig, *how]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def listen(self, until: Callable[[float, str], bool]) -> list[tuple[float, str]]:
        """Its next ticks, each with its time and reason, up to one for which that holds."""
        assert self.process.stdout is not None
        ticks = []
        while not ticks or not until(*ticks[-1]):
            at_s, reason = self.process.stdout.readline().split()
            ticks.append((float(at_s), reason))
        return ticks

    def stop(self) -> None:
        """Once it has written: SIGSTOP."""
        self.listen(lambda _, reason: reason.startswith("apply."))
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> tuple[list[tuple[float, str]], int]:
        """SIGCONT; its next ticks, and the writes of then."""
        written, now_s = len(self._written()), time.monotonic()
        self.process.send_signal(signal.SIGCONT)
        ticks = self.listen(lambda at_s, _: at_s > now_s + 4 * sleeper.TICK_S)
        return [tick for tick in ticks if tick[0] >= now_s], len(self._written()) - written

    def _written(self) -> list[Request]:
        return [one for one in self.kube.writes if one.resource == "seldondeployments"]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.mark.live
def test_c2_a_process_is_stopped_and_goes_on(case: Case, tmp_path: Path) -> None:
    """A real one, by SIGSTOP, for longer than its lease, with a change on its way that it would take back."""
    with ExitStack() as stack:
        child = Child(stack.enter_context(FakeKube()), tmp_path / "one")
        stack.callback(child.close)
        client = KubeClient.from_kubeconfig(child.kubeconfig, 5.0)
        stack.callback(client.close)
        other = LeaseLeadership(client, sleeper.PLACE, "other", sleeper.TIMES)
        child.stop()
        other.start()
        stack.callback(other.close)
        while not other.leading():
            child.kube.stopping.wait(0.01)
        ticks, written = child.go_on()
        assert other.leading()
    case.equal("writes after resume under the old lease", written, 0)
    case.equal("ticks after resume", {reason for _, reason in ticks}, {"hold.not_leader"})
    case.at_most("ticks in a burst", burst([at_s for at_s, _ in ticks], sleeper.TICK_S), 1)


def burst(starts_s: Sequence[float], tick_s: float) -> int:
    """The most ticks that began within half of the time of one."""
    return max(sum(first <= at_s < first + tick_s / 2 for at_s in starts_s) for first in starts_s)


def skewed(skew_s: float, lag_s: int) -> tuple[bool, bool]:
    """Two truths: the load is stale; we report it.

    Our wall clock differs by `skew_s` from that of Prometheus, whose newest samples are `lag_s` old.
    """
    clock = VirtualClock(datetime.fromtimestamp(EPOCH_S + skew_s, UTC))
    with FakePrometheus(clock, lambda t_s: 5.0) as server:
        clock.wait(60.0)
        server.open_lag_s = lag_s
        clock.wait(30.0)
        metrics = PrometheusMetrics(
            Settings(prometheus_url=server.url, prometheus_timeout_s=60.0, stale_after_s=STALE_S),
            monotonic_s=clock.monotonic_s,
        )
        rate = metrics.read(PIPELINE, 60.0).arrival_rate_rps
        is_stale = isinstance(rate, Missing) and rate.reason is MissingReason.STALE
        return lag_s > STALE_S, is_stale


STALE_S = 15.0


def test_c3_skew_of_prometheus(case: Case) -> None:
    verdicts = [skewed(skew_s, lag_s) for skew_s in (0.0, 300.0, -300.0) for lag_s in (0, 5, 25)]
    case.equal("wrong staleness verdicts", sum(truth != verdict for truth, verdict in verdicts), 0)
    case.note("verdicts", len(verdicts))


def overrun(took_s: float) -> tuple[list[float], Scenario]:
    """When the ticks of a run began; each eleventh takes so long."""
    made = scenario(5.0, policy=Ours(PIPELINE, PLANNER))
    read, starts = made.metrics.read, []

    def slow(*args: Any) -> Any:
        starts.append(made.clock.monotonic_s())
        if len(starts) % 11 == 5:
            made.clock.wait(took_s)
        return read(*args)

    made.metrics.read = slow  # type: ignore[method-assign]
    made.run(600.0)
    return starts, made


@pytest.mark.parametrize("took_s", [6.0, 10.0, 57.0])
def test_c4_a_tick_overruns_the_interval(case: Case, took_s: float) -> None:
    starts, made = overrun(took_s)
    tick_s = made.settings.tick_s
    case.note("tick s", took_s)
    # Those that would have begun meanwhile are gone; at most one is due at once.
    case.at_most("queued ticks", burst(starts, tick_s) - 1, 1)
    off = [at_s % tick_s for at_s in starts]
    case.equal("ticks off schedule", sum(at_s > 1e-9 for at_s in off), 0)
    slots = round(made.clock.monotonic_s() / tick_s)
    case.equal("ticks run and skipped of those due", len(starts) + made.loop.snapshot().skipped_ticks, slots)
