"""Mixtures of configurations as tables for people, and as JSON."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from ipa.cli.views.plan_text import print_line, print_plan, stage_table
from ipa.optimize.mixture.mixtures import Mixture


def gains(mixture: Mixture) -> bool:
    """Whether several configurations are better than one."""
    return len(mixture.parts) > 1


def mixture_values(mixture: Mixture) -> dict[str, Any]:
    """The best single plan as JSON values, with the mixture beside it, null where it gains nothing."""
    values = mixture.single.to_json()
    if not gains(mixture):
        return {**values, "mixture": None}
    parts = [{"share_percent": part.share_percent, "plan": part.plan.to_json()} for part in mixture.parts]
    values["mixture"] = {
        "gain": mixture.gain,
        "objective": mixture.objective,
        "mean_pas": mixture.mean_pas,
        "cost_cores": mixture.cost_cores,
        "termination": mixture.termination.value,
        "solve_s": mixture.solve_s,
        "parts": parts,
    }
    return values


def print_mixture(mixture: Mixture, predictors: int, out: Console) -> None:
    """Print the single plan where it is the best, else each part of the mixture and what it gains."""
    single = mixture.single
    if not gains(mixture):
        print_plan(single, out)
        if mixture.parts and not mixture.note:
            print_line(out, f"  No mixture of {predictors} configurations at most is worth more.")
        return
    print_line(
        out,
        f"Pipeline {single.pipeline}   λ {single.rate_rps:g} rps   SLA {single.sla_s:.3f} s   "
        f"objective {single.objective_name}   a mixture of {len(mixture.parts)} configurations",
    )
    for part in mixture.parts:
        plan = part.plan
        print_line(
            out,
            f"  {part.share_percent} % of the requests, {plan.rate_rps:.4g} rps   PAS {plan.pas:.4f}   "
            f"cost {plan.cost_cores:g} cores   latency {plan.latency_s:.3f} s",
        )
        out.print(stage_table(plan))
    if single.stages:
        print_line(out, "  Beside the best single plan:")
        print_line(
            out,
            f"  objective {single.objective:.6g} → {mixture.objective:.6g} (+{mixture.gain:.3g})   "
            f"PAS {single.pas:.4f} → {mixture.mean_pas:.4f}   "
            f"cost {single.cost_cores:g} → {mixture.cost_cores:g} cores",
        )
    else:
        print_line(
            out,
            f"  objective {mixture.objective:.6g}   PAS {mixture.mean_pas:.4f}   "
            f"cost {mixture.cost_cores:g} cores   No single plan is feasible.",
        )
    print_line(out, f"  {mixture.termination.value} ({mixture.solve_s * 1e3:.0f} ms)")
    if mixture.note:
        print_line(out, f"  Note: {mixture.note}.")
