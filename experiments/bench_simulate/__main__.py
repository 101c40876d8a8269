"""python -m experiments.bench_simulate [--quick] [--out runs/bench-simulate]"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np

from experiments.bench_simulate.cases import CASES, Case, arrivals, simulate, simulate_in_simpy
from ipa.simulate.kernel import drive_compiled, drive_plain

GOAL_PER_S, GOAL_RATIO = 20e6, 200.0
# Each is timed so often, in turn; the quickest counts, as others may use the machine.
ROUNDS = 5


def main() -> int:
    """Time all cases, print the table and write it; the goals are told, met or not."""
    parser = argparse.ArgumentParser(prog="python -m experiments.bench_simulate", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few requests: does it work at all")
    parser.add_argument("--out", type=Path, default=Path("runs/bench-simulate"))
    arguments = parser.parse_args()
    rows = [_measure(case, quick=arguments.quick) for case in CASES]
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / ("quick.json" if arguments.quick else "results.json")
    path.write_text(
        json.dumps({"machine": platform.processor() or platform.machine(), "rows": rows}, indent=1)
    )
    rounds = "one" if arguments.quick else f"the quickest of {ROUNDS}"
    print(f"Request-stages a second of CPU time on one core, in millions; {rounds}")
    print("| model | numba | plain | SimPy | numba / SimPy | lost | largest difference to SimPy, s |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        fast = "-" if row["numba"] is None else f"{row['numba'] / 1e6:.1f}"
        ratio = "-" if row["numba"] is None else f"{row['numba'] / row['simpy']:.0f}"
        print(
            f"| {row['model']} | {fast} | {row['plain'] / 1e6:.2f} | {row['simpy'] / 1e6:.3f} "
            f"| {ratio} | {row['lost_ratio']:.1%} | {row['difference_s']:.0e} |"
        )
    for row in rows:
        if row["numba"] is not None and not arguments.quick:
            _say_goals(row)
    print(f"written to {path}")
    return 0


def _say_goals(row: dict[str, Any]) -> None:
    ratio = row["numba"] / row["simpy"]
    for name, value, goal in (
        ("million request-stages/s", row["numba"] / 1e6, GOAL_PER_S / 1e6),
        ("times SimPy", ratio, GOAL_RATIO),
    ):
        verdict = "met" if value >= goal else "MISSED"
        print(f"goal {verdict}: {row['model']}: {value:.1f} {name} (goal {goal:.0f})")


def _measure(case: Case, *, quick: bool) -> dict[str, Any]:
    many, some, few = (20_000, 5_000, 1_000) if quick else (1_000_000, 100_000, 10_000)
    has_numba = find_spec("numba") is not None
    runs: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
        "plain": (some, lambda times: simulate(case, times, drive_plain)[0]),
        "simpy": (few, lambda times: simulate_in_simpy(case, times)),
    }
    if has_numba:
        runs["numba"] = (many, lambda times: simulate(case, times, drive_compiled)[0])
        simulate(case, arrivals(100), drive_compiled)  # loads the compiled loop
    times_s = arrivals(many)
    # Requests that are lost do not come to later stages.
    kernel = drive_compiled if has_numba else drive_plain
    visits = {count: simulate(case, times_s[:count], kernel)[1] for count, _ in runs.values()}
    best: dict[str, float] = {}
    ends: dict[str, np.ndarray] = {}
    for _ in range(1 if quick else ROUNDS):
        for name, (count, run) in runs.items():
            began_s = process_time()
            ends[name] = run(times_s[:count])
            rate = visits[count] / (process_time() - began_s)
            best[name] = max(best.get(name, 0.0), rate)
    both = (simulate(case, times_s[:few], drive_plain)[0], ends["simpy"])
    lost = [each < 0 for each in both]
    if not np.array_equal(*lost):
        raise RuntimeError(f"{case.name}: the simulator and SimPy do not lose the same requests")
    difference_s = float(np.max(np.abs(both[0] - both[1])[~lost[0]]))
    return {
        "model": case.name,
        "numba": best.get("numba"),
        "plain": best["plain"],
        "simpy": best["simpy"],
        "difference_s": difference_s,
        "lost_ratio": float(lost[0].mean()),
    }


if __name__ == "__main__":
    raise SystemExit(main())
