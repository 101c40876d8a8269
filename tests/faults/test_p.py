"""P: what Prometheus can do to a reading, over the real client and a fake of it on a virtual clock."""

from __future__ import annotations

import json
import math
import random
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from time import perf_counter
from typing import Any

import pytest

from ipa.adapters.prometheus.dialects import Dialect
from ipa.adapters.prometheus.transport import MAX_BYTES
from ipa.control.guards import total_cores
from ipa.model.decision import Action, Decision, ReasonCode
from tests.faults.prometheus import (
    SETTINGS,
    SLOW,
    Rate,
    Rewrite,
    Target,
    Watched,
    downscales,
    turns,
    watched,
    writes,
)
from tests.faults.table import Case

UNSEEN = {ReasonCode.METRICS_MISSING, ReasonCode.METRICS_STALE, ReasonCode.METRICS_INVALID}
TICK_S = SETTINGS.tick_s
# Well above what the smallest configuration carries: who takes it for nothing takes cores away.
BUSY_RPS = 25.0


def outage(seconds: float, *, naive: bool = False) -> tuple[list[Decision], list[Decision], Watched]:
    """The decisions while Prometheus is down, those after it, and the loop."""
    with watched(BUSY_RPS, naive=naive) as over:
        over.run(100.0)
        since_s = over.now_s
        over.server.is_down = lambda t_s: since_s <= t_s < since_s + seconds
        return over.run(seconds), over.run(60.0), over


@pytest.mark.parametrize("seconds", [5.0, 60.0, 600.0, 3600.0], ids=lambda seconds: f"{seconds:g} s")
def test_p1_down(case: Case, seconds: float) -> None:
    down, after, over = outage(seconds)
    case.told("down s", seconds)
    case.equal("downscales", downscales([*down, *after]), 0)
    case.equal("writes while down", writes(down), 0)
    case.equal("reasons while down", sorted({d.reason.value for d in down}), ["hold.metrics_missing"])
    case.at_most("ticks to see again", _first(after, lambda d: d.reason not in UNSEEN), 2)
    case.equal("s short of capacity", over.short_s, 0.0)
    if seconds <= 60.0:
        plain_down, plain_after, plain = outage(seconds, naive=True)
        case.baseline("downscales", downscales([*plain_down, *plain_after]))
        case.baseline("s short of capacity", plain.short_s)


def _first(decisions: list[Decision], holds: Callable[[Decision], bool]) -> int:
    """How many ticks it took until one holds; one more than there are where none does."""
    return next((n for n, decision in enumerate(decisions, 1) if holds(decision)), len(decisions) + 1)


def absent(kind: str) -> Rewrite:
    """No series for queries of that kind."""

    def rewrite(asked: Mapping[str, str], answer: dict[str, Any]) -> tuple[int, bytes] | None:
        if kind not in asked["query"]:
            return None
        data = {**answer["data"], "result": []}
        return 200, json.dumps({**answer, "data": data}).encode()

    return rewrite


def during(rewrite: Rewrite, seconds: float = 100.0, *, naive: bool = False) -> list[Decision]:
    """The decisions while answers are rewritten, after the loop had found its plan."""
    with watched(BUSY_RPS, naive=naive) as over:
        over.run(60.0)
        over.server.rewrite = rewrite
        return over.run(seconds)


@pytest.mark.parametrize("kind", ["", "rate(ipa_router", "time()", "sum (rate(ipa_router_arrivals_total"])
def test_p2_no_series(case: Case, kind: str) -> None:
    decisions = during(absent(kind))
    case.told("absent", kind or "everything")
    case.equal("decisions that treat absent as 0", _as_zero(decisions), 0)
    case.equal("downscales", downscales(decisions), 0)
    case.equal("reasons", sorted({d.reason.value for d in decisions}), ["hold.metrics_missing"])
    if kind != "time()":
        plain = during(absent(kind), naive=True)
        case.baseline("decisions that treat absent as 0", _as_zero(plain))
        case.baseline("downscales", downscales(plain))


def _as_zero(decisions: list[Decision]) -> int:
    return sum(decision.observed_rate_rps == 0.0 for decision in decisions)


def numbers(text: str) -> Rewrite:
    """Every value of a rate is that."""

    def rewrite(asked: Mapping[str, str], answer: dict[str, Any]) -> tuple[int, bytes] | None:
        if asked["query"].startswith(("time()", "histogram_quantile")):
            return None
        result = answer["data"]["result"]
        for series in result:
            if "value" in series:
                series["value"][1] = text
            for point in series.get("values", ()):
                point[1] = text
        return 200, json.dumps(answer).encode()

    return rewrite


@pytest.mark.parametrize("text", ["NaN", "+Inf", "-Inf", "-3", "1e999", "seven", ""])
def test_p3_no_number(case: Case, text: str) -> None:
    decisions = during(numbers(text))
    case.told("value", repr(text))
    case.equal("reasons", sorted({d.reason.value for d in decisions}), ["hold.metrics_invalid"])
    case.equal("poisoned decisions", sum(map(_is_poisoned, decisions)), 0)
    plain = during(numbers(text), naive=True)
    case.baseline("downscales", downscales(plain))
    case.baseline("writes", writes(plain))


def _is_poisoned(decision: Decision) -> bool:
    """Whether a number that is none came further than the reading."""
    seen = [decision.observed_rate_rps, decision.forecast and decision.forecast.upper_rps]
    return writes([decision]) > 0 or any(value is not None and not 0 <= value < 1e9 for value in seen)


def test_p3_counter_reset(case: Case) -> None:
    def rate_errors(*, naive: bool) -> tuple[float, list[Decision]]:
        with watched(BUSY_RPS, naive=naive) as over:
            over.server.targets[0].restarts = frozenset({72, 133, 134})
            over.run(60.0)
            decisions = over.run(120.0)
            seen = [d.observed_rate_rps for d in decisions if d.observed_rate_rps is not None]
            return max(abs(rate - BUSY_RPS) / BUSY_RPS for rate in seen), decisions

    error, decisions = rate_errors(naive=False)
    # What arrived between the last scrape and the restart is lost: a second of five, twice in one window.
    case.at_most("largest error of λ %", 100 * error, 40.0)
    case.equal("downscales", downscales(decisions), 0)
    case.equal("negative rates", sum((d.observed_rate_rps or 0) < 0 for d in decisions), 0)


def test_p4_scrapes_that_stopped(case: Case) -> None:
    ages: list[float] = []
    # Seldon's dialect has a rate over 30 s: it is there long after the last scrape, so its age must tell.
    with watched(BUSY_RPS, dialect=Dialect.SELDON) as over:
        over.run(60.0)
        last_s = int(over.now_s)
        over.server.targets[0].arrives = lambda second: second <= last_s
        for _ in range(24):
            age_s = over.now_s - last_s
            if over.ticks(1)[0].reason not in UNSEEN:
                ages.append(age_s)
        decisions = over.decisions[-24:]
    case.at_most("max age acted upon s", max(ages), SETTINGS.stale_after_s)
    case.equal("downscales", downscales(decisions), 0)
    reasons = sorted({decision.reason.value for decision in decisions[len(ages) :]})
    case.equal("reasons", reasons, ["hold.metrics_stale"])


@pytest.mark.parametrize("lag_s", [0, 10, 20, 60, 299])
def test_p4_samples_that_come_late(case: Case, lag_s: int) -> None:
    with watched(BUSY_RPS, dialect=Dialect.SELDON) as over:
        over.server.open_lag_s = lag_s
        decisions = over.run(100.0)
    acted = [decision for decision in decisions if decision.reason not in UNSEEN]
    case.told("lag s", lag_s)
    case.at_most("max age acted upon s", lag_s if acted else 0.0, SETTINGS.stale_after_s)
    case.equal("ticks that act", len(acted), len(decisions) if lag_s <= SETTINGS.stale_after_s else 0)


def test_p4_answers_from_a_cache(case: Case) -> None:
    kept: dict[str, bytes] = {}

    def cached(asked: Mapping[str, str], answer: dict[str, Any]) -> tuple[int, bytes]:
        kind = f"{asked['query']} {answer['data']['resultType']}"
        return 200, kept.setdefault(kind, json.dumps(answer).encode())

    def acted(*, naive: bool) -> tuple[list[float], list[Decision]]:
        ages, kept_before = [], len(kept)
        assert not kept_before
        with watched(BUSY_RPS, naive=naive) as over:
            over.run(60.0)
            over.server.rewrite, since_s = cached, over.now_s
            for _ in range(24):
                age_s = over.now_s - since_s
                if over.ticks(1)[0].reason not in UNSEEN:
                    ages.append(age_s)
            kept.clear()
            return ages, over.decisions[-24:]

    ages, decisions = acted(naive=False)
    case.at_most("max age acted upon s", max(ages), SETTINGS.stale_after_s)
    case.equal("downscales", downscales(decisions), 0)
    plain, _ = acted(naive=True)
    case.baseline("max age acted upon s", max(plain))


def losing(seed: int) -> Callable[[int], bool]:
    """Loses 30 % of the scrapes, the same ones for the same seed."""
    return lambda second: random.Random(f"{seed}/{second}").random() >= 0.3


def wavy(seed: int) -> Rate:
    """A load that rises and falls threefold in ten minutes, with noise of a tenth."""
    source = random.Random(seed)
    noise = [source.gauss(1.0, 0.1) for _ in range(4000)]
    return lambda t_s: 16.0 * (1 + 0.5 * math.sin(t_s / 95.0)) * max(0.2, noise[int(t_s) % 4000])


@pytest.mark.parametrize("seed", range(2))
def test_p5_lost_scrapes(case: Case, seed: int) -> None:
    def run(keeps: Callable[[int], bool], *, naive: bool = False) -> Watched:
        with watched(wavy(seed), naive=naive, direct=True, settings=SLOW) as over:
            over.server.targets[0].answers = keeps
            over.run(LONG_S)
            return over

    case.seeds = str(seed)
    clean, lossy = run(lambda second: True), run(losing(seed))
    lost, extra = turns(lossy.decisions), per_hour(turns(lossy.decisions) - turns(clean.decisions))
    case.told("direction changes/h, clean", per_hour(turns(clean.decisions)))
    case.told("direction changes/h, 30 % lost", per_hour(lost))
    case.at_most("more direction changes/h", extra, 6.0)
    case.told("s short of capacity, clean", clean.short_s)
    case.told("s short of capacity, 30 % lost", lossy.short_s)
    plain = run(losing(seed), naive=True)
    case.baseline("direction changes/h", per_hour(turns(plain.decisions)))
    case.baseline("s short of capacity", plain.short_s)


LONG_S = 900.0


def per_hour(count: float, seconds: float = LONG_S) -> float:
    """So many an hour."""
    return count * 3600.0 / seconds


def squares(t_s: float) -> float:
    """Five minutes low, five minutes high, five minutes low."""
    return 25.0 if int(t_s // 300) % 2 else 5.0


@pytest.mark.parametrize("lag_s", [30, 60, 120])
def test_p6_a_lag_that_nobody_says(case: Case, lag_s: int) -> None:
    def run(lag_s: int) -> tuple[float, Watched]:
        with watched(squares, direct=True, settings=SLOW) as over:
            over.server.hidden_lag_s = lag_s
            over.run(LONG_S)
            return max(total_cores(d.configs) for d in over.decisions), over

    clean_cores, clean = run(0)
    cores, late = run(lag_s)
    case.told("lag s", lag_s)
    case.at_most("overshoot %", 100 * (cores / clean_cores - 1), 0.0)
    # The load turns twice in this time: so often may the cores, and no more often.
    case.at_most("direction changes", turns(late.decisions), max(turns(clean.decisions), 2))
    case.told("direction changes, no lag", turns(clean.decisions))
    # The one rise is seen so much later.
    case.at_most("more s short of capacity", late.short_s - clean.short_s, lag_s + 2 * SLOW.tick_s)


@pytest.mark.parametrize("lag_s", [30, 60, 120])
def test_p6_a_lag_that_ages_say(case: Case, lag_s: int) -> None:
    with watched(squares, direct=True, settings=SLOW) as over:
        over.run(340.0)
        high = over.made.workload.desired
        over.server.open_lag_s = lag_s
        decisions = over.run(300.0)
        case.equal("what runs is kept", over.made.workload.desired == high, True)
    case.told("lag s", lag_s)
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

    def errors(*, naive: bool = False) -> tuple[float, list[Decision]]:
        with watched(BUSY_RPS, naive=naive, direct=True, dialect=Dialect(dialect or "local")) as over:
            over.server.targets = [replace(target, counters={}) for target in targets]
            over.run(150.0)
            # The means over a window that holds the change are of both; what follows it is not.
            settled = [d for n, d in enumerate(over.decisions) if not 12 <= n < 18]
            seen = [d.observed_rate_rps for d in settled if d.observed_rate_rps is not None]
            return max(abs(rate / BUSY_RPS - 1) for rate in seen), settled

    error, decisions = errors()
    case.told("series", name)
    case.at_most("wrong λ error %", 100 * error, 2.0)
    case.equal("ticks that see", sum(d.reason not in UNSEEN for d in decisions), len(decisions))
    case.baseline("wrong λ error %", 100 * errors(naive=True)[0])


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
    case.at_most("s blind", blind * TICK_S, 300.0)
    seen = [d.observed_rate_rps for d in decisions[12:] if d.observed_rate_rps is not None]
    case.at_most("wrong λ error %", 100 * max(abs(rate / BUSY_RPS - 1) for rate in seen), 2.0)


def test_p7_an_answer_of_several_series_is_refused(case: Case) -> None:
    def doubled(asked: Mapping[str, str], answer: dict[str, Any]) -> tuple[int, bytes]:
        result = answer["data"]["result"]
        return 200, json.dumps({**answer, "data": {**answer["data"], "result": result + result}}).encode()

    decisions = during(doubled)
    case.equal("decisions by the first one", sum(d.observed_rate_rps is not None for d in decisions), 0)
    case.equal("reasons", sorted({d.reason.value for d in decisions}), ["hold.metrics_invalid"])
    plain = during(doubled, naive=True)
    case.baseline("decisions by the first one", sum(d.observed_rate_rps is not None for d in plain))


def _warned(asked: Mapping[str, str], answer: dict[str, Any]) -> tuple[int, bytes]:
    return 200, json.dumps({**_low(answer), "warnings": ["fetched from 1 of 2 stores only"]}).encode()


def _partial(asked: Mapping[str, str], answer: dict[str, Any]) -> tuple[int, bytes]:
    text = json.dumps(_low(answer)).encode()
    return 200, text[: len(text) * 2 // 3]


def _failed(asked: Mapping[str, str], answer: dict[str, Any]) -> tuple[int, bytes]:
    failed = {**_low(answer), "status": "error", "errorType": "execution", "error": "query timed out"}
    return 200, json.dumps(failed).encode()


def _unprocessable(asked: Mapping[str, str], answer: dict[str, Any]) -> tuple[int, bytes]:
    return 422, json.dumps({**_low(answer), "status": "error", "error": "too many samples"}).encode()


def _low(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer with a tenth of every value: who acts upon it takes capacity away."""
    for series in answer["data"]["result"]:
        for point in [series["value"]] if "value" in series else series["values"]:
            point[1] = str(float(point[1]) / 10)
    return answer


@pytest.mark.parametrize("bad", [_warned, _partial, _failed, _unprocessable], ids=lambda bad: bad.__name__)
def test_p8_bad_answers(case: Case, bad: Rewrite) -> None:
    decisions = during(bad)
    case.told("answer", getattr(bad, "__name__", "").strip("_"))
    case.equal("bad samples acted upon", sum(d.observed_rate_rps is not None for d in decisions), 0)
    case.equal("reasons", sorted({d.reason.value for d in decisions}), ["hold.metrics_invalid"])
    case.equal("downscales", downscales(decisions), 0)
    plain = during(bad, naive=True)
    case.baseline("downscales", downscales(plain))


def test_p9_huge_answer(case: Case) -> None:
    one = b'{"metric":{"pod":"a-pod-of-some-deployment-%07d"},"value":[1800000000.0,"1"]},'
    # A million series, made once and sent to every query.
    body = b'{"status":"success","data":{"resultType":"vector","result":['
    body += b"".join(one % number for number in range(1_000_000))[:-1] + b"]}}"
    with watched(BUSY_RPS) as over:
        over.run(30.0)
        over.server.rewrite = lambda asked, answer: (200, body)
        tracemalloc.start()
        started_s = perf_counter()
        decision = over.ticks(1)[0]
        took_s = perf_counter() - started_s
        peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    case.told("answer MB", len(body) / 1e6)
    case.equal("reason", decision.reason.value, "hold.metrics_invalid")
    # Each answer is cut at the cap; a growing buffer is held twice while it is copied.
    case.at_most("peak memory MB", peak_mb, 4 * MAX_BYTES / 1e6)
    case.told("tick s", took_s)


def test_p9_slow_drip(case: Case) -> None:
    timeout_s = 0.1
    with watched(BUSY_RPS, timeout_s=timeout_s) as over:
        over.run(30.0)
        over.server.drips = True
        before = over.server.requests
        started_s = perf_counter()
        decision = over.ticks(1)[0]
        took_s = perf_counter() - started_s
        asked = over.server.requests - before
    case.equal("reason", decision.reason.value, "hold.metrics_missing")
    # The whole answer would take seconds; after the first without one nobody else is asked.
    case.equal("queries sent", asked, 1)
    case.at_most("tick s", took_s, timeout_s + 1.0)


@pytest.mark.parametrize("rate_rps", [0.0, 1e-9, 5e-324, 1e-3], ids=lambda rate: f"{rate:g}")
def test_p11_hardly_any_load(case: Case, rate_rps: float) -> None:
    with watched(rate_rps, direct=True) as over:
        decisions = over.run(100.0)
        least = over.made.workload.desired
    case.told("λ rps", rate_rps)
    case.equal("exceptions", sum(d.reason is ReasonCode.SOLVER_FAILED for d in decisions), 0)
    case.equal("batch sizes", sorted({config.batch_size for config in least}), [1])
    case.equal("replicas", sorted({config.replicas for config in least}), [1])
    case.equal("ticks that see", sum(d.reason not in UNSEEN for d in decisions), len(decisions))


SHAPE_S = 300.0
SHAPES: dict[str, tuple[Rate, float]] = {
    # The load, and from when on it is high.
    "spike ×10": (lambda t_s: 50.0 if 100 <= t_s < 160 else 5.0, 100.0),
    "step": (lambda t_s: 25.0 if t_s >= 100 else 5.0, 100.0),
    "ramp": (lambda t_s: 5.0 + max(0.0, t_s - 100.0) * 0.1, 100.0),
    "square wave": (lambda t_s: 40.0 if t_s >= 100 and int(t_s // 15) % 2 else 5.0, 100.0),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_p12_shapes(case: Case, shape: str) -> None:
    rate, since_s = SHAPES[shape]
    with watched(rate, direct=True) as over:
        over.run(since_s)
        before_s = over.short_s
        over.run(SHAPE_S)
    grew = [d for d in over.decisions if d.action is Action.APPLY and _at_s(over, d) >= since_s]
    case.told("load", shape)
    case.at_most("s short of capacity", over.short_s - before_s, 3 * TICK_S)
    case.told("s until the first change", _at_s(over, grew[0]) - since_s if grew else math.inf)
    case.at_most("changes/h", per_hour(len(grew), SHAPE_S), 240.0)
    case.at_most("direction changes/h", per_hour(turns(grew), SHAPE_S), per_hour(1, SHAPE_S))


def _at_s(over: Watched, decision: Decision) -> float:
    """The virtual second of a decision."""
    first = over.decisions[0]
    return (datetime.fromisoformat(decision.at) - datetime.fromisoformat(first.at)).total_seconds()
