"""Sets of variants as tables for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ipa.cli.views.plan_text import print_line
from ipa.model.plan import Termination
from ipa.optimize.problem import Compat
from ipa.policies.setplanning import PipelineSet

MEANS = {
    Compat.PAPER: "capacity as measured",
    Compat.TAIL: "capacity within the SLA by the tail's formula",
}


def print_set(found: PipelineSet, out: Console) -> None:
    """Print the variants that run, their cores and shares, and what holds the set where it is."""
    asked, plan = found.asked, found.plan
    print_line(
        out,
        f"Pipeline {plan.task}   λ {plan.rate_rps:g} rps   SLA {asked.sla_s:.3f} s   "
        f"objective {asked.objective_name}   a set of variants on {asked.problem.budget_cores:g} cores "
        f"at most, {MEANS[asked.compat]}",
    )
    search = f"{plan.solver}, {plan.solve_s * 1e3:.0f} ms"
    if not plan.parts:
        print_line(out, f"  No set: {plan.termination.value.replace('_', ' ')} ({search}).")
        if plan.termination is Termination.INFEASIBLE:
            most_rps = plan.rate_rps - plan.missing_rps
            print_line(
                out,
                f"  {plan.missing_rps:.4g} of {plan.rate_rps:g} rps are missing: "
                f"{asked.problem.budget_cores:g} cores carry {most_rps:.4g} rps at most.",
            )
        return
    out.print(_parts(found))
    print_line(out, f"  mean accuracy {plan.mean_accuracy:.4f}   cost {plan.cost_cores:g} cores")
    gap = "" if plan.gap is None else f"gap {plan.gap:.1%}, "
    print_line(out, f"  objective {plan.objective:.6g} {plan.termination.value} ({gap}{search})")
    for limit in plan.binding:
        print_line(out, f"  Limit: {limit}.")
    if plan.note:
        print_line(out, f"  Note: {plan.note}.")


def _parts(found: PipelineSet) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("  variant")
    for heading in ("accuracy", "cores", "batch", "quota", "share", "capacity"):
        table.add_column(heading, justify="right")
    for part in found.plan.parts:
        share = "–" if part.share_percent is None else f"{part.share_percent} %"
        table.add_row(
            Text(f"  {part.variant}"),
            f"{part.accuracy:.4f}",
            f"{part.cores:g}",
            str(found.asked.batch_sizes[part.variant, part.cores]),
            f"{part.quota_rps:.4g} rps",
            share,
            f"{part.capacity_rps:.4g} rps",
        )
    return table
