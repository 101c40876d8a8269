"""`ipa frontier`: the Pareto frontier of accuracy, cost and latency at a rate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ipa.cli.options import planning as options
from ipa.cli.options.plugins import SOLVER
from ipa.cli.output import OUTPUT, Output, printed, printer
from ipa.cli.plans.question import EXIT_CODES, Question, best_plan
from ipa.cli.progress import progress
from ipa.model.errors import UsageError
from ipa.model.plan import Plan

if TYPE_CHECKING:
    from ipa.optimize.frontier import FrontierPoint

KINDS = ("svg", "png")


def frontier(
    pipeline: str = options.PIPELINE,
    *,
    rate: float = typer.Option(..., "--rate", help="requests a second to serve"),
    objective: str | None = options.OBJECTIVE,
    compat: str = options.COMPAT,
    allocation: str = options.ALLOCATION,
    solver: str | None = SOLVER,
    at: str | None = options.AT,
    plot: Path | None = typer.Option(None, "--plot", help="write a plot to FILE.svg or FILE.png"),
    deadline_s: float = typer.Option(60.0, "--deadline", help="most seconds for the search"),
    output: Output = OUTPUT,
    pipelines_dir: Path | None = options.PIPELINES_DIR,
    profiles_dir: Path | None = options.PROFILES_DIR,
) -> None:
    """Show the Pareto-optimal plans for a rate: accuracy, cost and latency within the limits.

    JSON has all of them; text has those that are optimal in accuracy and cost. Exit code 3: none is
    feasible; 6: out of time.
    """
    from ipa.optimize.frontier import frontier as frontier_of

    kind = "" if plot is None else _kind(plot)
    question = Question(pipeline, objective, compat, allocation, solver, pipelines_dir, profiles_dir, at)
    problem, plan = best_plan(question, rate, deadline_s)
    with progress("searching"):
        points = frontier_of(problem, deadline_s) if plan.stages else ()
    if not printed(output, [_json(point, plan) for point in points]):
        from ipa.cli.views.frontier_text import print_frontier

        print_frontier(plan, points, printer(output))
    if plot is not None and points:
        _write(plot, kind, plan, points)
    if plan.termination in EXIT_CODES:
        raise typer.Exit(EXIT_CODES[plan.termination])


def _json(point: FrontierPoint, plan: Plan) -> dict[str, Any]:
    """A point as JSON values; `chosen` is true for the plan of the objective."""
    return {
        "pas": point.pas,
        "cost_cores": point.cost_cores,
        "latency_s": point.latency_s,
        "objective": point.objective,
        "cost_usd_per_hour": point.cost_usd_per_hour,
        "chosen": point.configs == plan.configs,
        "stages": [asdict(config) for config in point.configs],
    }


def _kind(file: Path) -> str:
    kind = file.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise UsageError(f"--plot {str(file)!r} is neither a .svg nor a .png file")
    return kind


def _write(file: Path, kind: str, plan: Plan, points: Sequence[FrontierPoint]) -> None:
    from ipa.report.frontier_plot import PlotPoint, frontier_picture

    dots = [PlotPoint(point.cost, point.pas, point.latency_s) for point in points]
    assert plan.cost is not None and plan.pas is not None and plan.latency_s is not None
    chosen = PlotPoint(plan.cost, plan.pas, plan.latency_s)
    unit = "cores" if plan.cost_usd_per_hour is None else "USD/h"
    title = f"{plan.pipeline} at {plan.rate_rps:g} rps"
    try:
        picture = frontier_picture(title, dots, chosen, plan.sla_s, kind, unit)
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--plot needs {error.name}", hint="Install it with: pip install 'ipa-serving[demo]'"
        ) from error
    try:
        file.write_bytes(picture)
    except OSError as error:
        raise UsageError(f"--plot {str(file)!r} cannot be written: {error.strerror}") from error
