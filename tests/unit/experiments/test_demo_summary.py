"""The figures of the demo, from requests and decisions that are known."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from experiments.demo import table
from experiments.demo.load import Sent, arrivals, play
from experiments.demo.report import render
from experiments.demo.summary import RunRecord, changes, compare, summarise


def config(variant: str, batch: int = 1, cores: float = 1.0, replicas: int = 1) -> dict[str, object]:
    return {"stage": "s", "variant": variant, "batch_size": batch, "cores": cores, "replicas": replicas}


def decision(
    action: str, reason: str, before: dict[str, object], after: dict[str, object]
) -> dict[str, object]:
    return {
        "action": action,
        "reason": reason,
        "previous": [before],
        "configs": [after],
        "at": "2026-01-01T00:00:00+00:00",
        "observed_rate_rps": 2.0,
        "forecast": None,
        "detail": "<b>words</b>",
    }


def request(outcome: str, latency_s: float, at_s: float = 0.0) -> dict[str, object]:
    return {"outcome": outcome, "latency_s": latency_s, "at_s": at_s}


DECISIONS = [
    decision("apply", "apply.switch_variant", config("a"), config("b", batch=4)),
    decision("apply", "apply.scale_up", config("b", batch=4), config("b", batch=4, replicas=3)),
    decision("hold", "hold.no_change", config("b"), config("a")),
    decision(
        "apply",
        "apply.scale_down",
        config("b", batch=4, replicas=3),
        config("b", batch=4, cores=0.5, replicas=3),
    ),
]
RUN = RunRecord(
    name="adaptive",
    duration_s=10.0,
    requests=[
        request("answered", 0.1),
        request("answered", 0.2),
        request("answered", 3.0),
        request("dropped", 2.0, 7.0),
    ],
    decisions=DECISIONS,
    samples=[
        {
            "t_s": 1.0,
            "rate_rps": 1.0,
            "forecast_rps": 1.0,
            "forecast_upper_rps": 2.0,
            "latency_s": None,
            "cost_cores": 1.0,
            "pas": 0.5,
            "applied": True,
        }
    ],
    core_seconds=15.0,
    replica_restarts=0,
)


def test_arrivals_are_those_of_the_seed_and_follow_the_shape() -> None:
    times = arrivals(1, 1000.0, 1.0, 10.0)
    assert times == arrivals(1, 1000.0, 1.0, 10.0) != arrivals(2, 1000.0, 1.0, 10.0)
    assert times == sorted(times)
    # Poisson counts: the peak fifth has mean 10 · 170, the first fifth 1 · 200; six deviations either way.
    assert sum(450 <= t < 620 for t in times) == pytest.approx(1700, abs=250)
    assert sum(t < 200 for t in times) == pytest.approx(200, abs=85)


def test_changes_are_counted_by_stage_and_only_where_applied() -> None:
    assert changes(DECISIONS) == {"variant_switches": 1, "replica_or_core_changes": 2, "batch_changes": 1}


def test_a_request_that_was_not_answered_counts_against_the_sla() -> None:
    figures = summarise(RUN, 1.0, [0.5, 0.7, 0.9])
    assert (figures["sent"], figures["answered"], figures["dropped"], figures["failed"]) == (4, 3, 1, 0)
    assert figures["within_sla_ratio"] == 0.5
    assert figures["accuracy"] == pytest.approx(0.7)
    assert figures["cores_mean"] == 1.5
    assert figures["decisions_by_reason"]["hold.no_change"] == 1


def test_the_comparison_and_the_report_say_by_how_much() -> None:
    good = summarise(RUN, 1.0, [0.9])
    poor = summarise(RUN, 0.15, [0.4])
    runs = {"adaptive": good, **dict.fromkeys(list(table.NAMES)[1:], poor)}
    comparison = compare(runs)
    assert comparison["accuracy_above_smallest"] == pytest.approx(0.5)
    assert comparison["adaptive_beats_largest_on_sla"] is True
    summary = {
        "made_at": "2026-01-01",
        "sla_s": 1.0,
        "rate_rps": {"low": 1.0, "high": 5.0},
        "machine": {"cores": 2, "processor": "p"},
        "runs": runs,
        "comparison": comparison,
    }
    page = render(summary, dict.fromkeys(runs, RUN))
    assert "+0.500" in page
    assert "&lt;b&gt;words&lt;/b&gt;" in page
    assert "<b>words" not in page
    assert page == render(summary, dict.fromkeys(runs, RUN))


def test_every_request_is_sent_and_what_became_of_it_is_read() -> None:
    """Against a real server: answered, dropped, failed, and one that does not answer in time."""

    over: list[asyncio.Event] = []

    async def handle(request: web.Request) -> web.Response:
        kind = (await request.json())["kind"]
        if kind == "late":
            await over[0].wait()
        if kind == "dropped":
            problem = {"code": "dropped", "cause": "overload"}
            return web.json_response(problem, status=503, content_type="application/problem+json")
        return web.json_response({"kind": kind}, status=500 if kind == "failed" else 200)

    async def scenario() -> list[Sent]:
        over.append(asyncio.Event())
        app = web.Application()
        app.router.add_post("/infer", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
        bodies = [f'{{"kind": "{kind}"}}'.encode() for kind in ("answered", "dropped", "failed", "late")]
        try:
            return await play(f"http://127.0.0.1:{port}/infer", bodies, [0.0, 0.01, 0.02, 0.03, 0.04], 0.2)
        finally:
            over[0].set()
            await runner.cleanup()

    sent = asyncio.run(scenario())
    assert [(it.page, it.outcome, it.status) for it in sent] == [
        (0, "answered", 200),
        (1, "dropped", 503),
        (2, "failed", 500),
        (3, "failed", 0),
        (0, "answered", 200),
    ]
    assert sent[0].answer == {"kind": "answered"} and "overload" in sent[1].detail
    assert sent[3].detail == "TimeoutError" and sent[3].latency_s >= 0.2
    assert all(it.lag_s >= 0 for it in sent)
