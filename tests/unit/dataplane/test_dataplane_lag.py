"""The lag of an event loop, which the router takes from the time of a request."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from ipa.dataplane.http import BUDGET_HEADER
from ipa.dataplane.router import RouterServer
from ipa.serving.expectation import AIM_HEADER, LAG_EVERY_S, LAGS_REMEMBERED, LoopLag
from tests.fakes import virtual_loop
from tests.fakes.chain_loop import BODY, call

run = virtual_loop.run


async def blocked(seconds: float) -> None:
    """As code that runs for so long without a wait, and a turn of the loop after it."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, virtual_loop.VirtualLoop)
    loop.now_s += seconds
    for _ in range(2):
        await asyncio.sleep(0)


async def test_a_loop_that_was_blocked_is_late_until_it_answers_in_time_again() -> None:
    lag = LoopLag()
    await asyncio.sleep(0.1)
    assert lag.measure() == pytest.approx(0.0)
    await blocked(0.25)
    assert lag.measure() == pytest.approx(0.25 - LAG_EVERY_S, abs=LAG_EVERY_S)
    for _ in range(LAGS_REMEMBERED + 1):
        await asyncio.sleep(LAG_EVERY_S)
        later_s = lag.measure()
    assert later_s == pytest.approx(0.0)
    lag.stop()


async def test_a_loop_that_nobody_asks_about_is_left_alone_and_its_lag_forgotten() -> None:
    lag = LoopLag()
    lag.measure()
    await blocked(0.25)
    await asyncio.sleep(2 * LAG_EVERY_S)
    assert lag._timer is None
    assert lag.measure() == 0.0
    lag.stop()


async def test_what_is_left_of_the_sla_is_told_where_requests_may_be_later() -> None:
    sent_headers: list[dict[str, str]] = []

    async def post(url: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        sent_headers.append(headers)
        return 200, orjson.dumps({"outputs": []}), {}

    for drop_after_s, sla_s in ((1.0, 0.4), (0.4, 0.4), (0.4, 1.0), (None, 0.4)):
        router = RouterServer("p", [("s", "http://s")], drop_after_s=drop_after_s, sla_s=sla_s, post=post)  # type: ignore[arg-type]
        await call(router.application(), "POST", "/v2/models/p/infer", BODY)
    assert [float(it[BUDGET_HEADER]) for it in sent_headers] == [1000.0, 400.0, 400.0, 400.0]
    assert [it.get(AIM_HEADER) for it in sent_headers] == ["400.000", None, None, None]


async def test_the_lag_is_taken_from_the_budget_of_a_request() -> None:
    budgets: list[float] = []

    async def post(url: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes, dict[str, str]]:
        budgets.append(float(headers[BUDGET_HEADER]))
        return 200, orjson.dumps({"outputs": []}), {}

    router = RouterServer("p", [("s", "http://s")], drop_after_s=0.4, post=post)  # type: ignore[arg-type]
    await asyncio.sleep(0.1)
    for stop_s in (0.0, 0.25):
        await blocked(stop_s)
        await call(router.application(), "POST", "/v2/models/p/infer", BODY)
    router._lag.stop()
    assert budgets[0] == pytest.approx(400.0)
    assert budgets[1] == pytest.approx(150.0, abs=1000 * LAG_EVERY_S)
