"""The plans of a fleet as a table for people."""

from __future__ import annotations

from math import isfinite

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ipa.cli.views.plan_text import print_line
from ipa.optimize.fleet.plan import Fleet

HEADINGS = ("λ rps", "class", "weight", "cores", "PAS", "objective", "latency", "SLA")


def print_fleet(fleet: Fleet, out: Console) -> None:
    """Print a line for each pipeline, the sums, and the gain of one more core."""
    found = fleet.found
    print_line(out, f"Fleet of {_count(fleet)} on {found.budget_cores:g} cores")
    out.print(_table(fleet))
    print_line(
        out,
        f"  {found.cost_cores:g} of {found.budget_cores:g} cores, objectives times weights {found.worth:.6g} "
        f"{found.termination.value} ({found.solve_s * 1e3:.0f} ms)",
    )
    for each in found.classes:
        words = f"one core more is worth about {each.price:.3g}"
        if each.gap > 0:
            gap = f"gap {each.gap:.2%}" if isfinite(each.gap) else "no bound known"
            words += f"; the time was up, {gap} (--deadline gives more)"
        if len(found.classes) > 1:
            words = f"class {each.priority}: {each.cost_cores:g} cores, worth {each.worth:.6g}, {words}"
        print_line(out, f"  {words}")


def _table(fleet: Fleet) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("  pipeline")
    for heading in HEADINGS:
        table.add_column(heading, justify="right")
    table.add_column("plan")
    for member, plan in zip(fleet.members, fleet.plans, strict=True):
        latency_s = plan.latency_s or 0.0
        table.add_row(
            Text(f"  {plan.pipeline}"),
            f"{plan.rate_rps:g}",
            str(member.priority),
            f"{member.weight:g}",
            f"{plan.cost_cores:g}",
            f"{plan.pas:.4f}",
            f"{plan.objective:.5g}",
            f"{latency_s:.3f} s",
            f"{plan.sla_s:.3f} s",
            Text("\n".join(str(config) for config in plan.configs)),
        )
    return table


def _count(fleet: Fleet) -> str:
    return "1 pipeline" if len(fleet.plans) == 1 else f"{len(fleet.plans)} pipelines"
