"""Open-loop load: pages are sent when they are due, whatever has become of the earlier ones."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from pipelines.ocr.client import page_bodies

# The shape as (share of the duration, share of the way from the lowest to the highest rate): it rests, rises
# to the peak, stays, falls and rests again.
SHAPE = ((0.0, 0.0), (0.2, 0.0), (0.45, 1.0), (0.62, 1.0), (0.85, 0.0), (1.0, 0.0))


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as its sender saw it. `outcome` is answered, dropped or failed.

    It was sent `lag_s` after it was due at `at_s`: a sender that is slow itself measures nothing else.
    """

    at_s: float
    page: int
    outcome: str
    status: int
    latency_s: float
    answer: dict[str, Any] | None
    detail: str = ""
    lag_s: float = 0.0


def rate_at(at_ratio: float, low_rps: float, high_rps: float) -> float:
    """The rate at that share of the duration, on straight lines between the points of the shape."""
    for (start, from_ratio), (end, to_ratio) in itertools.pairwise(SHAPE):
        if at_ratio <= end:
            way = (at_ratio - start) / (end - start)
            return low_rps + (high_rps - low_rps) * (from_ratio + (to_ratio - from_ratio) * way)
    return low_rps


def arrivals(seed: int, duration_s: float, low_rps: float, high_rps: float) -> list[float]:
    """Seconds at which pages are sent: a Poisson process whose rate follows the shape (by thinning)."""
    rng = random.Random(seed)
    times: list[float] = []
    at_s = rng.expovariate(high_rps)
    while at_s < duration_s:
        if rng.random() < rate_at(at_s / duration_s, low_rps, high_rps) / high_rps:
            times.append(at_s)
        at_s += rng.expovariate(high_rps)
    return times


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer as it came: status 0 and the error's name where none did. Read once all are there."""

    status: int
    content_type: str
    body: bytes
    latency_s: float
    lag_s: float

    def read(self, at_s: float, page: int) -> Sent:
        """The outcome of the request."""
        if self.status == HTTPStatus.OK:
            answer = orjson.loads(self.body)
            return Sent(at_s, page, "answered", self.status, self.latency_s, answer, lag_s=self.lag_s)
        is_problem = self.content_type.startswith("application/problem+json")
        code = orjson.loads(self.body).get("code", "") if is_problem else ""
        outcome = "dropped" if code == "dropped" else "failed"
        words = self.body.decode(errors="replace")[:300]
        return Sent(at_s, page, outcome, self.status, self.latency_s, None, words, self.lag_s)


async def send(session: aiohttp.ClientSession, url: str, body: bytes, due_s: float) -> Answer:
    """The answer to a request that was due at `due_s`."""
    started = time.perf_counter()
    try:
        async with session.post(url, data=body) as response:
            response_parts = response.status, response.headers.get("content-type", ""), await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        response_parts = 0, "", type(error).__name__.encode()
    return Answer(*response_parts, time.perf_counter() - started, started - due_s)


async def play(url: str, bodies: Sequence[bytes], times: Sequence[float], timeout_s: float) -> list[Sent]:
    """Every request in the order it was sent; returns when the last is answered or timed out."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, use_dns_cache=False),
        timeout=aiohttp.ClientTimeout(total=timeout_s),
        headers={"content-type": "application/json"},
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        started = time.perf_counter()
        tasks: list[asyncio.Task[Answer]] = []
        for number, at_s in enumerate(times):
            await asyncio.sleep(max(0.0, started + at_s - time.perf_counter()))
            body = bodies[number % len(bodies)]
            tasks.append(asyncio.create_task(send(session, url, body, started + at_s)))
        answers = await asyncio.gather(*tasks)
    return [
        answer.read(at_s, number % len(bodies))
        for number, (at_s, answer) in enumerate(zip(times, answers, strict=True))
    ]


def main() -> None:
    """Play the shape against a router and write one JSON line a request."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--duration", type=float, required=True)
    parser.add_argument("--low", type=float, required=True)
    parser.add_argument("--high", type=float, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pages", type=int, default=24)
    parser.add_argument("--timeout", type=float, default=30.0)
    options = parser.parse_args()
    times = arrivals(options.seed, options.duration, options.low, options.high)
    sent = asyncio.run(play(options.url, page_bodies(options.seed, options.pages), times, options.timeout))
    with options.out.open("w") as file:
        file.writelines(json.dumps(asdict(record)) + "\n" for record in sent)


if __name__ == "__main__":
    main()
