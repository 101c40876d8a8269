"""Goodput, and the time that /metrics takes, at multiples of the capacity, on real processes.

    python -m experiments.overload --seconds 20 --loads 1.6,5

starts the local target with three stages of toy model servers, one of them slow, sends Poisson arrivals
whether or not answers come, scrapes router and queues twice a second, and prints a line for each place of the
slow stage and each load.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import orjson

from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.targets.local.section import LocalRun
from ipa.targets.local.workload import LocalWorkload

STUB = Path(__file__).parent.parent / "attack" / "stub.py"
SLA_S = 0.5
BATCH, REPLICAS = 4, 2
SLOW_MS, QUICK_MS = 100.0, 10.0
CAPACITY_RPS = 1000 * REPLICAS * BATCH / SLOW_MS
STAGES = ("first", "middle", "last")
# What is sent before does not count: the queues learn how long batches take.
WARM_UP_S = 3.0
SCRAPE_S = 0.5
BODY = orjson.dumps({"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [1]}]})


@dataclass(slots=True)
class Overloaded:
    """The outcomes of the requests after the warm-up, and the time of each scrape."""

    sent: int = 0
    in_time: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    scrapes_s: list[float] = field(default_factory=list)


def slow_at(place: str) -> tuple[Pipeline, list[StageConfig]]:
    """The pipeline whose stage of that name is slow, and its configuration."""
    stages = []
    for name in STAGES:
        service_ms = SLOW_MS if name == place else QUICK_MS
        words = ("{python}", str(STUB), "{port}", "--stage", name, "--service-ms", str(service_ms))
        run = LocalRun("", command=words)
        stages.append(Stage(name, (Variant("toy", targets={"local": run}),), batch_timeout_s=0.005))
    pipeline = Pipeline("toys", chain(stages), Sla(SLA_S), {"default": Objective()})
    return pipeline, [StageConfig(name, "toy", BATCH, 0.5, REPLICAS) for name in STAGES]


async def send(url: str, targets: Sequence[str], rate_rps: float, seconds: float, seed: int) -> Overloaded:
    """Send at that rate, and scrape meanwhile."""
    counts, arrivals = Overloaded(), random.Random(seed)
    began_s = time.monotonic()

    async def ask(session: aiohttp.ClientSession, due_s: float) -> None:
        try:
            async with session.post(f"{url}/v2/models/toys/infer", data=BODY) as answer:
                await answer.read()
                status = str(answer.status)
        except (aiohttp.ClientError, TimeoutError) as error:
            status = type(error).__name__
        if due_s < began_s + WARM_UP_S:
            return
        # From when it was to be sent: a sender that is late must not hide it.
        is_late = time.monotonic() - due_s > SLA_S
        counts.sent += 1
        counts.in_time += status == "200" and not is_late
        counts.statuses["200 late" if status == "200" and is_late else status] += 1

    async def scrape(session: aiohttp.ClientSession) -> None:
        while time.monotonic() < began_s + seconds:
            for target in targets:
                before_s = time.monotonic()
                async with session.get(f"http://{target}/metrics") as answer:
                    await answer.read()
                counts.scrapes_s.append(time.monotonic() - before_s)
            await asyncio.sleep(SCRAPE_S)

    timeout = aiohttp.ClientTimeout(total=60)
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True), timeout=timeout) as scraper,
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(scrape(scraper))
        due_s = began_s
        while due_s < began_s + seconds:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            tasks.create_task(ask(session, due_s))
            due_s += arrivals.expovariate(rate_rps)
    return counts


def line(place: str, load_ratio: float, seconds: float, counts: Overloaded) -> str:
    """A row of the table."""
    goodput_ratio = counts.in_time / (seconds - WARM_UP_S) / CAPACITY_RPS
    slowest = max(counts.scrapes_s, default=float("nan"))
    statuses = ", ".join(f"{status}: {count}" for status, count in sorted(counts.statuses.items()))
    load = os.getloadavg()[0]
    return f"| {place} | {load_ratio:g} | {goodput_ratio:.0%} | {slowest:.2f} | {load:.1f} | {statuses} |"


def main() -> None:
    """Run each place at each load and print the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--loads", default="1.6,5", help="multiples of the capacity, by comma")
    parser.add_argument("--places", default=",".join(STAGES), help="the slow stages, by comma")
    given = parser.parse_args()
    print(
        "| slow stage | load, × capacity | in time, of the capacity | slowest /metrics, s | load average | |"
    )
    print("|---|--:|--:|--:|--:|---|")
    for place in given.places.split(","):
        with tempfile.TemporaryDirectory() as folder:
            workload = LocalWorkload(Path(folder))
            try:
                pipeline, configs = slow_at(place)
                workload.start(pipeline, configs)
                runner = workload.runner(pipeline.name)
                for seed, load_ratio in enumerate(map(float, given.loads.split(","))):
                    rate_rps = load_ratio * CAPACITY_RPS
                    sent = send(runner.endpoint, runner.scrape_targets, rate_rps, given.seconds, seed)
                    print(line(place, load_ratio, given.seconds, asyncio.run(sent)), flush=True)
            finally:
                workload.stop()


if __name__ == "__main__":
    main()
