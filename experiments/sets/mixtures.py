"""Mixtures against single plans on the shipped pipelines; writes runs/bench/mixtures.json."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import ceil
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ipa.files import load_pipeline, load_profiles
from ipa.optimize.mixture.mixtures import Mixture, MixtureLimits
from ipa.optimize.mixture.solve import solve_mixture
from ipa.optimize.problem import Compat, PlanningProblem
from ipa.policies.planning import planning_problem

PIPELINES = ("video", "audio-qa", "audio-sent", "nlp", "sum-qa")
RATES_RPS = (5.0, 10.0, 20.0, 40.0)
# Bounds on cores, as parts of what the best single plan takes without one; None is no bound.
TIGHTNESS = (None, 0.75, 0.5)


@dataclass(frozen=True, slots=True)
class Row:
    """One problem: the best single plan and the best mixture within the same cores."""

    pipeline: str
    latency: str
    rate_rps: float
    bound_cores: float | None
    max_parts: int
    termination: str
    shares: tuple[int, ...]
    single_objective: float | None
    objective: float | None
    gain: float | None
    single_pas: float | None
    mean_pas: float | None
    single_cores: float | None
    cost_cores: float | None
    solve_s: float


def main() -> None:
    """Solve all problems, print those where a mixture gains, and count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", default="runs/bench/mixtures.json")
    parser.add_argument("--parts", type=int, default=2)
    arguments = parser.parse_args()
    limits = MixtureLimits(arguments.parts)
    rows = [row for name in PIPELINES for row in rows_of(name, limits)]
    console = Console()
    Console(width=max(console.width, 120)).print(table([row for row in rows if len(row.shares) > 1]))
    feasible = [row for row in rows if row.shares]
    slowest = max(rows, key=lambda row: row.solve_s)
    bounded = [row for row in feasible if row.bound_cores is not None]
    gains = sum(len(row.shares) > 1 for row in feasible)
    console.print(
        f"{len(rows)} problems, {len(feasible)} feasible, {gains} with a mixture that gains "
        f"({sum(len(row.shares) > 1 for row in bounded)} of {len(bounded)} with bounded cores); "
        f"{sum(row.solve_s for row in rows) / len(rows):.2f} s on the mean, {slowest.solve_s:.2f} s at most"
    )
    out = Path(arguments.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps([asdict(row) for row in rows], indent=1))


def rows_of(name: str, limits: MixtureLimits) -> Iterator[Row]:
    """The rows of one pipeline, its bound on memory left out: cores alone are compared."""
    pipeline = load_pipeline(Path("pipelines") / name / "pipeline.yaml")
    profiles = load_profiles(Path("profiles"), name)
    for compat in (Compat.PAPER, Compat.TAIL):
        for rate_rps in RATES_RPS:
            problem = planning_problem(pipeline, profiles, rate_rps, compat=compat)
            problem = replace(problem, bounds=replace(problem.bounds, cores=None, memory_gib=None))
            free = solve_mixture(problem, MixtureLimits(1)).single.cost_cores
            for part in TIGHTNESS:
                if part is not None and free is None:
                    continue
                cores = None if part is None or free is None else float(ceil(part * free))
                bounded = replace(problem, bounds=replace(problem.bounds, cores=cores))
                yield row_of(bounded, solve_mixture(bounded, limits, deadline_s=60.0), limits)


def row_of(problem: PlanningProblem, mixture: Mixture, limits: MixtureLimits) -> Row:
    """What a mixture comes to, beside the single plan."""
    return Row(
        pipeline=problem.pipeline,
        latency=problem.compat.value,
        rate_rps=problem.rate_rps,
        bound_cores=problem.bounds.cores,
        max_parts=limits.max_parts,
        termination=mixture.termination.value,
        shares=tuple(part.share_percent for part in mixture.parts),
        single_objective=mixture.single.objective,
        objective=mixture.objective,
        gain=mixture.gain,
        single_pas=mixture.single.pas,
        mean_pas=mixture.mean_pas,
        single_cores=mixture.single.cost_cores,
        cost_cores=mixture.cost_cores,
        solve_s=mixture.solve_s,
    )


def table(rows: list[Row]) -> Table:
    """The rows as a table for the terminal."""
    shown = Table(title="mixtures that are worth more than the best single plan")
    for name in ("pipeline", "latency", "rps", "bound", "shares", "gain", "PAS", "cores", "s"):
        shown.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(
            row.pipeline,
            row.latency,
            f"{row.rate_rps:g}",
            "-" if row.bound_cores is None else f"{row.bound_cores:g}",
            "/".join(str(share) for share in row.shares),
            _number(row.gain),
            f"{_number(row.single_pas)} → {_number(row.mean_pas)}",
            f"{_number(row.single_cores)} → {_number(row.cost_cores)}",
            f"{row.solve_s:.2f}",
        )
    return shown


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


if __name__ == "__main__":
    main()
