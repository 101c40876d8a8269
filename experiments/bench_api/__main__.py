"""python -m experiments.bench_api [--quick] [--out runs/bench-api]

What the API and the loops of one service bear: what-if plans at a steady rate beside a loop, a flood, and
a thousand pipelines with their loops. Client and service share the machine; times are those of the client.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from experiments.bench_api.asking import (
    CONNECTIONS,
    FLOOD_CONNECTIONS,
    PhaseResult,
    flood,
    idle,
    lists,
    memory_of,
    phase,
    steady,
)
from experiments.bench_api.figures import Figure, fleet_figures, flood_figures, plan_figures
from experiments.bench_api.fleet import copies
from experiments.bench_api.reading import reading_figures
from experiments.bench_api.service import PLANNED, ROOT
from ipa.files import load_pipelines

RATE_RPS = 200.0
# Where the goal is missed it is asked what is borne.
LESS_RPS = 100.0


@dataclass(frozen=True)
class Size:
    """The size of the demand."""

    seconds: float
    many: int
    steady_rounds: int
    moving_rounds: int
    lists: int


WHOLE, QUICK = Size(20.0, 1000, 5, 3, 400), Size(2.0, 20, 1, 1, 5)


@dataclass
class Running:
    """A service, and what it tells once it has ended."""

    url: str
    process: psutil.Process
    facts: dict[str, Any] = field(default_factory=dict)


@contextmanager
def service(*arguments: int) -> Iterator[Running]:
    """A service in a process of its own, warm; it has told its part once this ends."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "experiments.bench_api.service", folder, *map(str, arguments)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
                httpx.Client(transport=httpx.HTTPTransport(retries=20)).get(f"{url}/healthz")
                running = Running(url, psutil.Process(process.pid))
                phase("warm", url, running.process, CONNECTIONS, steady(20.0, 1.0))
                yield running
            finally:
                process.terminate()
                output = process.stdout.read()
            running.facts.update(json.loads(output))


def measured(size: Size) -> tuple[list[PhaseResult], list[Figure], dict[str, Any]]:
    """The question, the figures, and the messages of services."""
    with service(size.many) as one:

        def ask(name: str, connections: int, how: Any) -> PhaseResult:
            return phase(name, one.url, one.process, connections, how)

        quiet = ask("idle", 1, idle(size.seconds))
        less = ask(f"{LESS_RPS:g} plans a second", CONNECTIONS, steady(LESS_RPS, size.seconds))
        planned = ask(f"{RATE_RPS:g} plans a second", CONNECTIONS, steady(RATE_RPS, size.seconds))
        flooded = ask("flood", FLOOD_CONNECTIONS, flood(size.seconds))
    with service(size.many, size.steady_rounds, size.moving_rounds) as many:
        listed = phase("list", many.url, many.process, 1, lists(size.lists, size.many))
        memory_mb = memory_of(many.process)
    figures = [
        *plan_figures(planned, less, quiet, one.facts),
        *flood_figures(flooded, quiet, one.facts),
        *fleet_figures(listed, many.facts["rounds"], memory_mb, size.many),
        *reading_figures(copies(load_pipelines(ROOT / "pipelines")[PLANNED], size.many)),
    ]
    return [quiet, less, planned, flooded, listed], figures, {"plans": one.facts, "fleet": many.facts}


def main() -> int:
    """Run all phases, print the table and write it; the goals are told, met or not."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench_api", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="little of each: does it work at all")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-api"))
    arguments = parser.parse_args()
    phases, figures, facts = measured(QUICK if arguments.quick else WHOLE)
    print("| figure | value | goal | | load average |")
    print("|---|---:|---:|---|---:|")
    for each in figures:
        print(each.row(is_judged=not arguments.quick))
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / ("quick.json" if arguments.quick else "results.json")
    rows = [asdict(each) for each in figures]
    phase_rows = [{**asdict(each), "statuses": dict(each.statuses)} for each in phases]
    path.write_text(
        json.dumps({"cpus": os.cpu_count(), "figures": rows, "phases": phase_rows, "told": facts}, indent=1)
    )
    print(f"written to {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
