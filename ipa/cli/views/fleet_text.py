"""The plans of a fleet as a table for people."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ipa.cli.views.plan_text import print_line
from ipa.model.resources import CORES, Resources, in_column, in_words, unit_of
from ipa.optimize.fleet.plan import ClassPlan, Fleet


def print_fleet(fleet: Fleet, out: Console) -> None:
    """Print a line for each pipeline, the sums, and the gain of one unit more of each limited resource."""
    found = fleet.found
    limits = {CORES: found.budget_cores, **found.limits}
    budget = ", ".join(in_words(name, most) for name, most in limits.items())
    print_line(out, f"Fleet of {_count(fleet)} on {budget}")
    out.print(_table(fleet))
    print_line(
        out,
        f"  {_of_budget(fleet.held(), limits)}, objectives times weights {found.worth:.6g} "
        f"{found.termination.value} ({found.solve_s * 1e3:.0f} ms)",
    )
    for each in found.classes:
        words = _prices(each)
        if each.gap > 0:
            gap = f"gap {each.gap:.2%}" if isfinite(each.gap) else "no bound known"
            words += f"; the time was up, {gap} (--deadline gives more)"
        if len(found.classes) > 1:
            held = fleet.held(each.priority)
            words = f"class {each.priority}: {_of_budget(held, {})}, worth {each.worth:.6g}, {words}"
        print_line(out, f"  {words}")


def _of_budget(held: Resources, limits: Mapping[str, float]) -> str:
    """Every resource with its budget if it has one, such as "10 of 12 cores, 6 GiB of memory"."""
    names = dict.fromkeys((CORES, *limits, *held.amounts))
    of = {name: f"of {most:g}" for name, most in limits.items()}
    return ", ".join(in_words(name, round(held.amount(name), 9), of.get(name, "")) for name in names)


def _prices(each: ClassPlan) -> str:
    words = f"one core more is worth about {each.price:.3g}"
    return words + "".join(f", one {unit_of(name)} more {price:.3g}" for name, price in each.prices.items())


def _table(fleet: Fleet) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("  pipeline")
    # Other resources only where some plan has them.
    others = [name for name in fleet.held().amounts if name != CORES]
    for heading in ("λ rps", "class", "weight", "cores", *others, "PAS", "objective", "latency", "SLA"):
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
            *(in_column(name, plan.resources.amount(name)) for name in others),
            f"{plan.pas:.4f}",
            f"{plan.objective:.5g}",
            f"{latency_s:.3f} s",
            f"{plan.sla_s:.3f} s",
            Text("\n".join(str(config) for config in plan.configs)),
        )
    return table


def _count(fleet: Fleet) -> str:
    return "1 pipeline" if len(fleet.plans) == 1 else f"{len(fleet.plans)} pipelines"
