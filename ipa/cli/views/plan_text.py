"""Plans as tables for people: a plan, a change, a set, a frontier, an explanation, a fleet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ipa.cli.views.status_text import bare_table
from ipa.model.plan import Plan, StageConfig, Termination, cores_of
from ipa.model.resources import CORES, Resources, heading_of, in_column, in_words, unit_of
from ipa.optimize.change import PlanTransition, StageChange
from ipa.optimize.explanation import Explanation, LimitSlack
from ipa.optimize.fleet.master import ClassPlan
from ipa.optimize.fleet.plan import Fleet
from ipa.optimize.frontier import FrontierPoint
from ipa.optimize.problem import Compat
from ipa.policies.setplanning import PipelineSet
from ipa.report.frontier_plot import accuracy_cost

MEANS = {Compat.PAPER: "capacity as measured", Compat.TAIL: "capacity within the SLA by the tail's formula"}
# Limits of stages are printed if less than this share of them is left.
NEAR = 0.1
LIMIT_NAMES = {
    "sla": "SLA",
    "throughput": "throughput",
    "cores": "core budget",
    "memory": "memory",
    "front": "cores that router and queues leave",
    "max_cost_cores": "cost ceiling",
    "accuracy_floor": "accuracy floor",
    "max_replicas": "most replicas",
    "min_replicas": "least replicas",
    "batch_size": "largest batch",
}


def note_line(note: str) -> list[str]:
    """The line with the remarks of a plan: how its solver was chosen, and what else is to be known."""
    return [f"  Note: {note}."] if note else []


def plan_lines(plan: Plan) -> Iterator[RenderableType]:
    """Yield the stages of the plan, its predictions, and how the search ended."""
    yield _head(plan)
    if plan.stages:
        yield stage_table(plan)
        yield f"  {_outcome(plan)}"
        yield f"  {_search(plan)}"
    else:
        words = plan.termination.value.replace("_", " ")
        yield f"  No plan: {words} ({plan.solver}, {plan.solve_s * 1e3:.0f} ms)."
        yield from _remedies(plan)
    yield from note_line(plan.note)


def _remedies(plan: Plan) -> Iterator[str]:
    return (f"  Feasible with {move}." for move in plan.relaxations)


def _head(plan: Plan) -> str:
    head = f"Pipeline {plan.pipeline}   λ {plan.rate_rps:g} rps   SLA {plan.sla_s:.3f} s"
    return f"{head}   objective {plan.objective_name}"


def sweep_lines(plans: Sequence[Plan]) -> Iterator[RenderableType]:
    """Yield one line for each plan."""
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
    yield table


def stage_table(plan: Plan) -> Table:
    """The configurations of the plan, one row for each stage."""
    # Other resources only where some stage has them.
    others = list(dict.fromkeys(name for stage in plan.stages for name in stage.beside.amounts))
    figures = ("batch", "replicas", "cores", *others, "latency", "wait", "share of SLA", "ρ")
    table = bare_table("  stage", "variant", right=figures)
    for stage in plan.stages:
        beside = stage.beside * stage.replicas
        table.add_row(
            Text(f"  {stage.stage}"),
            Text(stage.variant),
            str(stage.batch_size),
            str(stage.replicas),
            f"{stage.config.total_cores:g}",
            *(in_column(name, beside.amount(name)) for name in others),
            f"{stage.latency_s:.3f} s",
            f"{stage.queue_delay_s:.3f} s",
            f"{(stage.latency_s + stage.queue_delay_s) / plan.sla_s:.0%}",
            f"{stage.utilisation_ratio:.2f}",
        )
    return table


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
        f"PAS {plan.pas:.4f}   cost {cores_of(plan.cost_cores)}{other}   latency {latency_s:.3f} s   "
        f"headroom {1 - latency_s / plan.sla_s:.0%}"
    )


def _search(plan: Plan) -> str:
    gap = "" if plan.gap is None else f"gap {plan.gap:.1%}, "
    took = f"{gap}{plan.solver}, {plan.solve_s * 1e3:.0f} ms"
    return f"objective {plan.objective:.6g} {plan.termination.value} ({took})"


def change_lines(change: PlanTransition) -> Iterator[RenderableType]:
    """Yield the stages that change, and the cores before, at the peak and after."""
    if not change.stages:
        yield f"  Change: none, {_held(change.after)} run as planned."
        return
    stages = "1 stage" if len(change.stages) == 1 else f"{len(change.stages)} stages"
    yield f"  Change: {stages}, {_held(change.started)} to start."
    for stage in change.stages:
        yield f"    {_words(stage)}"
    at = change.before, change.after, change.peak
    meanwhile = "while old and new replicas run side by side"
    for name in dict.fromkeys((CORES, *change.peak.amounts)):
        before, after, peak = (held.amount(name) for held in at)
        yield f"    {heading_of(name)} {before:g} → {after:g}, {peak:g} {meanwhile}"
        meanwhile = "meanwhile"
    if change.prices.is_money:
        before, after, peak = map(change.prices.cost, at)
        yield f"    USD/h {before:.4g} → {after:.4g}, {peak:.4g} meanwhile"


def _held(held: Resources) -> str:
    """The resources in words, beginning with the cores even if there are none."""
    others = (in_words(name, amount) for name, amount in held.amounts.items() if name != CORES)
    return ", ".join((in_words(CORES, held.cpu_cores), *others))


def _words(change: StageChange) -> str:
    before, after = change.before, change.after
    if before is None:
        return f"{change.stage}: {_config(after)} (not known what runs)"
    if change.only_replicas:
        pod = f"{after.variant} b{after.batch_size} on {cores_of(after.cores)}"
        return f"{change.stage}: {before.replicas} → {after.replicas} replicas of {pod}"
    how = ", in place" if change.is_in_place else ""
    return f"{change.stage}: {_config(before)} → {_config(after)}{how}"


def _config(config: StageConfig) -> str:
    return f"{config.variant} b{config.batch_size} {config.replicas}×{cores_of(config.cores)}"


def set_lines(found: PipelineSet) -> Iterator[RenderableType]:
    """Yield the variants of the set, their cores and shares, and the limits of the set."""
    asked, plan = found.asked, found.plan
    yield (
        f"Pipeline {plan.task}   λ {plan.rate_rps:g} rps   SLA {asked.sla_s:.3f} s   "
        f"objective {asked.objective_name}   a set of variants on {asked.problem.budget_in_words} "
        f"at most, {MEANS[asked.compat]}"
    )
    search = f"{plan.solver}, {plan.solve_s * 1e3:.0f} ms"
    if not plan.parts:
        yield f"  No set: {plan.termination.value.replace('_', ' ')} ({search})."
        if plan.termination is Termination.INFEASIBLE:
            most_rps = plan.rate_rps - plan.missing_rps
            yield (
                f"  {plan.missing_rps:.4g} of {plan.rate_rps:g} rps are missing: "
                f"{asked.problem.budget_in_words} carry {most_rps:.4g} rps at most."
            )
        return
    yield _parts(found)
    price = "" if plan.cost_usd_per_hour is None else f", {plan.cost_usd_per_hour:.4g} USD/h"
    yield f"  mean accuracy {plan.mean_accuracy:.4f}   cost {cores_of(plan.cost_cores)}{price}"
    gap = "" if plan.gap is None else f"gap {plan.gap:.1%}, "
    yield f"  objective {plan.objective:.6g} {plan.termination.value} ({gap}{search})"
    for limit in plan.binding:
        yield f"  Limit: {limit}."
    yield from note_line(plan.note)


def _parts(found: PipelineSet) -> Table:
    figures = ("accuracy", "cores", "batch", "quota", "share", "capacity")
    table = bare_table("  variant", right=figures, pad_edge=False)
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


def frontier_lines(plan: Plan, points: Sequence[FrontierPoint]) -> Iterator[RenderableType]:
    """Yield the plans that are optimal in accuracy and cost, a star at the plan of the objective."""
    yield _head(plan)
    if not points:
        yield f"  No plan: {plan.termination.value.replace('_', ' ')}."
        yield from _remedies(plan)
        return
    shown = accuracy_cost(points)
    price = ("USD/h",) if plan.cost_usd_per_hour is not None else ()
    table = bare_table(right=("  PAS", *price, "cores", "latency", "objective"), last=("configuration",))
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
    yield table
    if starred is None:
        usd = "" if plan.cost_usd_per_hour is None else f"{plan.cost_usd_per_hour:.4g} USD/h, "
        figures = f"PAS {plan.pas:.4f}, {usd}{cores_of(plan.cost_cores)}, {plan.latency_s:.3f} s"
        yield f"  The chosen plan is not in this list: {figures}; its objective counts more than these."
    else:
        yield "  * the accuracy and cost of the plan that the objective chooses"
    if len(points) > len(shown):
        others = "the others cost more or are less accurate, but faster (-o json has all)"
        yield f"  {len(shown)} of {len(points)} plans: {others}"


def nearest(plan: Plan, points: Sequence[FrontierPoint]) -> FrontierPoint | None:
    """The point with the plan's accuracy and cost; None if there is none."""
    assert plan.pas is not None and plan.cost is not None
    for point in points:
        if abs(point.pas - plan.pas) < 1e-9 and abs(point.cost - plan.cost) < 1e-9:
            return point
    return None


def explanation_lines(explained: Explanation) -> Iterator[RenderableType]:
    """Yield the plan with its reasons, its limits, the alternatives, and the rates at which it changes."""
    plan = explained.plan
    yield f"{plan.pipeline} at {plan.rate_rps:g} rps: {explained.summary}."
    if plan.stages:
        yield from _binding(explained)
        yield from _alternatives(explained)
        yield from _flips(explained)
        if explained.stricter is not None:
            yield f"Stricter SLA\n  {explained.stricter.text}"
    for other in explained.elsewhere:
        yield f"Elsewhere\n  {other.text}"
    for remedy in explained.remedies:
        outcome = remedy.outcome
        then = "" if outcome is None else f": PAS {outcome.pas:.4f}, {cores_of(outcome.cost_cores)}"
        then += "" if outcome is None else f", latency {outcome.latency_s:.3f} s"
        yield f"  Feasible with {remedy.text}{then}"
    if explained.unfinished:
        yield "Not found in time (--deadline gives more):"
        for text in explained.unfinished:
            yield f"  {text}"


def _binding(explained: Explanation) -> Iterator[RenderableType]:
    if explained.binding:
        yield "Binding"
    elif explained.binding_complete:
        yield "Binding: no limit; without any one of them the plan is the same"
    else:
        yield "Binding: none found in time"
    yield from (f"  {binding.text}" for binding in explained.binding)
    yield from (f"  {price.text}" for price in explained.prices)
    yield "Slack"
    yield from (f"  {text}" for text in _slack(explained.limits))


def _slack(limits: Sequence[LimitSlack]) -> Iterator[str]:
    """Limits of sums one by one, the headroom of all stages in one line, and near limits of stages."""
    sums = ("sla", "cores", "memory", "front", "max_cost_cores", "accuracy_floor")
    several = sum(limit.kind == "sla" for limit in limits) > 1
    for limit in limits:
        where = f" along {limit.where}" if limit.where and (several or limit.kind != "sla") else ""
        if limit.kind in sums:
            yield f"{LIMIT_NAMES[limit.kind]}{where}: {_used(limit)}"
    headroom = [f"{each.where} {each.slack_ratio:.0%}" for each in limits if each.kind == "throughput"]
    yield f"throughput headroom (1 − ρ): {', '.join(headroom)}"
    for limit in limits:
        if limit.kind not in (*sums, "throughput") and limit.slack_ratio < NEAR:
            yield f"{LIMIT_NAMES[limit.kind]} of {limit.where}: {_used(limit)}"


def _used(limit: LimitSlack) -> str:
    of = f"{limit.used:.4g} of {limit.limit:.4g} {limit.unit}"
    return f"{of}, {limit.slack:.4g} {limit.unit} ({limit.slack_ratio:.1%}) to spare"


def _alternatives(explained: Explanation) -> Iterator[RenderableType]:
    if not explained.alternatives:
        none = "no other variants fit the limits" if explained.alternatives_complete else "none in time"
        yield f"Alternatives: {none}"
        return
    yield "Alternatives with other variants, each the best with its variants"
    table = bare_table(right=("  objective", "PAS", "cores", "latency"), last=("lost because", "instead"))
    for each in explained.alternatives:
        table.add_row(
            f"  {_rounded(each.objective_change):+.4g}",
            f"{_rounded(each.pas_change):+.4f}",
            f"{_rounded(each.cost_cores_change):+.4g}",
            f"{_rounded(each.latency_change_s):+.3f} s",
            Text(each.why),
            Text("; ".join(each.differences)),
        )
    yield table


def _rounded(change: float) -> float:
    """The change, with rounding errors as 0 and without a minus before 0."""
    return round(change, 9) + 0.0


def _flips(explained: Explanation) -> Iterator[RenderableType]:
    if not (explained.flips or explained.unchanged):
        return
    yield f"Changes at (each to within {explained.precision_ratio:.2%})"
    # Each point once, with the largest of the changes there.
    largest = {(each.quantity, each.direction, each.changed_at): each for each in explained.flips}
    yield from (f"  {text}" for text in (*(each.text for each in largest.values()), *explained.unchanged))


def fleet_lines(fleet: Fleet) -> Iterator[RenderableType]:
    """Yield a line for each pipeline, the sums, and the gain of one unit more of each limited resource."""
    found = fleet.found
    count = "1 pipeline" if len(fleet.plans) == 1 else f"{len(fleet.plans)} pipelines"
    limits = {CORES: found.budget_cores, **found.limits}
    budget = ", ".join(in_words(name, most) for name, most in limits.items())
    yield f"Fleet of {count} on {budget}"
    yield _table(fleet)
    yield (
        f"  {_of_budget(fleet.held(), limits)}, objectives times weights {found.worth:.6g} "
        f"{found.termination.value} ({found.solve_s * 1e3:.0f} ms)"
    )
    for each in found.classes:
        words = _prices(each)
        if each.gap > 0:
            gap = f"gap {each.gap:.2%}" if isfinite(each.gap) else "no bound known"
            words += f"; the time ran out, {gap} (--deadline gives more)"
        if len(found.classes) > 1:
            held = fleet.held(each.priority)
            words = f"class {each.priority}: {_of_budget(held, {})}, worth {each.worth:.6g}, {words}"
        yield f"  {words}"


def _of_budget(held: Resources, limits: Mapping[str, float]) -> str:
    """Every resource with its budget if it has one, such as "10 of 12 cores, 6 GiB of memory"."""
    names = dict.fromkeys((CORES, *limits, *held.amounts))
    of = {name: f"of {most:g}" for name, most in limits.items()}
    return ", ".join(in_words(name, round(held.amount(name), 9), of.get(name, "")) for name in names)


def _prices(each: ClassPlan) -> str:
    words = f"one more core is worth about {each.price:.3g}"
    return words + "".join(f", one {unit_of(name)} more {price:.3g}" for name, price in each.prices.items())


def _table(fleet: Fleet) -> Table:
    # Other resources only where some plan has them.
    others = [name for name in fleet.held().amounts if name != CORES]
    figures = ("λ rps", "class", "weight", "cores", *others, "PAS", "objective", "latency", "SLA")
    table = bare_table("  pipeline", right=figures, last=("plan",))
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
