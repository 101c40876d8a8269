"""`python -m experiments.bench_api`: what the API bears, and whether the loop beside it notices.

Four phases: nothing is asked; what-if plans at a steady rate; a flood, as fast as it goes; a list of a
thousand pipelines. Client and service share the machine. Times are those of the client.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field

import httpx
import numpy as np
import psutil

from experiments.bench_api.service import MANY, PLANNED, TICK_S

CONNECTIONS = 32
FLOOD_CONNECTIONS = 200
GOLDEN = 0.6180339887498949


@dataclass
class Asked:
    """What came of a phase: seconds of each answer from when it was due, and their statuses."""

    took_s: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    began_s: float = 0.0
    ended_s: float = 0.0

    def quantile_ms(self, q: float) -> float:
        """That quantile of all answers."""
        return float(np.quantile(self.took_s, q)) * 1000


def rate_of(number: int) -> float:
    """A rate between 5 and 45 that no other request asks for."""
    return 5.0 + 40.0 * (number * GOLDEN % 1.0)


async def steady(url: str, rate_rps: float, seconds: float) -> Asked:
    """Plans at that rate, each of its own rate; one that is late does not keep the next from being sent."""
    found = Asked(began_s=time.monotonic())
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=30.0) as client:

        async def one(number: int) -> None:
            due_s = found.began_s + number / rate_rps
            await asyncio.sleep(max(due_s - time.monotonic(), 0.0))
            body = {"rate_rps": rate_of(number)}
            answer = await client.post(f"/v1/pipelines/{PLANNED}/plans", json=body)
            found.took_s.append(time.monotonic() - due_s)
            found.statuses[answer.status_code] += 1

        await asyncio.gather(*(one(number) for number in range(round(rate_rps * seconds))))
    found.ended_s = time.monotonic()
    return found


async def flood(url: str, seconds: float) -> Asked:
    """Plans from many connections at once, each asking again as soon as it is answered."""
    found = Asked(began_s=time.monotonic())
    limits = httpx.Limits(max_connections=FLOOD_CONNECTIONS)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=60.0) as client:

        async def one(number: int) -> None:
            while time.monotonic() - found.began_s < seconds:
                sent_s = time.monotonic()
                body = {"rate_rps": rate_of(number)}
                answer = await client.post(f"/v1/pipelines/{PLANNED}/plans", json=body)
                found.took_s.append(time.monotonic() - sent_s)
                found.statuses[answer.status_code] += 1

        await asyncio.gather(*(one(number) for number in range(FLOOD_CONNECTIONS)))
    found.ended_s = time.monotonic()
    return found


def lists(url: str, times: int) -> Asked:
    """The list of all pipelines, so many times."""
    found = Asked(began_s=time.monotonic())
    with httpx.Client(base_url=url, timeout=30.0) as client:
        for _ in range(times):
            sent_s = time.monotonic()
            answer = client.get("/v1/pipelines")
            found.took_s.append(time.monotonic() - sent_s)
            found.statuses[answer.status_code] += 1
            assert len(answer.json()["pipelines"]) == MANY
    found.ended_s = time.monotonic()
    return found


def ticks_of(told: dict[str, list[float]], phase: Asked) -> str:
    """How the loop did during a phase: how long ticks took, and how late they began."""
    began = np.array(told["began_s"])
    took = np.array(told["took_s"])[(began >= phase.began_s) & (began < phase.ended_s)]
    began = began[(began >= phase.began_s) & (began < phase.ended_s)]
    if len(began) < 2:
        return "too short to say"
    late = np.diff(began) - TICK_S
    return (
        f"{len(began)} ticks, p99 {np.quantile(took, 0.99) * 1000:.0f} ms, "
        f"late p99 {np.quantile(late, 0.99) * 1000:.0f} ms, most {late.max() * 1000:.0f} ms"
    )


def main() -> int:
    """Run the phases and print what came of them."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench_api")
    parser.add_argument("--rate", type=float, default=200.0, help="what-if plans a second")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments.bench_api.service", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as service:
            assert service.stdout is not None
            url = f"http://127.0.0.1:{service.stdout.readline().strip()}"
            httpx.Client(transport=httpx.HTTPTransport(retries=20)).get(f"{url}/healthz")
            asyncio.run(steady(url, 20.0, 1.0))
            idle = Asked(began_s=time.monotonic())
            time.sleep(asked.seconds)
            idle.ended_s = time.monotonic()
            planned = asyncio.run(steady(url, asked.rate, asked.seconds))
            flooded = asyncio.run(flood(url, asked.seconds))
            listed = lists(url, 50)
            memory_mb = psutil.Process(service.pid).memory_info().rss / 1e6
            service.terminate()
            told = json.loads(service.stdout.read())
    print(f"idle: the loop: {ticks_of(told, idle)}")
    for name, phase in (("plans", planned), ("flood", flooded), (f"list of {MANY}", listed)):
        rate_rps = len(phase.took_s) / (phase.ended_s - phase.began_s)
        print(
            f"{name}: {rate_rps:.0f} a second, p50 {phase.quantile_ms(0.5):.1f} ms, "
            f"p99 {phase.quantile_ms(0.99):.1f} ms, statuses {dict(phase.statuses)}; "
            f"the loop: {ticks_of(told, phase)}"
        )
    print(f"memory {memory_mb:.0f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
