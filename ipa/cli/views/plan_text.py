"""Plans as tables for people: a plan, a change, a mixture, a set, a frontier, an explanation, a fleet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isfinite
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ipa.cli.views.status_text import bare_table
from ipa.model.plan import Plan, StageConfig, Termination, cores_of
from ipa.model.resources import CORES, Resources, heading_of, in_column, in_words, unit_of
from ipa.optimize.change import PlanTransition, StageChange
from ipa.optimize.explanation import Alternative, Explanation, Flip, LimitSlack
from ipa.optimize.fleet.plan import ClassPlan, Fleet
from ipa.optimize.frontier import FrontierPoint
from ipa.optimize.mixture.mixtures import Mixture
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


def print_plan(plan: Plan, console: Console) -> None:
    """Print the stages of the plan, its predictions, and how the search ended."""
    print_line(console, _head(plan))
    if not plan.stages:
        _print_none(console, plan)
        return
    console.print(stage_table(plan))
    print_line(console, f"  {_outcome(plan)}")
    print_line(console, f"  {_search(plan)}")
    for line in note_line(plan.note):
        print_line(console, line)


def _head(plan: Plan) -> str:
    head = f"Pipeline {plan.pipeline}   λ {plan.rate_rps:g} rps   SLA {plan.sla_s:.3f} s"
    return f"{head}   objective {plan.objective_name}"


def print_sweep(plans: Sequence[Plan], console: Console) -> None:
    """Print one line for each plan."""
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
    """Print the text on one line, without markup."""
    console.print(Text(text.rstrip()))


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


def _print_none(console: Console, plan: Plan) -> None:
    words = plan.termination.value.replace("_", " ")
    print_line(console, f"  No plan: {words} ({plan.solver}, {plan.solve_s * 1e3:.0f} ms).")
    for move in plan.relaxations:
        print_line(console, f"  Feasible with {move}.")
    for line in note_line(plan.note):
        print_line(console, line)


def print_change(change: PlanTransition, out: Console) -> None:
    """Print the stages that change, and the cores before, at the peak and after."""
    if not change.stages:
        print_line(out, f"  Change: none, {_held(change.after)} run as planned.")
        return
    stages = "1 stage" if len(change.stages) == 1 else f"{len(change.stages)} stages"
    print_line(out, f"  Change: {stages}, {_held(change.started)} to start.")
    for stage in change.stages:
        print_line(out, f"    {_words(stage)}")
    at = change.before, change.after, change.peak
    meanwhile = "while old and new replicas run side by side"
    for name in dict.fromkeys((CORES, *change.peak.amounts)):
        before, after, peak = (held.amount(name) for held in at)
        print_line(out, f"    {heading_of(name)} {before:g} → {after:g}, {peak:g} {meanwhile}")
        meanwhile = "meanwhile"
    if change.prices.is_money:
        before, after, peak = map(change.prices.cost, at)
        print_line(out, f"    USD/h {before:.4g} → {after:.4g}, {peak:.4g} meanwhile")


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


def gains(mixture: Mixture) -> bool:
    """True if several configurations are better than one."""
    return len(mixture.parts) > 1


def mixture_values(mixture: Mixture) -> dict[str, Any]:
    """The best single plan as JSON values, with the mixture; null if the mixture is no better."""
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
    """Print the single plan if it is the best, else each part of the mixture and its gain."""
    single = mixture.single
    if not gains(mixture):
        print_plan(single, out)
        if mixture.parts and not mixture.note:
            print_line(out, f"  No mixture of up to {predictors} configurations is worth more.")
        return
    print_line(out, f"{_head(single)}   a mixture of {len(mixture.parts)} configurations")
    for part in mixture.parts:
        plan = part.plan
        print_line(
            out,
            f"  {part.share_percent} % of the requests, {plan.rate_rps:.4g} rps   PAS {plan.pas:.4f}   "
            f"cost {cores_of(plan.cost_cores)}   latency {plan.latency_s:.3f} s",
        )
        out.print(stage_table(plan))
    if single.stages:
        print_line(out, "  Beside the best single plan:")
        print_line(
            out,
            f"  objective {single.objective:.6g} → {mixture.objective:.6g} (+{mixture.gain:.3g})   "
            f"PAS {single.pas:.4f} → {mixture.mean_pas:.4f}   "
            f"cost {single.cost_cores:g} → {cores_of(mixture.cost_cores)}",
        )
    else:
        print_line(
            out,
            f"  objective {mixture.objective:.6g}   PAS {mixture.mean_pas:.4f}   "
            f"cost {cores_of(mixture.cost_cores)}   No single plan is feasible.",
        )
    print_line(out, f"  {mixture.termination.value} ({mixture.solve_s * 1e3:.0f} ms)")
    for line in note_line(mixture.note):
        print_line(out, line)


def print_set(found: PipelineSet, out: Console) -> None:
    """Print the variants of the set, their cores and shares, and the limits of the set."""
    asked, plan = found.asked, found.plan
    print_line(
        out,
        f"Pipeline {plan.task}   λ {plan.rate_rps:g} rps   SLA {asked.sla_s:.3f} s   "
        f"objective {asked.objective_name}   a set of variants on {asked.problem.budget_in_words} "
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
                f"{asked.problem.budget_in_words} carry {most_rps:.4g} rps at most.",
            )
        return
    out.print(_parts(found))
    price = "" if plan.cost_usd_per_hour is None else f", {plan.cost_usd_per_hour:.4g} USD/h"
    print_line(out, f"  mean accuracy {plan.mean_accuracy:.4f}   cost {cores_of(plan.cost_cores)}{price}")
    gap = "" if plan.gap is None else f"gap {plan.gap:.1%}, "
    print_line(out, f"  objective {plan.objective:.6g} {plan.termination.value} ({gap}{search})")
    for limit in plan.binding:
        print_line(out, f"  Limit: {limit}.")
    for line in note_line(plan.note):
        print_line(out, line)


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


def print_frontier(plan: Plan, points: Sequence[FrontierPoint], console: Console) -> None:
    """Print the plans that are optimal in accuracy and cost, a star at the plan of the objective."""
    print_line(console, _head(plan))
    if not points:
        print_line(console, f"  No plan: {plan.termination.value.replace('_', ' ')}.")
        for move in plan.relaxations:
            print_line(console, f"  Feasible with {move}.")
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
    console.print(table)
    if starred is None:
        print_line(
            console,
            f"  The chosen plan is not in this list: {_figures(plan)}; its objective counts more than these.",
        )
    else:
        print_line(console, "  * the accuracy and cost of the plan that the objective chooses")
    if len(points) > len(shown):
        others = "the others cost more or are less accurate, but faster (-o json has all)"
        print_line(console, f"  {len(shown)} of {len(points)} plans: {others}")


def _figures(plan: Plan) -> str:
    price = "" if plan.cost_usd_per_hour is None else f"{plan.cost_usd_per_hour:.4g} USD/h, "
    return f"PAS {plan.pas:.4f}, {price}{cores_of(plan.cost_cores)}, {plan.latency_s:.3f} s"


def nearest(plan: Plan, points: Sequence[FrontierPoint]) -> FrontierPoint | None:
    """The point with the plan's accuracy and cost; None if there is none."""
    assert plan.pas is not None and plan.cost is not None
    for point in points:
        if abs(point.pas - plan.pas) < 1e-9 and abs(point.cost - plan.cost) < 1e-9:
            return point
    return None


def print_explanation(explained: Explanation, console: Console) -> None:
    """Print the plan with its reasons, its limits, the alternatives, and the rates at which it changes."""
    plan = explained.plan
    print_line(console, f"{plan.pipeline} at {plan.rate_rps:g} rps: {explained.summary}.")
    if plan.stages:
        _binding(console, explained)
        _alternatives(console, explained)
        _flips(console, explained)
        if explained.stricter is not None:
            print_line(console, f"Stricter SLA\n  {explained.stricter.text}")
    for other in explained.elsewhere:
        print_line(console, f"Elsewhere\n  {other.text}")
    for remedy in explained.remedies:
        outcome = remedy.outcome
        then = "" if outcome is None else f": PAS {outcome.pas:.4f}, {cores_of(outcome.cost_cores)}"
        then += "" if outcome is None else f", latency {outcome.latency_s:.3f} s"
        print_line(console, f"  Feasible with {remedy.text}{then}")
    if explained.unfinished:
        print_line(console, "Not found in time (--deadline gives more):")
        for text in explained.unfinished:
            print_line(console, f"  {text}")


def _binding(console: Console, explained: Explanation) -> None:
    if explained.binding:
        print_line(console, "Binding")
    elif explained.binding_complete:
        print_line(console, "Binding: no limit; without any one of them the plan is the same")
    else:
        print_line(console, "Binding: none found in time")
    for binding in explained.binding:
        print_line(console, f"  {binding.text}")
    for price in explained.prices:
        print_line(console, f"  {price.text}")
    print_line(console, "Slack")
    for text in _slack(explained.limits):
        print_line(console, f"  {text}")


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


def _alternatives(console: Console, explained: Explanation) -> None:
    if not explained.alternatives:
        none = "no other variants fit the limits" if explained.alternatives_complete else "none in time"
        print_line(console, f"Alternatives: {none}")
        return
    print_line(console, "Alternatives with other variants, each the best with its variants")
    table = bare_table(right=("  objective", "PAS", "cores", "latency"), last=("lost because", "instead"))
    for each in explained.alternatives:
        table.add_row(*_row(each))
    console.print(table)


def _row(each: Alternative) -> tuple[Text, ...]:
    words = (
        f"  {_rounded(each.objective_change):+.4g}",
        f"{_rounded(each.pas_change):+.4f}",
        f"{_rounded(each.cost_cores_change):+.4g}",
        f"{_rounded(each.latency_change_s):+.3f} s",
        each.why,
        "; ".join(each.differences),
    )
    return tuple(Text(word) for word in words)


def _rounded(change: float) -> float:
    """The change, with rounding errors as 0 and without a minus before 0."""
    return round(change, 9) + 0.0


def _flips(console: Console, explained: Explanation) -> None:
    if not (explained.flips or explained.unchanged):
        return
    print_line(console, f"Changes at (each to within {explained.precision_ratio:.2%})")
    for text in _points(explained.flips):
        print_line(console, f"  {text}")
    for text in explained.unchanged:
        print_line(console, f"  {text}")


def _points(flips: Sequence[Flip]) -> Iterator[str]:
    """Each point once, with the largest of the changes there."""
    largest: dict[tuple[str, str, float], Flip] = {}
    for flip in flips:
        largest[flip.quantity, flip.direction, flip.changed_at] = flip
    for flip in largest.values():
        yield flip.text


def print_fleet(fleet: Fleet, out: Console) -> None:
    """Print a line for each pipeline, the sums, and the gain of one unit more of each limited resource."""
    found = fleet.found
    count = "1 pipeline" if len(fleet.plans) == 1 else f"{len(fleet.plans)} pipelines"
    limits = {CORES: found.budget_cores, **found.limits}
    budget = ", ".join(in_words(name, most) for name, most in limits.items())
    print_line(out, f"Fleet of {count} on {budget}")
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
            words += f"; the time ran out, {gap} (--deadline gives more)"
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
