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
from pathlib import Path
from typing import Any

import httpx

from pipelines.ocr.client import page_bodies

# The shape as (share of the duration, share of the way from the lowest to the highest rate): it rests, rises
# to the peak, stays, falls and rests again.
SHAPE = ((0.0, 0.0), (0.2, 0.0), (0.45, 1.0), (0.62, 1.0), (0.85, 0.0), (1.0, 0.0))


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as its sender saw it. `outcome` is answered, dropped or failed."""

    at_s: float
    page: int
    outcome: str
    status: int
    latency_s: float
    answer: dict[str, Any] | None
    detail: str = ""


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


async def send(client: httpx.AsyncClient, url: str, body: bytes, at_s: float, page: int) -> Sent:
    """What became of one page."""
    started = time.perf_counter()
    try:
        answer = await client.post(url, content=body, headers={"content-type": "application/json"})
    except httpx.HTTPError as error:
        return Sent(at_s, page, "failed", 0, time.perf_counter() - started, None, type(error).__name__)
    latency_s = time.perf_counter() - started
    if answer.status_code == httpx.codes.OK:
        return Sent(at_s, page, "answered", answer.status_code, latency_s, answer.json())
    is_problem = answer.headers.get("content-type", "").startswith("application/problem+json")
    code = answer.json().get("code", "") if is_problem else ""
    outcome = "dropped" if code == "dropped" else "failed"
    return Sent(at_s, page, outcome, answer.status_code, latency_s, None, answer.text[:300])


async def play(url: str, bodies: Sequence[bytes], times: Sequence[float], timeout_s: float) -> list[Sent]:
    """Every request in the order it was sent; returns when the last is answered or timed out."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    async with httpx.AsyncClient(timeout=timeout_s, limits=limits) as client:
        started = time.perf_counter()
        tasks: list[asyncio.Task[Sent]] = []
        for number, at_s in enumerate(times):
            await asyncio.sleep(max(0.0, started + at_s - time.perf_counter()))
            page = number % len(bodies)
            tasks.append(asyncio.create_task(send(client, url, bodies[page], at_s, page)))
        return list(await asyncio.gather(*tasks))


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
