"""Plans for people: a plan, a set, a frontier, an explanation, a fleet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ipa.cli.layout import ViewColumn, counted, figure, resource_columns, table_of
from ipa.model.parts import parts_of
from ipa.model.plan import Plan, cores_of
from ipa.model.resources import CORES, Resources, dimension, in_words
from ipa.optimize.explanation import Explanation
from ipa.optimize.fleet.master import ClassPlan
from ipa.optimize.fleet.plan import Fleet
from ipa.optimize.frontier import FrontierPoint, accuracy_cost

PRICE = ViewColumn("USD/h", "cost_usd_per_hour", "{:.4g}")


def plan_lines(plan: Plan) -> Iterator[RenderableType]:
    """Yield the stages of the plan, its predictions, and how the search ended."""
    yield _head(plan)
    if plan.stages:
        yield stage_table(plan)
        yield f"  {_outcome(plan)}"
        yield f"  objective {plan.objective:.6g} {plan.termination.value} ({_search(plan)})"
    else:
        yield from _no_plan(plan, f" ({_search(plan)})")
    yield from note_line(plan.note)


def note_line(note: str) -> list[str]:
    """The line with the remarks of a plan: how its solver was chosen, and what else is to be known."""
    return [f"  Note: {note}."] if note else []


def _no_plan(plan: Plan, search: str = "") -> Iterator[str]:
    yield f"  No plan: {plan.termination.value.replace('_', ' ')}{search}."
    yield from (f"  Feasible with {move}." for move in plan.relaxations)


def _search(plan: Any) -> str:
    """The engine and the time of the search of a plan or a set, with the gap that it left."""
    gap = "" if plan.gap is None else f"gap {plan.gap:.1%}, "
    return f"{gap}{plan.solver}, {plan.solve_s * 1e3:.0f} ms"


def _head(plan: Plan) -> str:
    head = f"Pipeline {plan.pipeline}   λ {plan.rate_rps:g} rps   SLA {plan.sla_s:.3f} s"
    return f"{head}   objective {plan.objective_name}"


def sweep_table(plans: Sequence[Plan]) -> Table:
    """One line for each plan."""
    return table_of(
        plans,
        ViewColumn("λ rps", "rate_rps", "{:g}"),
        ViewColumn("objective", "objective", "{:.4g}"),
        ViewColumn("PAS", "pas", "{:.4g}"),
        ViewColumn("cores", "cost_cores", "{:.4g}"),
        *([PRICE] if any(plan.cost_usd_per_hour is not None for plan in plans) else []),
        ViewColumn("latency", "latency_s", "{:.4g}"),
        ViewColumn("SLA", "sla_s", "{:.4g}"),
        ViewColumn("configuration", lambda plan: _configs(plan) or plan.termination.value),
    )


def _configs(plan: Plan | FrontierPoint) -> str:
    return "  ".join(str(config) for config in plan.configs)


def stage_table(plan: Plan) -> Table:
    """The configurations of the plan, one row for each stage."""
    # Other resources only where some stage has them.
    others = dict.fromkeys(name for stage in plan.stages for name in stage.beside.amounts)
    return table_of(
        plan.stages,
        ViewColumn("stage", "stage"),
        ViewColumn("variant", "variant"),
        ViewColumn("batch", "batch_size", "{}"),
        ViewColumn("replicas", "replicas", "{}"),
        *([ViewColumn("share", "share_percent", "{} %")] if len(parts_of(plan.configs)) > 1 else []),
        ViewColumn("cores", lambda stage: stage.config.total_cores, "{:g}"),
        *resource_columns(others, lambda stage: stage.beside * stage.replicas),
        ViewColumn("latency", "latency_s", "{:.3f} s"),
        ViewColumn("wait", "queue_delay_s", "{:.3f} s"),
        ViewColumn("share of SLA", lambda it: (it.latency_s + it.queue_delay_s) / plan.sla_s, "{:.0%}"),
        ViewColumn("ρ", "utilisation_ratio", "{:.2f}"),
        indent="  ",
    )


def _outcome(plan: Plan) -> str:
    latency_s = plan.latency_s or 0.0
    beside = round((plan.cost_cores or 0.0) - sum(config.total_cores for config in plan.configs), 9)
    other = f" ({beside:g} beside the replicas)" if beside > 0 else ""
    held = plan.resources.amounts.items()
    other += "".join(f", {in_words(name, amount)}" for name, amount in held if name != CORES)
    return (
        f"PAS {plan.pas:.4f}   cost {cores_of(plan.cost_cores)}{other}{_price(plan)}   "
        f"latency {latency_s:.3f} s   headroom {1 - latency_s / plan.sla_s:.0%}"
    )


def _price(plan: Any) -> str:
    return "" if plan.cost_usd_per_hour is None else f", {plan.cost_usd_per_hour:.4g} USD/h"


def frontier_lines(plan: Plan, points: Sequence[FrontierPoint]) -> Iterator[RenderableType]:
    """Yield the plans that are optimal in accuracy and cost, a star at the plan of the objective."""
    yield _head(plan)
    if not points:
        yield from _no_plan(plan)
        return
    shown = accuracy_cost(points)
    starred = [point for point in shown if _is_chosen(plan, point)][:1]
    yield table_of(
        shown,
        ViewColumn("PAS", lambda point: f"{'*' if point in starred else ' '} {point.pas:.4f}", "{}"),
        *([ViewColumn("USD/h", "cost", "{:.4g}")] if plan.cost_usd_per_hour is not None else []),
        ViewColumn("cores", "cost_cores", "{:.4g}"),
        ViewColumn("latency", "latency_s", "{:.3f} s"),
        ViewColumn("objective", "objective", "{:.6g}"),
        ViewColumn("configuration", _configs),
    )
    if starred:
        yield "  * the accuracy and cost of the plan that the objective chooses"
    else:
        figures = f"PAS {plan.pas:.4f}, {cores_of(plan.cost_cores)}{_price(plan)}, {plan.latency_s:.3f} s"
        yield f"  The chosen plan is not in this list: {figures}; its objective counts more than these."
    if len(points) > len(shown):
        others = "the others cost more or are less accurate, but faster (-o json has all)"
        yield f"  {len(shown)} of {len(points)} plans: {others}"


def _is_chosen(plan: Plan, point: FrontierPoint) -> bool:
    """True if the point has the accuracy and the cost of the plan."""
    assert plan.pas is not None and plan.cost is not None
    return abs(point.pas - plan.pas) < 1e-9 and abs(point.cost - plan.cost) < 1e-9


def explanation_lines(explained: Explanation) -> Iterator[RenderableType]:
    """Yield the plan with its reasons, its limits, the alternatives, and the rates at which it changes."""
    plan = explained.plan
    yield f"{plan.pipeline} at {plan.rate_rps:g} rps: {explained.summary}."
    if plan.stages:
        yield from _binding(explained)
        yield from _alternatives(explained)
        if explained.flips or explained.unchanged:
            yield f"Changes at (each to within {explained.precision_ratio:.2%})"
            # Each point once, with the largest of the changes there.
            largest = {(each.quantity, each.direction, each.changed_at): each for each in explained.flips}
            yield from (f"  {text}" for text in (*(it.text for it in largest.values()), *explained.unchanged))
    for remedy in explained.remedies:
        outcome, then = remedy.outcome, ""
        if outcome is not None:
            figures = f"PAS {outcome.pas:.4f}, {cores_of(outcome.cost_cores)}"
            then = f": {figures}, latency {outcome.latency_s:.3f} s"
        yield f"  Feasible with {remedy.text}{then}"
    if explained.unfinished:
        yield "Not found in time (--deadline gives more):"
        yield from (f"  {text}" for text in explained.unfinished)


def _binding(explained: Explanation) -> Iterator[RenderableType]:
    if explained.binding:
        yield "Binding"
    elif explained.binding_complete:
        yield "Binding: no limit; without any one of them the plan is the same"
    else:
        yield "Binding: none found in time"
    yield from (f"  {each.text}" for each in explained.binding)


def _alternatives(explained: Explanation) -> Iterator[RenderableType]:
    if not explained.alternatives:
        none = "no other variants fit the limits" if explained.alternatives_complete else "none in time"
        yield f"Alternatives: {none}"
        return
    yield "Alternatives with other variants, each the best with its variants"

    def change(heading: str, key: str, form: str) -> ViewColumn:
        # Rounding errors are 0, and 0 has no minus before it.
        return ViewColumn(heading, lambda each: round(getattr(each, key), 9) + 0.0, form)

    yield table_of(
        explained.alternatives,
        change("objective", "objective_change", "{:+.4g}"),
        change("PAS", "pas_change", "{:+.4f}"),
        change("cores", "cost_cores_change", "{:+.4g}"),
        change("latency", "latency_change_s", "{:+.3f} s"),
        ViewColumn("lost because", "why"),
        ViewColumn("instead", lambda each: "; ".join(each.differences)),
        indent="  ",
    )


def fleet_lines(fleet: Fleet) -> Iterator[RenderableType]:
    """Yield a line for each pipeline, the sums, and the gain of one unit more of each limited resource."""
    found = fleet.found
    limits = {CORES: found.budget_cores, **found.limits}
    budget = ", ".join(in_words(name, most) for name, most in limits.items())
    yield f"Fleet of {counted(len(fleet.plans), 'pipeline')} on {budget}"
    # Other resources only where some plan has them.
    others = [name for name in fleet.held().amounts if name != CORES]
    yield table_of(
        zip(fleet.members, fleet.plans, strict=True),
        ViewColumn("pipeline", lambda row: row[1].pipeline),
        ViewColumn("λ rps", lambda row: row[1].rate_rps, "{:g}"),
        ViewColumn("class", lambda row: row[0].priority, "{}"),
        ViewColumn("weight", lambda row: row[0].weight, "{:g}"),
        ViewColumn("cores", lambda row: row[1].cost_cores, "{:g}"),
        *resource_columns(others, lambda row: row[1].resources),
        ViewColumn("PAS", lambda row: row[1].pas, "{:.4f}"),
        ViewColumn("objective", lambda row: row[1].objective, "{:.5g}"),
        ViewColumn("latency", lambda row: row[1].latency_s, "{:.3f} s"),
        ViewColumn("SLA", lambda row: row[1].sla_s, "{:.3f} s"),
        ViewColumn("plan", lambda row: Text("\n".join(str(config) for config in row[1].configs))),
        indent="  ",
    )
    yield (
        f"  {_of_budget(fleet.held(), limits)}, objectives times weights {found.worth:.6g} "
        f"{found.termination.value} ({found.solve_s * 1e3:.0f} ms)"
    )
    for each in found.classes:
        words = _prices(each)
        if each.gap > 0:
            gap = figure(each.gap, "gap {:.2%}") if isfinite(each.gap) else "no bound known"
            words += f"; the time ran out, {gap} (--deadline gives more)"
        if len(found.classes) > 1:
            held = _of_budget(fleet.held(each.priority), {})
            words = f"class {each.priority}: {held}, worth {each.worth:.6g}, {words}"
        yield f"  {words}"


def _of_budget(held: Resources, limits: Mapping[str, float]) -> str:
    """Every resource with its budget if it has one, such as "10 of 12 cores, 6 GiB of memory"."""
    names = dict.fromkeys((CORES, *limits, *held.amounts))
    of = {name: f"of {most:g}" for name, most in limits.items()}
    return ", ".join(in_words(name, round(held.amount(name), 9), of.get(name, "")) for name in names)


def _prices(each: ClassPlan) -> str:
    words = f"one more core is worth about {each.price:.3g}"
    return words + "".join(
        f", one {dimension(name).unit} more {price:.3g}" for name, price in each.prices.items()
    )
