"""Days of virtual time under random faults of every group: does anything break, grow, or not come back?"""

from __future__ import annotations

import gc
import os
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from ipa.model.decision import Mode, ReasonCode
from tests.faults.drive import BAD, Entry, drive
from tests.faults.world import PLANNER, QUIET, SETTINGS, KubeWorld, build

TICK_S = 10.0
# The cluster replaces up to four replicas one at a time, each in three steps of 5 s: with a minute, a change
# that nothing is wrong with would be rolled back, and the rollback would fail, for ever.
DEADLINE_S = 120.0
# Faults come so many ticks apart, and last at most so many.
APART, LONGEST = (20, 60), 20
RATES_RPS = (0.0, 2.0, 5.0, 12.0, 25.0, 33.0)
# What only a person ends: pause and resume.
BLOCKED = frozenset({ReasonCode.DRIFT, ReasonCode.ROLLBACK_FAILED, ReasonCode.RBAC, ReasonCode.CONFLICT})
# What the fakes keep for tests to look at is cut to that, since it is not the service's.
KEPT = 60
# Ticks between two looks at the memory.
SAMPLE = 250
# No slope is told from a process that is still warming up.
WARM_UP = 0.2


@dataclass
class Soak:
    """The result. `settled` are the ticks from the end of each fault until all is quiet again."""

    ticks: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    settled: list[int] = field(default_factory=list)
    never: int = 0
    persons: int = 0
    writes: int = 0
    requests: float = 0.0
    lost: float = 0.0
    longest_mixed_s: float = 0.0
    overshoot_cores: float = 0.0
    violations: list[str] = field(default_factory=list)
    rss_mb: list[tuple[int, float]] = field(default_factory=list)

    @property
    def slope_mb(self) -> float:
        """MB that memory grows in 1 000 ticks, by least squares, warming up left out."""
        points = [(at / 1000, mb) for at, mb in self.rss_mb if at >= WARM_UP * self.ticks]
        if len(points) < 2:
            return 0.0
        mean_x, mean_y = (sum(column) / len(points) for column in zip(*points, strict=True))
        above = sum((x - mean_x) * (y - mean_y) for x, y in points)
        return above / sum((x - mean_x) ** 2 for x, _ in points)

    @property
    def lost_ratio(self) -> float:
        """The share of the requests that came while too little ran for them."""
        return self.lost / self.requests if self.requests else 0.0


def episode(source: random.Random, at_s: float) -> list[Entry]:
    """One fault, or two at once, from `at_s` on."""
    entries = [_fault(source, at_s)]
    if source.random() < 0.2:
        entries.append(_fault(source, at_s + source.uniform(0.0, 30.0)))
    return entries


def _fault(source: random.Random, at_s: float) -> Entry:
    for_s = source.uniform(1.0, LONGEST * TICK_S)
    lasting = Entry(at_s, "", "", for_s=for_s)
    kinds = [
        replace(lasting, target="kube", effect="status", status=source.choice([500, 503, 429, 504])),
        replace(lasting, target="kube", effect="status", status=409, verb="patch"),
        Entry(at_s, "kube", "status", status=403, verb="patch", times=1),
        Entry(at_s, "kube", "lost-after", verb="patch", times=source.randrange(1, 4), dry_run=False),
        Entry(at_s, "kube", "lost-before", times=source.randrange(1, 6)),
        Entry(at_s, "kube", "html", verb="get", times=source.randrange(1, 6)),
        Entry(at_s, "kube", "truncated", times=source.randrange(1, 6)),
        Entry(at_s, "kube", "hang", verb="get", times=source.randrange(1, 4)),
        replace(lasting, target="kube", effect="stale"),
        replace(lasting, target="kube", effect="delay", delay_s=source.uniform(0.1, 5.0)),
        replace(lasting, target="prometheus", effect=source.choice(sorted(BAD))),
        Entry(
            at_s, "hand", "scale", stage=source.choice(["detect", "read"]), replicas=source.randrange(1, 6)
        ),
        Entry(at_s, "hand", source.choice(["label", "recreate", "revert"])),
        replace(
            lasting, target="pods", effect=source.choice(["crash", "image", "never-ready"]), variant="big"
        ),
        replace(lasting, target="cluster", effect="capacity", cores=source.choice([4.0, 8.0])),
        replace(lasting, target="cluster", effect="stuck-status"),
        replace(lasting, target="cluster", effect="webhook", annotation="1"),
        replace(lasting, target="store", effect="failing"),
        Entry(at_s, "clock", "jump", jump_s=source.choice([-3600.0, 3600.0, 300.0])),
        replace(lasting, target="people", effect="pause"),
        replace(lasting, target="people", effect="freeze"),
        Entry(at_s, "people", "mode", mode=source.choice(list(Mode)).value),
        Entry(at_s, "service", "restart"),
        replace(lasting, target="service", effect="standby"),
    ]
    return source.choice(kinds)


def soak(ticks: int, seed: int = 0, *, with_faults: bool = True) -> Soak:
    """So many ticks of 10 s; the load is the same with and without the faults."""
    loads, faults, made = random.Random(seed), random.Random(seed + 1), Soak()
    settings = replace(SETTINGS, tick_s=TICK_S, rollout_deadline_s=DEADLINE_S)
    with build(settings=settings) as world:
        world.settle()
        world.lost = 0.0
        while made.ticks < ticks:
            world.rate_rps = loads.choice(RATES_RPS)
            length = loads.randrange(*APART)
            if with_faults:
                _suffer(world, made, faults)
            calm = _quiet(world, made, length)
            if with_faults:
                made.settled.extend([calm] if calm >= 0 else [])
                made.never += calm < 0
            _cut(world)
            if made.ticks - (made.rss_mb[-1][0] if made.rss_mb else 0) >= SAMPLE:
                made.rss_mb.append((made.ticks, rss_mb()))
        made.violations = list(world.invariants.violations)
        made.longest_mixed_s = world.invariants.longest_mixed_s
        made.overshoot_cores = world.invariants.overshoot_cores
        made.lost = world.lost
    return made


def _suffer(world: KubeWorld, made: Soak, source: random.Random) -> None:
    """One episode, until all of it is over."""
    entries = tuple(episode(source, 0.5))
    made.faults.update(f"{entry.target} {entry.effect}" for entry in entries)
    until_s = world.clock.monotonic_s() + max(entry.end_s for entry in entries)
    drive(world, entries)
    while world.clock.monotonic_s() < until_s:
        _tick(world, made)
    # What was not met by a request within its time is over too.
    world.clear_faults()
    world.kube.cluster.trouble_of = lambda pod: None
    if world.store.controls:
        world.say(mode=Mode.ACTIVE, freezes=(), paused=False)


def _quiet(world: KubeWorld, made: Soak, length: int) -> int:
    """Ticks until three quiet ones in a row, within at least `length`; -1 where there are none in a while."""
    quiet, settled_after, spent = 0, -1, 0
    while spent < length or (settled_after < 0 and spent < 20 * APART[1]):
        decision_reason = _tick(world, made)
        spent += 1
        if decision_reason in BLOCKED and world.loop.snapshot().phase.value == "idle" and spent % 5 == 0:
            made.persons += 1
            world.say(paused=True)
            _tick(world, made)
            world.say(paused=False)
        quiet = quiet + 1 if decision_reason in QUIET and world.invariants.is_settled() else 0
        if quiet == 3 and settled_after < 0:
            settled_after = spent - 3
    return settled_after


def _tick(world: KubeWorld, made: Soak) -> ReasonCode:
    began_s, writes = world.clock.monotonic_s(), len(world.kube.writes)
    reason = world.tick().reason
    made.ticks += 1
    made.writes += len(world.kube.writes) - writes
    made.requests += world.rate_rps * (world.clock.monotonic_s() - began_s)
    return reason


def _cut(world: KubeWorld) -> None:
    """Forget what only tests look at."""
    for entries in (world.store.recorded, world.decisions, world.kube.requests, world.kube.writes):
        del entries[:-KEPT]
    del world.events.events[:-KEPT]
    del world.invariants.writes[:-KEPT]
    world.invariants.forget_lines()
    with world.kube.store.lock:
        del world.kube.store.log[:-200]
    PLANNER.forget(2000)


def rss_mb() -> float:
    """Memory of this process in MB, what Python could free freed."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def percentile(values: Sequence[int], percent: float) -> int:
    """The value that so many percent are not above; -1 of none."""
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)] if ordered else -1


def _per_1000(made: Soak) -> float:
    return 1000 * made.writes / max(made.ticks, 1)


def table(bad: Soak, good: Soak, took_s: float) -> str:
    """The figures, one a line."""
    middle = median(bad.settled) if bad.settled else -1
    rows = [
        ("ticks", f"{bad.ticks}", f"{bad.ticks * TICK_S / 3600:.1f} h of virtual time"),
        ("faults", f"{bad.faults.total()}", f"{len(bad.faults)} kinds"),
        ("violations of invariants", f"{len(bad.violations)}", "; ".join(bad.violations[:2])),
        ("ticks to settle p50", f"{middle:g}", ""),
        ("ticks to settle p99", f"{percentile(bad.settled, 99)}", ""),
        ("ticks to settle max", f"{max(bad.settled, default=-1)}", f"{bad.never} never"),
        (
            "times a person was needed",
            f"{bad.persons}",
            "pause and resume after drift, refusal, failed rollback",
        ),
        ("writes in 1 000 ticks", f"{_per_1000(bad):.1f}", f"{_per_1000(good):.1f} without faults"),
        ("requests beyond capacity", f"{bad.lost_ratio:.3%}", f"{good.lost_ratio:.3%} without faults"),
        ("longest mixed s", f"{bad.longest_mixed_s:g}", ""),
        ("most cores above the budget", f"{bad.overshoot_cores:g}", ""),
        ("memory, MB per 1 000 ticks", f"{bad.slope_mb:+.2f}", f"{rss_mb():.0f} MB at the end"),
        ("time", f"{took_s:.0f} s", f"{1000 * took_s / max(bad.ticks + good.ticks, 1):.1f} ms a tick"),
    ]
    widths = [max(len(row[at]) for row in rows) for at in range(2)]
    return "\n".join(
        f"{name:<{widths[0]}}  {value:>{widths[1]}}  {words}".rstrip() for name, value, words in rows
    )
