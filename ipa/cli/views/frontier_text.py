"""A frontier as a table for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ipa.cli.views.plan_text import print_line
from ipa.model.plan import Plan
from ipa.optimize.frontier import FrontierPoint
from ipa.report.frontier_plot import accuracy_cost


def print_frontier(plan: Plan, points: Sequence[FrontierPoint], console: Console) -> None:
    """Print the plans that are optimal in accuracy and cost, a star at the plan of the objective."""
    head = f"Pipeline {plan.pipeline}   λ {plan.rate_rps:g} rps   SLA {plan.sla_s:.3f} s"
    print_line(console, f"{head}   objective {plan.objective_name}")
    if not points:
        print_line(console, f"  No plan: {plan.termination.value.replace('_', ' ')}.")
        for move in plan.relaxations:
            print_line(console, f"  Feasible with {move}.")
        return
    shown = accuracy_cost(points)
    table = Table(box=None, padding=(0, 2, 0, 0))
    price = ("USD/h",) if plan.cost_usd_per_hour is not None else ()
    for heading in ("  PAS", *price, "cores", "latency", "objective"):
        table.add_column(heading, justify="right")
    table.add_column("configuration")
    starred = nearest(plan, shown)
    for point in shown:
        table.add_row(
            Text(f"{'*' if point is starred else ' '} {point.pas:.4f}"),
            *(f"{point.cost:.4g}" for _ in price),
            f"{point.cost_cores:.4g}",
            f"{point.latency_s:.3f} s",
            f"{point.objective:.6g}",
            Text("  ".join(str(config) for config in point.configs)),
        )
    console.print(table)
    if starred is None:
        print_line(
            console,
            f"  The chosen plan is not among them: {_figures(plan)}; its objective counts other things.",
        )
    else:
        print_line(console, "  * the accuracy and cost of the plan that the objective chooses")
    if len(points) > len(shown):
        others = "the others cost more or are less accurate, but quicker (-o json has all)"
        print_line(console, f"  {len(shown)} of {len(points)} plans: {others}")


def _figures(plan: Plan) -> str:
    price = "" if plan.cost_usd_per_hour is None else f"{plan.cost_usd_per_hour:.4g} USD/h, "
    return f"PAS {plan.pas:.4f}, {price}{plan.cost_cores:.4g} cores, {plan.latency_s:.3f} s"


def nearest(plan: Plan, points: Sequence[FrontierPoint]) -> FrontierPoint | None:
    """The point with the plan's accuracy and cost; None if there is none."""
    assert plan.pas is not None and plan.cost is not None
    for point in points:
        if abs(point.pas - plan.pas) < 1e-9 and abs(point.cost - plan.cost) < 1e-9:
            return point
    return None
