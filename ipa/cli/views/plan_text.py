"""Plans as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ipa.model.plan import Plan
from ipa.model.resources import CORES, in_words, unit_of


def print_plan(plan: Plan, console: Console) -> None:
    """Print the plan's stages, what it is predicted to do, and how it was found."""
    print_line(
        console,
        f"Pipeline {plan.pipeline}   λ {plan.rate_rps:g} rps   SLA {plan.sla_s:.3f} s   "
        f"objective {plan.objective_name}",
    )
    if not plan.stages:
        _print_none(console, plan)
        return
    console.print(stage_table(plan))
    print_line(console, f"  {_outcome(plan)}")
    print_line(console, f"  {_search(plan)}")
    if plan.note:
        print_line(console, f"  Note: {plan.note}.")


def print_sweep(plans: Sequence[Plan], console: Console) -> None:
    """Print one line a plan."""
    table = Table(box=None, pad_edge=False)
    has_price = any(plan.cost_usd_per_hour is not None for plan in plans)
    price = ("USD/h",) if has_price else ()
    for heading in ("λ rps", "objective", "PAS", "cores", *price, "latency", "SLA"):
        table.add_column(heading, justify="right")
    table.add_column("configuration")
    for plan in plans:
        cost = (plan.cost_cores, plan.cost_usd_per_hour) if has_price else (plan.cost_cores,)
        figures = (plan.objective, plan.pas, *cost, plan.latency_s)
        shown = ["–" if value is None else f"{value:.4g}" for value in figures]
        configs = "  ".join(str(config) for config in plan.configs) or plan.termination.value
        table.add_row(f"{plan.rate_rps:g}", *shown, f"{plan.sla_s:.4g}", Text(configs))
    console.print(table)


def print_line(console: Console, text: str) -> None:
    """Print the text as it is, on one line."""
    console.print(Text(text.rstrip()))


def stage_table(plan: Plan) -> Table:
    """What each stage of the plan runs, one row a stage."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("  stage")
    table.add_column("variant")
    # Other resources only where some stage has them.
    others = list(dict.fromkeys(name for stage in plan.stages for name in stage.beside.amounts))
    for heading in ("batch", "replicas", "cores", *others, "latency", "wait", "share of SLA", "ρ"):
        table.add_column(heading, justify="right")
    for stage in plan.stages:
        beside = stage.beside * stage.replicas
        table.add_row(
            Text(f"  {stage.stage}"),
            Text(stage.variant),
            str(stage.batch_size),
            str(stage.replicas),
            f"{stage.config.total_cores:g}",
            *(_amount(name, beside.amount(name)) for name in others),
            f"{stage.latency_s:.3f} s",
            f"{stage.queue_delay_s:.3f} s",
            f"{(stage.latency_s + stage.queue_delay_s) / plan.sla_s:.0%}",
            f"{stage.utilisation_ratio:.2f}",
        )
    return table


def _amount(name: str, amount: float) -> str:
    unit = unit_of(name)
    return f"{amount:g}" if unit == name else f"{amount:g} {unit}"


def _outcome(plan: Plan) -> str:
    latency_s = plan.latency_s or 0.0
    replicas = sum(config.total_cores for config in plan.configs)
    beside = round((plan.cost_cores or 0.0) - replicas, 9)
    other = f" ({beside:g} beside the replicas)" if beside > 0 else ""
    held = plan.resources.amounts.items()
    other += "".join(f", {in_words(name, amount)}" for name, amount in held if name != CORES)
    if plan.cost_usd_per_hour is not None:
        other += f", {plan.cost_usd_per_hour:.4g} USD/h"
    return (
        f"PAS {plan.pas:.4f}   cost {plan.cost_cores:g} cores{other}   latency {latency_s:.3f} s   "
        f"headroom {1 - latency_s / plan.sla_s:.0%}"
    )


def _search(plan: Plan) -> str:
    gap = "" if plan.gap is None else f"gap {plan.gap:.1%}, "
    took = f"{gap}{plan.solver}, {plan.solve_s * 1e3:.0f} ms"
    return f"objective {plan.objective:.6g} {plan.termination.value} ({took})"


def _print_none(console: Console, plan: Plan) -> None:
    words = plan.termination.value.replace("_", " ")
    print_line(console, f"  No plan: {words} ({plan.solver}, {plan.solve_s * 1e3:.0f} ms).")
    for move in plan.relaxations:
        print_line(console, f"  Feasible with {move}.")
    if plan.note:
        print_line(console, f"  Note: {plan.note}.")
