"""The clients: plans at a steady rate, a flood, and lists. Times are theirs."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import numpy as np
import psutil

from experiments.bench_api.service import PLANNED

CONNECTIONS = 32
FLOOD_CONNECTIONS = 200
# The loops' ticks come in waves: lists at once would see one moment of them.
LIST_PAUSE_S = 0.05
# Multiples of it, but for whole ones, fill an interval evenly and never come twice.
GOLDEN = 0.6180339887498949


@dataclass
class PhaseResult:
    """The result of a phase: seconds of each answer from when it was due, and their statuses.

    `cpu_s` is that of the service and the processes it started, `load` the load average at the end;
    `sent_late_s` is how late a question was sent at the most, which is the client's own doing.
    """

    name: str
    began_s: float = 0.0
    ended_s: float = 0.0
    cpu_s: float = 0.0
    load: float = 0.0
    sent_late_s: float = 0.0
    took_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)

    def quantile_ms(self, q: float) -> float:
        """That quantile of all answers."""
        return float(np.quantile(self.took_s, q)) * 1000

    @property
    def rate_rps(self) -> float:
        """Answers a second."""
        return len(self.took_s) / (self.ended_s - self.began_s)

    @property
    def cpu_ms(self) -> float:
        """The service's CPU time of an answer, with what else it did meanwhile."""
        return 1000 * self.cpu_s / len(self.took_s)


def cpu_of(service: psutil.Process) -> float:
    """Seconds of CPU time of the service and the processes that it started."""
    times = [each.cpu_times() for each in (service, *service.children())]
    return sum(each.user + each.system for each in times)


def memory_of(service: psutil.Process) -> float:
    """Megabytes of the service, and what processes that it started have for themselves."""
    others = sum(each.memory_full_info().uss for each in service.children())
    return (service.memory_info().rss + others) / 1e6


Ask = Callable[[aiohttp.ClientSession, PhaseResult], Awaitable[None]]


def phase(name: str, url: str, service: psutil.Process, connections: int, ask: Ask) -> PhaseResult:
    """The result of that many clients' requests."""

    async def run() -> PhaseResult:
        connector = aiohttp.TCPConnector(limit=connections)
        async with aiohttp.ClientSession(url, connector=connector) as session:
            # A pass over what phases before left would hold the client up, and all would be sent at once.
            gc.collect()
            before_s = cpu_of(service)
            tally = PhaseResult(name, began_s=time.monotonic())
            await ask(session, tally)
            tally.ended_s = time.monotonic()
        tally.cpu_s = cpu_of(service) - before_s
        tally.load = os.getloadavg()[0]
        return tally

    return asyncio.run(run())


def steady(rate_rps: float, seconds: float) -> Ask:
    """Plans at that rate, each of its own rate; one that is late does not keep the next from being sent."""

    async def ask(session: aiohttp.ClientSession, tally: PhaseResult) -> None:
        under_way = []
        for number in range(round(rate_rps * seconds)):
            due_s = tally.began_s + number / rate_rps
            await asyncio.sleep(max(due_s - time.monotonic(), 0.0))
            tally.sent_late_s = max(tally.sent_late_s, time.monotonic() - due_s)
            under_way.append(asyncio.ensure_future(_plan(session, tally, number, due_s)))
        await asyncio.gather(*under_way)

    return ask


def flood(seconds: float) -> Ask:
    """Plans from many connections at once, each asking again as soon as it is answered."""

    async def ask(session: aiohttp.ClientSession, tally: PhaseResult) -> None:
        async def one(client: int) -> None:
            number = client
            while time.monotonic() - tally.began_s < seconds:
                await _plan(session, tally, number, time.monotonic())
                number += FLOOD_CONNECTIONS

        await asyncio.gather(*(one(client) for client in range(FLOOD_CONNECTIONS)))

    return ask


def lists(times: int, many: int) -> Ask:
    """The list of all pipelines, so many times, over two of the intervals in which loops tick."""

    async def ask(session: aiohttp.ClientSession, tally: PhaseResult) -> None:
        for _ in range(times):
            sent_s = time.monotonic()
            async with session.get("/v1/pipelines") as answer:
                body = await answer.read()
            tally.took_s.append(time.monotonic() - sent_s)
            tally.statuses[answer.status] += 1
            await asyncio.sleep(LIST_PAUSE_S)
        listed: dict[str, Any] = json.loads(body)
        if len(listed["pipelines"]) != many:
            raise RuntimeError(f"the list has {len(listed['pipelines'])} pipelines, not {many}")

    return ask


def idle(seconds: float) -> Ask:
    """Nothing."""

    async def ask(session: aiohttp.ClientSession, tally: PhaseResult) -> None:
        await asyncio.sleep(seconds)

    return ask


async def _plan(session: aiohttp.ClientSession, tally: PhaseResult, number: int, due_s: float) -> None:
    body = {"rate_rps": 5.0 + 40.0 * (number * GOLDEN % 1.0)}
    async with session.post(f"/v1/pipelines/{PLANNED}/plans", json=body) as answer:
        await answer.read()
    tally.took_s.append(time.monotonic() - due_s)
    tally.statuses[answer.status] += 1
