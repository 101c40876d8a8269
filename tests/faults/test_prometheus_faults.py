"""P: what Prometheus can do to a reading, over the real client and a fake of it on a virtual clock."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import pytest

from ipa.adapters.prometheus.server import MAX_BYTES
from ipa.model.decision import Decision, ReasonCode
from ipa.targets.seldon.metrics import EXECUTOR
from tests.faults.prometheus import Rewrite
from tests.faults.table import Case, variants
from tests.faults.watched import (
    BUSY_RPS,
    SETTINGS,
    UNSEEN,
    Watched,
    absent,
    downscales,
    during,
    watched,
    writes,
)
from tests.faults.world import QUIET


def outage(seconds: float) -> tuple[list[Decision], list[Decision], Watched]:
    """The decisions while Prometheus is down, those after it, and the loop."""
    with watched(BUSY_RPS) as over:
        over.run(100.0)
        since_s = over.now_s
        over.server.is_down = lambda t_s: since_s <= t_s < since_s + seconds
        return over.run(seconds), over.run(60.0), over


@pytest.mark.parametrize(
    "seconds", variants([5.0, 600.0], [60.0, 3600.0]), ids=lambda seconds: f"{seconds:g} s"
)
def test_p1_down(case: Case, seconds: float) -> None:
    down, after, over = outage(seconds)
    case.note("down s", seconds)
    case.equal("downscales", downscales([*down, *after]), 0)
    case.equal("writes while down", writes(down), 0)
    case.equal("reasons while down", sorted({d.reason.value for d in down}), ["hold.metrics_missing"])
    case.at_most("ticks until metrics are used again", _first(after, lambda d: d.reason not in UNSEEN), 2)
    case.equal("s short of capacity", over.short_s, 0.0)


@pytest.mark.parametrize("status", [500, 503])
def test_p1_server_errors(case: Case, status: int) -> None:
    def busy(parameters: Mapping[str, str], answer: dict[str, Any]) -> tuple[int, bytes]:
        return status, b'{"status":"error","errorType":"unavailable","error":"too busy"}'

    decisions = during(busy)
    case.note("answer", f"HTTP {status}")
    case.equal("downscales", downscales(decisions), 0)
    case.equal("reasons", sorted({d.reason.value for d in decisions}), ["hold.metrics_missing"])


def _first(decisions: list[Decision], holds: Callable[[Decision], bool]) -> int:
    """The number of ticks until one holds; one more than there are where none does."""
    return next((n for n, decision in enumerate(decisions, 1) if holds(decision)), len(decisions) + 1)


@pytest.mark.parametrize("kind", ["", "rate(ipa_router", "time()", "sum (rate(ipa_router_arrivals_total"])
def test_p2_no_series(case: Case, kind: str) -> None:
    decisions = during(absent(kind))
    case.note("absent", kind or "everything")
    case.equal("decisions that treat absent as 0", sum(d.observed_rate_rps == 0.0 for d in decisions), 0)
    case.equal("downscales", downscales(decisions), 0)
    # The entry queue's arrivals stand in for the router's.
    expected = QUIET if "ipa_router" in kind else {ReasonCode.METRICS_MISSING}
    case.equal("other reasons", sorted({d.reason.value for d in decisions if d.reason not in expected}), [])


def numbers(text: str) -> Rewrite:
    """Every value of a rate is that."""

    def rewrite(parameters: Mapping[str, str], answer: dict[str, Any]) -> tuple[int, bytes] | None:
        if parameters["query"].startswith("time()") or "_bucket{" in parameters["query"]:
            return None
        result = answer["data"]["result"]
        for series in result:
            if "value" in series:
                series["value"][1] = text
            for point in series.get("values", ()):
                point[1] = text
        return 200, json.dumps(answer).encode()

    return rewrite


@pytest.mark.parametrize("text", variants(["NaN", "+Inf", "-3", "seven"], ["-Inf", "1e999", ""]))
def test_p3_no_number(case: Case, text: str) -> None:
    decisions = during(numbers(text))
    case.note("value", repr(text))
    case.equal("reasons", sorted({d.reason.value for d in decisions}), ["hold.metrics_invalid"])
    case.equal("poisoned decisions", sum(map(_is_poisoned, decisions)), 0)


def _is_poisoned(decision: Decision) -> bool:
    """True if a number that is none came further than the reading."""
    figures = [decision.observed_rate_rps, decision.forecast and decision.forecast.upper_rps]
    return writes([decision]) > 0 or any(value is not None and not 0 <= value < 1e9 for value in figures)


def test_p3_counter_reset(case: Case) -> None:
    with watched(BUSY_RPS) as over:
        over.server.targets[0].restarts = frozenset({72, 133, 134})
        over.run(60.0)
        decisions = over.run(120.0)
    rates_rps = [d.observed_rate_rps for d in decisions if d.observed_rate_rps is not None]
    error = max(abs(rate - BUSY_RPS) / BUSY_RPS for rate in rates_rps)
    # What arrived between the last scrape and the restart is lost: a second of five, twice in one window.
    case.at_most("largest error of λ %", 100 * error, 40.0)
    case.equal("downscales", downscales(decisions), 0)
    case.equal("negative rates", sum((d.observed_rate_rps or 0) < 0 for d in decisions), 0)


def test_p4_scrapes_that_stopped(case: Case) -> None:
    ages: list[float] = []
    # Seldon's dialect has a rate over 30 s: it is there long after the last scrape, so its age must tell.
    with watched(BUSY_RPS, dialect=EXECUTOR) as over:
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


@pytest.mark.parametrize("lag_s", variants([0, 10, 60], [20, 299]))
def test_p4_samples_that_come_late(case: Case, lag_s: int) -> None:
    with watched(BUSY_RPS, dialect=EXECUTOR) as over:
        over.server.open_lag_s = lag_s
        decisions = over.run(100.0)
    acted = [decision for decision in decisions if decision.reason not in UNSEEN]
    case.note("lag s", lag_s)
    case.at_most("max age acted upon s", lag_s if acted else 0.0, SETTINGS.stale_after_s)
    case.equal("ticks with a decision", len(acted), len(decisions) if lag_s <= SETTINGS.stale_after_s else 0)


def test_p4_answers_from_a_cache(case: Case) -> None:
    answers: dict[str, bytes] = {}

    def cached(parameters: Mapping[str, str], answer: dict[str, Any]) -> tuple[int, bytes]:
        kind = f"{parameters['query']} {answer['data']['resultType']}"
        return 200, answers.setdefault(kind, json.dumps(answer).encode())

    ages: list[float] = []
    with watched(BUSY_RPS) as over:
        over.run(60.0)
        over.server.rewrite, since_s = cached, over.now_s
        for _ in range(24):
            age_s = over.now_s - since_s
            if over.ticks(1)[0].reason not in UNSEEN:
                ages.append(age_s)
    decisions = over.decisions[-24:]
    case.at_most("max age acted upon s", max(ages), SETTINGS.stale_after_s)
    case.equal("downscales", downscales(decisions), 0)


def _warned(parameters: Mapping[str, str], answer: dict[str, Any]) -> tuple[int, bytes]:
    return 200, json.dumps({**_low(answer), "warnings": ["fetched from 1 of 2 stores only"]}).encode()


def _partial(parameters: Mapping[str, str], answer: dict[str, Any]) -> tuple[int, bytes]:
    text = json.dumps(_low(answer)).encode()
    return 200, text[: len(text) * 2 // 3]


def _failed(parameters: Mapping[str, str], answer: dict[str, Any]) -> tuple[int, bytes]:
    failed = {**_low(answer), "status": "error", "errorType": "execution", "error": "query timed out"}
    return 200, json.dumps(failed).encode()


def _unprocessable(parameters: Mapping[str, str], answer: dict[str, Any]) -> tuple[int, bytes]:
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
    case.note("answer", getattr(bad, "__name__", "").strip("_"))
    case.equal("bad samples acted upon", sum(d.observed_rate_rps is not None for d in decisions), 0)
    case.equal("reasons", sorted({d.reason.value for d in decisions}), ["hold.metrics_invalid"])
    case.equal("downscales", downscales(decisions), 0)


def test_p9_huge_answer(case: Case) -> None:
    one = b'{"metric":{"pod":"a-pod-of-some-deployment-%07d"},"value":[1800000000.0,"1"]},'
    # A million series, made once and sent to every query.
    body = b'{"status":"success","data":{"resultType":"vector","result":['
    body += b"".join(one % number for number in range(1_000_000))[:-1] + b"]}}"
    with watched(BUSY_RPS) as over:
        over.run(30.0)
        over.server.rewrite = lambda parameters, answer: (200, body)
        tracemalloc.start()
        started_s = perf_counter()
        decision = over.ticks(1)[0]
        took_s = perf_counter() - started_s
        peak_mb = tracemalloc.get_traced_memory()[1] / 1e6
        tracemalloc.stop()
    case.note("answer MB", len(body) / 1e6)
    case.equal("reason", decision.reason.value, "hold.metrics_invalid")
    # Each answer is cut at the cap; a growing buffer is held twice while it is copied.
    case.at_most("peak memory MB", peak_mb, 4 * MAX_BYTES / 1e6)
    case.note("tick s", took_s)


@pytest.mark.live
def test_p9_slow_drip(case: Case) -> None:
    timeout_s = 0.1
    with watched(BUSY_RPS, timeout_s=timeout_s) as over:
        over.run(30.0)
        over.server.drips = True
        before = over.server.requests
        started_s = perf_counter()
        decision = over.ticks(1)[0]
        took_s = perf_counter() - started_s
        queries = over.server.requests - before
    case.equal("reason", decision.reason.value, "hold.metrics_missing")
    # The whole answer would take seconds; after the first without one nobody else is asked.
    case.equal("queries sent", queries, 1)
    case.at_most("tick s", took_s, timeout_s + 1.0)


@pytest.mark.parametrize("rate_rps", [0.0, 1e-9, 5e-324, 1e-3], ids=lambda rate: f"{rate:g}")
def test_p11_hardly_any_load(case: Case, rate_rps: float) -> None:
    with watched(rate_rps, direct=True) as over:
        decisions = over.run(100.0)
        least = over.made.workload.desired
    case.note("λ rps", rate_rps)
    case.equal("exceptions", sum(d.reason is ReasonCode.SOLVER_FAILED for d in decisions), 0)
    case.equal("batch sizes", sorted({config.batch_size for config in least}), [1])
    case.equal("replicas", sorted({config.replicas for config in least}), [1])
    case.equal("ticks with metrics", sum(d.reason not in UNSEEN for d in decisions), len(decisions))
