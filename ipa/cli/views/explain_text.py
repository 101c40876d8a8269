"""An explanation as text for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ipa.cli.views.plan_text import print_line
from ipa.optimize.explanation import Alternative, Explanation, Flip, LimitSlack

# Limits of stages are printed if less than this share of them is left.
NEAR = 0.1
NAMES = {
    "sla": "SLA",
    "throughput": "throughput",
    "cores": "core budget",
    "memory": "memory",
    "max_cost_cores": "cost ceiling",
    "accuracy_floor": "accuracy floor",
    "max_replicas": "most replicas",
    "min_replicas": "least replicas",
    "batch_size": "largest batch",
}


def print_explanation(explained: Explanation, console: Console) -> None:
    """Print the plan with its reasons, its limits, the alternatives, and the rates at which it changes."""
    plan = explained.plan
    print_line(console, f"{plan.pipeline} at {plan.rate_rps:g} rps: {explained.summary}.")
    if plan.stages:
        _binding(console, explained)
        _alternatives(console, explained)
        _flips(console, explained)
    for remedy in explained.remedies:
        outcome = remedy.outcome
        then = "" if outcome is None else f": PAS {outcome.pas:.4f}, {outcome.cost_cores:g} cores"
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
        print_line(console, "Binding: no limit; without any of them it is the same")
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
    sums = ("sla", "cores", "memory", "max_cost_cores", "accuracy_floor")
    several = sum(limit.kind == "sla" for limit in limits) > 1
    for limit in limits:
        where = f" along {limit.where}" if limit.where and (several or limit.kind != "sla") else ""
        if limit.kind in sums:
            yield f"{NAMES[limit.kind]}{where}: {_used(limit)}"
    headroom = [f"{each.where} {each.slack_ratio:.0%}" for each in limits if each.kind == "throughput"]
    yield f"throughput headroom (1 − ρ): {', '.join(headroom)}"
    for limit in limits:
        if limit.kind not in (*sums, "throughput") and limit.slack_ratio < NEAR:
            yield f"{NAMES[limit.kind]} of {limit.where}: {_used(limit)}"


def _used(limit: LimitSlack) -> str:
    of = f"{limit.used:.4g} of {limit.limit:.4g} {limit.unit}"
    return f"{of}, {limit.slack:.4g} {limit.unit} ({limit.slack_ratio:.1%}) to spare"


def _alternatives(console: Console, explained: Explanation) -> None:
    if not explained.alternatives:
        none = (
            "no other variants are within the limits" if explained.alternatives_complete else "none in time"
        )
        print_line(console, f"Alternatives: {none}")
        return
    print_line(console, "Alternatives of other variants, each the best of its variants")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("  objective", "PAS", "cores", "latency"):
        table.add_column(heading, justify="right")
    table.add_column("lost because")
    table.add_column("instead")
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
    print_line(console, f"Changes at (each found to {explained.precision_ratio:.2%})")
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
