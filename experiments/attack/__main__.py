"""`python -m experiments.attack`: every attack on the real service; exit code 1 where a figure is missed.

The table is also written to runs/attack/table.md, with that of the fault rows R and G beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from experiments.attack import (
    connections,
    doors,
    front_doors,
    kills,
    service_kills,
    slow_inputs,
    tokens,
    viewer,
)
from experiments.attack.figures import Figure, table, worst_of
from experiments.attack.parsers import PARSERS
from experiments.attack.service import ROOT
from experiments.fuzz.run import fuzz
from experiments.measured import PAGE, put
from ipa.adapters.processes import processor_name

OUT = Path("runs") / "attack"
# Of the rows that this table tells of: attack and growth, and wrong answers of the genuine Seldon.
ROWS = "RG"
ROW = re.compile(rf"^def test_[{ROWS.lower()}][0-9]", re.MULTILINE)
Figures = dict[str, list[Figure]]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Size:
    """The size of each attack."""

    service_kills: int
    # Of each target at most.
    data_plane_kills: int
    examples: int
    rounds: int
    connection_attacks: int
    # Words of the names of those on router and queue; all without.
    front_doors: tuple[str, ...]


WHOLE = Size(50, 50, 20, 100, 10, ())
QUICK = Size(3, 2, 2, 10, 2, ("idle", "BYTES"))


def rows(size: Size, tell: Tell) -> Figures:
    """The tests of rows R and G, whose own table is in runs/attack/rows."""
    folder = OUT / "rows"
    # Not all files of the folder: each worker would load them.
    files = [
        str(it) for it in sorted((ROOT / "tests/faults").glob("test_*.py")) if ROW.search(it.read_text())
    ]
    command = [sys.executable, "-m", "pytest", *files, "-n", "2", "--dist", "loadgroup"]
    done = subprocess.run(
        [*command, "--faults-groups", ROWS, "--faults-table", str(folder)],
        cwd=ROOT,
        check=False,
    )
    tried = json.loads((folder / "table.json").read_text(encoding="utf-8"))
    failed = [each["row"] for each in tried if not each["passed"]]
    return {
        "rows R and G": [
            Figure("tests", len(tried), note=f"{folder}/table.md"),
            Figure("tests that fail", len(failed), at_most=0, note=", ".join(failed)),
            Figure("exit code", done.returncode, at_most=0),
        ]
    }


def made_up(size: Size, tell: Tell) -> Figures:
    """Requests made up from the OpenAPI document."""
    outcome = fuzz(size.examples, 6, 1, is_short=True)
    failed = sum(count for status, count in outcome.by_status.items() if status >= 500)
    return {
        "made-up requests": [
            Figure("requests", outcome.cases, note=f"{len(outcome.operations)} operations"),
            Figure("answers 5xx", failed, at_most=0),
            Figure("findings", sum(outcome.findings.values()) + len(outcome.errors), at_most=0),
            Figure("operations never asked", len(outcome.uncovered), at_most=0),
        ]
    }


def parsers(size: Size, tell: Tell) -> Figures:
    """A search for the slowest input of every parser."""
    results = [slow_inputs.search(each, size.rounds) for each in PARSERS()]
    tell(slow_inputs.table(results))
    worst = max(results, key=lambda each: each.seconds / each.bound_s)
    slow = [each.parser for each in results if each.is_slow]
    return {
        "slow inputs": [
            Figure("parsers searched", len(results), note=f"{size.rounds} inputs each"),
            Figure("slow parsers", len(slow), at_most=0, note=", ".join(slow)),
            Figure("worst CPU time ms", 1e3 * worst.seconds, 1e3 * worst.bound_s, note=worst.parser),
        ]
    }


def many_connections(size: Size, tell: Tell) -> Figures:
    """A thousand connections that send too much, too slowly or nothing, each against a service of its own."""
    attacks = connections.ATTACKS[: size.connection_attacks]
    # Those that wait for a deadline leave a core to another.
    with ThreadPoolExecutor(2) as pool:
        waiting = [what for what in attacks if what.waits]
        by_attack = dict(zip(waiting, pool.map(_connected, waiting), strict=True))
    by_attack |= {what: _connected(what) for what in attacks if not what.waits}
    return {f"1 000 connections: {what.name}": by_attack[what] for what in attacks}


def _connected(what: connections.Attack) -> list[Figure]:
    with connections.demo() as (host, port, pid):
        skipped = partial(connections.skipped_ticks, host, port)
        # Those that open again what is closed do the same from the first second to the last.
        seconds = 6.0 if what.is_stubborn else 15.0
        figures = connections.attack(what, host, port, seconds=seconds, pid=pid, skipped_ticks=skipped)
    # One that connects again each time it is closed is never done; each of its connections is.
    is_done = not what.is_stubborn
    return [
        Figure("open at once", figures.most_open, note=f"{figures.opened} opened"),
        Figure("still open", figures.still_open, at_most=0 if is_done else None),
        Figure("longest open s", figures.longest_s, at_most=10.0 if is_done else None),
        Figure("memory grown MB", figures.grown_mb, at_most=100.0),
        *(Figure(f"slowest {path} s", each, at_most=1.0) for path, each in figures.worst_s.items()),
        Figure("other requests lost or refused", sum(figures.failed.values()), at_most=0),
        Figure("skipped ticks", figures.skipped_ticks, at_most=0),
    ]


def data_plane(size: Size, tell: Tell) -> Figures:
    """Kill -9 of queue, router and model servers under load."""
    # The next one as soon as what was killed is whole again.
    sized = [(target, min(times, size.data_plane_kills), rate) for target, rate, times in kills.ATTACKS]
    kill = partial(kills.run, every_s=0.2)
    # Only the return of a router is timed: the others are killed side by side.
    with ProcessPoolExecutor(len(sized), get_context("spawn")) as pool:
        beside = [pool.submit(kill, *each) for each in sized if each[0] != "router"]
    reports = [each.result() for each in beside] + [kill(*each) for each in sized if each[0] == "router"]
    figures: Figures = {}
    for report in reports:
        is_router = report.target == "router"
        others = report.lost - report.lost_in_flight if is_router else report.lost
        figures[f"kill -9 of a {report.target} at {report.rate_rps:g} rps"] = [
            Figure(
                "kills", report.kills, note=f"{report.sent} requests, {report.lost_in_flight} lost in flight"
            ),
            Figure("other requests lost", others, at_most=0),
            Figure("wrong answers", report.wrong, at_most=0),
            Figure("first new answer s", report.recovery_s, at_most=1.0 if is_router else None),
        ]
    return figures


def _machine(loads: list[float]) -> str:
    """The machine: one that does other work misses figures in seconds that are its own doing."""
    return (
        f"{os.cpu_count()} cores of {processor_name()}; load {loads[0]:.1f} before, {max(loads):.1f} at most"
    )


def main() -> int:
    """Run all of it, or one attack, and print the table."""
    attacks: dict[str, Callable[[Size, Tell], Figures]] = {
        "rows": rows,
        "slow-inputs": parsers,
        "made-up": made_up,
        "connections": many_connections,
        "viewer": lambda size, tell: viewer.run(tell),
        "tokens": lambda size, tell: tokens.run(tell),
        "service-kills": lambda size, tell: {
            "kill -9 of the service": service_kills.run(size.service_kills, 1)
        },
        "doors": lambda size, tell: doors.run(tell),
        "data-plane": data_plane,
        "front-doors": lambda size, tell: front_doors.run(tell, size.front_doors),
    }
    parser = argparse.ArgumentParser(prog="python -m experiments.attack", description=__doc__)
    parser.add_argument("only", nargs="*", choices=[[], *attacks], help="these attacks; all without")
    parser.add_argument("--quick", action="store_true", help="little of each: does it work at all")
    parser.add_argument("--docs", action="store_true", help=f"only write the last table's bounds to {PAGE}")
    args = parser.parse_args()
    if args.docs:
        put("make attack", worst_of((OUT / "table.md").read_text(encoding="utf-8")))
        return 0
    size, figures = QUICK if args.quick else WHOLE, Figures()
    loads, attacked_s, names = [os.getloadavg()[0]], time.monotonic(), args.only or ["all"]
    for name in args.only or attacks:
        began_s = time.monotonic()
        figures |= attacks[name](size, lambda line: print(line, flush=True))
        loads.append(os.getloadavg()[0])
        print(f"{name}: {time.monotonic() - began_s:.0f} s, load {loads[-1]:.1f}", flush=True)
        # After each: one that is interrupted has told what it found.
        lasted_s = time.monotonic() - attacked_s
        text = f"{_machine(loads)}; {' '.join(names)} in {lasted_s:.0f} s\n\n{table(figures)}"
        OUT.mkdir(parents=True, exist_ok=True)
        (OUT / "table.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\nwritten to {OUT / 'table.md'}")
    return int(not all(each.is_met for several in figures.values() for each in several))


if __name__ == "__main__":
    sys.exit(main())
