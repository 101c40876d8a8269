"""The overhead of router and queue for each request, beside MLServer alone.

    python -m experiments.bench_dataplane --rates 100,500 --seconds 10

starts MLServer with a model that takes no time, a queue before it and a router before that, sends requests
of one item at a constant rate to MLServer and to the router, whether or not answers come, and prints the CPU
time of each process for a request, and the latency that the sender sees.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import httpx
import numpy as np
import orjson
import psutil

from ipa.adapters.processes import free_port

ROOT = Path(__file__).resolve().parents[2]
PIPELINE, STAGE = "bench", "echo"
VALUES = 16
# A request of this many values, as JSON and as a client of Triton sends it.
TENSOR = {"name": "x", "datatype": "FP32", "shape": [1, VALUES]}
JSON_BODY = orjson.dumps({"inputs": [{**TENSOR, "data": [0.5] * VALUES}]})
_HEAD = orjson.dumps(
    {
        "inputs": [{**TENSOR, "parameters": {"binary_data_size": 4 * VALUES}}],
        "parameters": {"binary_data_output": True},
    }
)
BINARY_BODY = _HEAD + np.full(VALUES, 0.5, dtype="<f4").tobytes()
JSON_HEADERS = {"content-type": "application/json"}
BINARY_HEADERS = {"inference-header-content-length": str(len(_HEAD))}
# What is sent before does not count.
WARM_UP_S = 2.0
READY_S = 60.0
# What an issue asked for: router and queue together.
GOAL_MS = 1.0


@dataclass(frozen=True, slots=True)
class Running:
    """The processes by name, and the URL of each to send to."""

    pids: Mapping[str, int]
    urls: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one run: CPU time a request by process (ms), and quantiles of the latency (ms)."""

    cpu_ms: Mapping[str, float]
    p50_ms: float
    p99_ms: float
    failed: int


@contextmanager
def running() -> Iterator[Running]:
    """MLServer, a queue and a router."""
    ports = {name: free_port() for name in ("mlserver", "grpc", "queue", "router")}
    with ExitStack() as resources:
        folder = Path(resources.enter_context(tempfile.TemporaryDirectory()))
        settings = {
            **{"host": "127.0.0.1", "http_port": ports["mlserver"], "grpc_port": ports["grpc"]},
            # As the local target starts it.
            **{"metrics_endpoint": None, "parallel_workers": 0, "debug": False, "gzip_enabled": False},
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        model = {"name": STAGE, "implementation": "experiments.bench_dataplane.model.Echo"}
        (folder / "model-settings.json").write_text(json.dumps(model))
        url = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        python = sys.executable
        commands = {
            "mlserver": [str(Path(python).with_name("mlserver")), "start", str(folder)],
            "queue": [python, "-m", "ipa.dataplane.queue"],
            "router": [python, "-m", "ipa.dataplane.router"],
        }
        replica = {"url": url["mlserver"], "variant": "v"}
        own = {
            "mlserver": {},
            "queue": {
                **{"IPA_STAGE": STAGE, "IPA_PORT": str(ports["queue"])},
                "IPA_PARTS": json.dumps({"1": {"batch_timeout_s": 0, "replicas": [replica]}}),
            },
            "router": {"IPA_STAGES": f"{STAGE}={url['queue']}", "IPA_PORT": str(ports["router"])},
        }
        pids = {}
        for name, command in commands.items():
            log = resources.enter_context((folder / f"{name}.log").open("wb"))
            env = {**os.environ, "PYTHONPATH": str(ROOT), "IPA_PIPELINE": PIPELINE, **own[name]}
            process = subprocess.Popen(command, stdout=log, stderr=log, env=env)
            resources.callback(process.wait)
            resources.callback(process.kill)
            pids[name] = process.pid
        urls = {
            "mlserver": f"{url['mlserver']}/v2/models/{STAGE}",
            "router": f"{url['router']}/v2/models/{PIPELINE}",
        }
        for each in urls.values():
            _wait_until_ready(f"{each}/ready")
        yield Running(pids, urls)


def _wait_until_ready(url: str) -> None:
    until_s = time.monotonic() + READY_S
    while time.monotonic() < until_s:
        try:
            if httpx.get(url, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"{url} did not become ready within {READY_S:g} s")


async def send(
    url: str, body: bytes, headers: Mapping[str, str], rate_rps: float, seconds: float
) -> tuple[list[float], int]:
    """Send at that rate. Return the latency of each request in seconds, and how many failed."""
    latencies_s: list[float] = []
    failed = 0

    async def ask(session: aiohttp.ClientSession, due_s: float) -> None:
        nonlocal failed
        try:
            async with session.post(f"{url}/infer", data=body, headers=headers) as answer:
                await answer.read()
                failed += answer.status != 200
        except aiohttp.ClientError:
            failed += 1
        # From when it was to be sent: a sender that is late must not hide it.
        latencies_s.append(time.monotonic() - due_s)

    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        asyncio.TaskGroup() as tasks,
    ):
        began_s = time.monotonic()
        for number in range(int(rate_rps * seconds)):
            due_s = began_s + number / rate_rps
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            tasks.create_task(ask(session, due_s))
    return latencies_s, failed


def measure(
    world: Running, to: str, body: bytes, headers: Mapping[str, str], rate_rps: float, seconds: float
) -> Figures:
    """The figures of requests to the server of that name."""
    url = world.urls[to]
    asyncio.run(send(url, body, headers, rate_rps, WARM_UP_S))
    before = _cpu_s(world.pids)
    latencies_s, failed = asyncio.run(send(url, body, headers, rate_rps, seconds))
    after = _cpu_s(world.pids)
    each_ms = 1000 / len(latencies_s)
    cpu_ms = {name: (after[name] - before[name]) * each_ms for name in world.pids}
    p50_s, p99_s = np.quantile(latencies_s, [0.5, 0.99])
    return Figures(cpu_ms, 1000 * float(p50_s), 1000 * float(p99_s), failed)


def _cpu_s(pids: Mapping[str, int]) -> dict[str, float]:
    times = {name: psutil.Process(pid).cpu_times() for name, pid in pids.items()}
    return {name: each.user + each.system for name, each in times.items()}


def rows(world: Running, rates_rps: Sequence[float], seconds: float) -> Iterator[str]:
    """The rows of the table."""
    ways = {
        "MLServer alone": ("mlserver", JSON_BODY, JSON_HEADERS),
        "router, queue, MLServer": ("router", JSON_BODY, JSON_HEADERS),
        "the same, binary tensors": ("router", BINARY_BODY, BINARY_HEADERS),
    }
    for rate_rps in rates_rps:
        for name, (to, body, headers) in ways.items():
            measured = measure(world, to, body, headers, rate_rps, seconds)
            cpu = measured.cpu_ms
            ours_ms = cpu["router"] + cpu["queue"]
            ours = "–" if to == "mlserver" else f"{cpu['router']:.2f} + {cpu['queue']:.2f} = {ours_ms:.2f}"
            times = f"{measured.p50_ms:.1f} | {measured.p99_ms:.1f}"
            yield f"| {rate_rps:g} | {name} | {ours} | {cpu['mlserver']:.2f} | {times} | {measured.failed} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench_dataplane", description=__doc__)
    parser.add_argument("--rates", default="100,500", help="requests a second, by comma")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row")
    parser.add_argument("--quick", action="store_true", help="a second of each: does it work")
    given = parser.parse_args()
    load = os.getloadavg()[0]
    print(f"{os.cpu_count()} cores, load average before {load:.1f}; goal of router and queue: {GOAL_MS} ms")
    print(
        "| rate, 1/s | | CPU of router + queue, ms a request | of MLServer, ms | p50, ms | p99, ms | failed |"
    )
    print("|--:|---|--:|--:|--:|--:|--:|")
    with running() as world:
        for row in rows(
            world, [float(it) for it in given.rates.split(",")], 1.0 if given.quick else given.seconds
        ):
            print(row, flush=True)


if __name__ == "__main__":
    main()
