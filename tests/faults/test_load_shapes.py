"""P: loads of all shapes, seen late, in part or not at all, over the real client and a fake of Prometheus."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from functools import cache
from itertools import pairwise
from typing import Any

import pytest

from ipa.adapters.prometheus.queries import LOCAL
from ipa.control.engine.guards import total_cores
from ipa.model.decision import Action, Decision, ReasonCode
from ipa.model.pipeline import Fallback
from ipa.targets.seldon.metrics import EXECUTOR
from tests.fakes.world import PIPELINE
from tests.faults.prometheus import Rate, Target
from tests.faults.table import Case, variants
from tests.faults.watched import (
    BUSY_RPS,
    LONG_S,
    SLOW,
    TICK_S,
    UNSEEN,
    Watched,
    absent,
    downscales,
    during,
    per_hour,
    turns,
    watched,
    writes,
)

FALLBACK = Fallback(rate_rps=40.0, after_ticks=6, recover_ticks=3)


@pytest.mark.parametrize("fallback", [FALLBACK, None], ids=["declared", "none"])
def test_p1_fall_back(case: Case, fallback: Fallback | None) -> None:
    """The load rises while nobody sees it."""
    with watched(_rises_unseen, pipeline=replace(PIPELINE, fallback=fallback), direct=True) as over:
        over.run(100.0)
        before_s = over.short_s
        over.server.is_down = lambda t_s: 100.0 <= t_s < 400.0
        blind = over.run(300.0)
        case.note("s short of capacity while down", over.short_s - before_s)
        after = over.run(100.0)
    case.note("fall-back", f"{fallback.rate_rps:g} rps" if fallback else "none")
    case.equal("downscales while down", downscales(blind), 0)
    entered = [n for n, d in enumerate(blind, 1) if d.reason is ReasonCode.FALLBACK]
    case.equal("fall-back entered at blind tick", entered[:1], [FALLBACK.after_ticks] if fallback else [])
    case.equal("mode switches", len(switches([*blind, *after])), 2 if fallback else 0)
    if fallback:
        left = [n for n, d in enumerate(after, 1) if d.reason not in UNSEEN]
        outside = [n for n, inside in enumerate(map(in_fallback, after)) if not inside]
        case.equal("fall-back left after good ticks", outside[0] - left[0] + 1, FALLBACK.recover_ticks)


def test_v5_the_router_is_not_seen_under_rising_load(case: Case) -> None:
    """Its metrics are late since it is loaded; the queue of the first stage counts the same requests."""
    with watched(_rises_unseen) as over:
        over.run(100.0)
        before_s = over.short_s
        over.server.rewrite = absent("ipa_router")
        unseen = over.run(300.0)
        case.at_most("s short of capacity", over.short_s - before_s, 20.0)
        case.equal("downscales", downscales(unseen), 0)
        case.equal("blind ticks", sum(it.reason is ReasonCode.METRICS_MISSING for it in unseen), 0)
        case.equal("highest load seen, rps", round(max(it.observed_rate_rps or 0.0 for it in unseen)), 38)


def _rises_unseen(t_s: float) -> float:
    return 15.0 if t_s < 160.0 else 38.0


def in_fallback(decision: Decision) -> bool:
    """True if the fall-back was in force when the decision was begun."""
    return bool(json.loads(decision.inputs)["state"]["blindness"]["in_fallback"])


def switches(decisions: list[Decision]) -> list[int]:
    """The ticks between which the fall-back came into force or ended."""
    modes = [in_fallback(decision) for decision in decisions]
    return [n for n, (before, after) in enumerate(pairwise(modes)) if before != after]


# How many ticks Prometheus is down, and then up, again and again.
FLAPS = [(1, 1), (6, 1), (7, 2), (12, 5)]
FLAPS_S = 450.0


@pytest.mark.parametrize(("down", "up"), variants(FLAPS[1::2], FLAPS[::2]))
def test_p10_comes_and_goes(case: Case, down: int, up: int) -> None:
    with watched(BUSY_RPS, pipeline=replace(PIPELINE, fallback=FALLBACK), direct=True) as ours:
        ours.run(50.0)
        since_s, cycle_s, down_s = ours.now_s, (down + up) * TICK_S, down * TICK_S
        ours.server.is_down = lambda t_s: since_s <= t_s and (t_s - since_s) % cycle_s < down_s
        ours.run(FLAPS_S)
    case.note("ticks down and up", f"{down} and {up}")
    # Into it and out of it take that many ticks at the least.
    bound = 2 * 3600.0 / ((FALLBACK.after_ticks + FALLBACK.recover_ticks) * TICK_S)
    case.at_most("mode switches/h", per_hour(len(switches(ours.decisions)), FLAPS_S), bound)
    case.equal("switches below the required share of data", _too_few(ours.decisions), 0)
    case.equal("downscales", downscales(ours.decisions), 0)


def _too_few(decisions: list[Decision]) -> int:
    """Ends of the fall-back before so many ticks in a row had seen the load."""
    unseen = [decision.reason in UNSEEN or decision.reason is ReasonCode.FALLBACK for decision in decisions]
    ends = [n for n in switches(decisions) if in_fallback(decisions[n])]
    return sum(any(unseen[n - FALLBACK.recover_ticks + 1 : n + 1]) for n in ends)


def losing(seed: int) -> Callable[[int], bool]:
    """Loses 30 % of the scrapes, the same ones for the same seed."""
    return lambda second: random.Random(f"{seed}/{second}").random() >= 0.3


def wavy(seed: int) -> Rate:
    """A load that rises and falls threefold in ten minutes, with noise of a tenth."""
    source = random.Random(seed)
    noise = [source.gauss(1.0, 0.1) for _ in range(4000)]
    return lambda t_s: 16.0 * (1 + 0.5 * math.sin(t_s / 95.0)) * max(0.2, noise[int(t_s) % 4000])


@pytest.mark.parametrize("seed", variants([0], [1]))
def test_p5_lost_scrapes(case: Case, seed: int) -> None:
    def run(keeps: Callable[[int], bool]) -> Watched:
        with watched(wavy(seed), direct=True, settings=SLOW) as over:
            over.server.targets[0].answers = keeps
            over.run(LONG_S)
            return over

    case.seeds = str(seed)
    clean, lossy = run(lambda second: True), run(losing(seed))
    lost, extra = turns(lossy.decisions), per_hour(turns(lossy.decisions) - turns(clean.decisions))
    case.note("direction changes/h, clean", per_hour(turns(clean.decisions)))
    case.note("direction changes/h, 30 % lost", per_hour(lost))
    case.at_most("more direction changes/h", extra, 6.0)
    case.note("s short of capacity, clean", clean.short_s)
    case.note("s short of capacity, 30 % lost", lossy.short_s)


def squares(t_s: float) -> float:
    """Five minutes low, five minutes high, five minutes low."""
    return 25.0 if int(t_s // 300) % 2 else 5.0


@cache
def seen_late(lag_s: int) -> tuple[float, Watched]:
    """The most cores under the square load that is seen so late, and the loop."""
    with watched(squares, direct=True, settings=SLOW) as over:
        over.server.hidden_lag_s = lag_s
        over.run(LONG_S)
        return max(total_cores(decision.configs) for decision in over.decisions), over


@pytest.mark.parametrize("lag_s", variants([60], [30, 120]))
def test_p6_a_lag_that_nobody_says(case: Case, lag_s: int) -> None:
    (clean_cores, clean), (cores, late) = seen_late(0), seen_late(lag_s)
    case.note("lag s", lag_s)
    case.at_most("overshoot %", 100 * (cores / clean_cores - 1), 0.0)
    # The load turns twice in this time: so often may the cores, and no more often.
    case.at_most("direction changes", turns(late.decisions), max(turns(clean.decisions), 2))
    case.note("direction changes, no lag", turns(clean.decisions))
    # The one rise is seen so much later.
    case.at_most("more s short of capacity", late.short_s - clean.short_s, lag_s + 2 * SLOW.tick_s)


@pytest.mark.parametrize("lag_s", variants([60], [30, 120]))
def test_p6_a_lag_that_ages_say(case: Case, lag_s: int) -> None:
    with watched(squares, direct=True, settings=SLOW) as over:
        over.run(340.0)
        high = over.made.workload.desired
        over.server.open_lag_s = lag_s
        decisions = over.run(300.0)
        case.equal("running configuration is kept", over.made.workload.desired == high, True)
    case.note("lag s", lag_s)
    case.equal("writes", writes(decisions), 0)


SERIES: dict[str, tuple[list[Target], str]] = {
    "two routers share the load": (
        [Target("router-1:9100", lambda t_s: 0.3), Target("router-2:9100", lambda t_s: 0.7)],
        "",
    ),
    "one of two has ended": (
        [
            Target("router-1:9100", lambda t_s: 0.5 if t_s < 60 else 0.0, answers=lambda second: second < 60),
            Target("router-2:9100", lambda t_s: 0.5 if t_s < 60 else 1.0),
        ],
        "",
    ),
    "another installation has the same name": (
        [
            Target("there:9100", lambda t_s: 3.0, labels={"namespace": "staging"}),
            Target("here:9100", labels={"namespace": "default"}),
        ],
        "seldon",
    ),
    "the namespace is not on the series": ([Target("here:9100")], "seldon"),
}


@pytest.mark.parametrize("name", SERIES)
def test_p7_several_series(case: Case, name: str) -> None:
    targets, dialect = SERIES[name]

    with watched(BUSY_RPS, direct=True, dialect=EXECUTOR if dialect else LOCAL) as over:
        over.server.targets = [replace(target, counters={}) for target in targets]
        over.run(150.0)
    # The means over a window that holds the change are of both; what follows it is not.
    decisions = [d for n, d in enumerate(over.decisions) if not 12 <= n < 18]
    rates_rps = [d.observed_rate_rps for d in decisions if d.observed_rate_rps is not None]
    error = max(abs(rate / BUSY_RPS - 1) for rate in rates_rps)
    case.note("series", name)
    case.at_most("wrong λ error %", 100 * error, 2.0)
    case.equal("ticks with metrics", sum(d.reason not in UNSEEN for d in decisions), len(decisions))


def test_p7_one_of_two_has_ended_without_a_trace(case: Case) -> None:
    """As where a remote store gets no staleness marker: a sum is as old as its oldest part."""
    with watched(BUSY_RPS, direct=True) as over:
        over.server.targets = [
            Target("router-1:9100", lambda t_s: 0.5 if t_s < 60 else 0.0, arrives=lambda second: second < 60),
            Target("router-2:9100", lambda t_s: 0.5 if t_s < 60 else 1.0),
        ]
        over.run(60.0)
        decisions = over.run(420.0)
    blind = sum(decision.reason in UNSEEN for decision in decisions)
    case.equal("downscales", downscales(decisions), 0)
    # Prometheus looks back five minutes: so long the ended one is there.
    case.at_most("s without metrics", blind * TICK_S, 300.0)
    rates_rps = [d.observed_rate_rps for d in decisions[12:] if d.observed_rate_rps is not None]
    case.at_most("wrong λ error %", 100 * max(abs(rate / BUSY_RPS - 1) for rate in rates_rps), 2.0)


def test_p7_an_answer_of_several_series_is_refused(case: Case) -> None:
    def doubled(parameters: Mapping[str, str], answer: dict[str, Any]) -> tuple[int, bytes]:
        result = answer["data"]["result"]
        return 200, json.dumps({**answer, "data": {**answer["data"], "result": result + result}}).encode()

    decisions = during(doubled)
    case.equal(
        "decisions from the first series alone", sum(d.observed_rate_rps is not None for d in decisions), 0
    )
    case.equal("reasons", sorted({d.reason.value for d in decisions}), ["hold.metrics_invalid"])


SHAPE_S = 300.0
SHAPES: dict[str, tuple[Rate, float]] = {
    # The load, and from when on it is high.
    "spike ×10": (lambda t_s: 50.0 if 100 <= t_s < 160 else 5.0, 100.0),
    "step": (lambda t_s: 25.0 if t_s >= 100 else 5.0, 100.0),
    "ramp": (lambda t_s: 5.0 + max(0.0, t_s - 100.0) * 0.1, 100.0),
    "square wave": (lambda t_s: 40.0 if t_s >= 100 and int(t_s // 15) % 2 else 5.0, 100.0),
}


@pytest.mark.parametrize("shape", variants(["spike ×10", "square wave"], ["step", "ramp"]))
def test_p12_shapes(case: Case, shape: str) -> None:
    rate, since_s = SHAPES[shape]
    with watched(rate, direct=True) as over:
        over.run(since_s)
        before_s = over.short_s
        over.run(SHAPE_S)
    grew = [d for d in over.decisions if d.action is Action.APPLY and _at_s(over, d) >= since_s]
    case.note("load", shape)
    case.at_most("s short of capacity", over.short_s - before_s, 3 * TICK_S)
    case.note("s until the first change", _at_s(over, grew[0]) - since_s if grew else math.inf)
    case.at_most("changes/h", per_hour(len(grew), SHAPE_S), 240.0)
    case.at_most("direction changes/h", per_hour(turns(grew), SHAPE_S), per_hour(1, SHAPE_S))


def _at_s(over: Watched, decision: Decision) -> float:
    """The virtual second of a decision."""
    first = over.decisions[0]
    return (datetime.fromisoformat(decision.at) - datetime.fromisoformat(first.at)).total_seconds()
