"""Plans, fits, simulated runs and replays for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from math import isfinite
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ipa.cli.layout import UNKNOWN, ViewColumn, counted, date_time, figure, make_table, resource_columns
from ipa.cli.views.status_text import config_words
from ipa.model.parts import parts_of
from ipa.model.plan import Plan, cores_of
from ipa.model.resources import BESIDE_CORES, CORES, dimension, in_words
from ipa.optimize.explain import Explanation
from ipa.optimize.fleet.master import FleetPlan
from ipa.report.blocks import span, with_half

if TYPE_CHECKING:
    from ipa.profiling.findings import ProfileFinding
    from ipa.report.blocks import Table as ReportTable
    from ipa.simulate.run import SimResult


def plan_lines(plan: Plan) -> Iterator[RenderableType]:
    """Yield the stages of the plan, its predictions, and how the search ended."""
    head = f"Pipeline {plan.pipeline}   λ {plan.rate_rps:g} rps   SLA {plan.sla_s:.3f} s"
    yield f"{head}   objective {plan.objective_name}"
    gap = "" if plan.gap is None else f"gap {plan.gap:.1%}, "
    search = f"{gap}{plan.solver}, {plan.solve_s * 1e3:.0f} ms"
    if plan.stages:
        yield stage_table(plan)
        latency_s = plan.latency_s or 0.0
        beside = round((plan.cost_cores or 0.0) - sum(config.total_cores for config in plan.configs), 9)
        other = f" ({beside:g} beside the replicas)" if beside > 0 else ""
        held = plan.resources.amounts.items()
        other += "".join(f", {in_words(name, amount)}" for name, amount in held if name != CORES)
        price = plan.cost_usd_per_hour
        other += "" if price is None else f", {price:.4g} USD/h"
        yield (
            f"  PAS {plan.pas:.4f}   cost {cores_of(plan.cost_cores)}{other}   "
            f"latency {latency_s:.3f} s   headroom {1 - latency_s / plan.sla_s:.0%}"
        )
        yield f"  objective {plan.objective:.6g} {plan.termination.value} ({search})"
    else:
        yield f"  No plan: {plan.termination.value.replace('_', ' ')} ({search})."
        yield from (f"  Feasible with {move}." for move in plan.relaxations)
    yield from note_line(plan.note)


def note_line(note: str) -> list[str]:
    """The line with the remarks of a plan, such as how its solver was chosen."""
    return [f"  Note: {note}."] if note else []


def stage_table(plan: Plan) -> Table:
    """The configurations of the plan, one row for each stage."""
    # Other resources only if some stage has them.
    others = dict.fromkeys(name for stage in plan.stages for name in stage.beside.amounts)
    return make_table(
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


def explanation_lines(explained: Explanation) -> Iterator[RenderableType]:
    """Yield the plan with its reasons, its limits and the alternatives."""
    plan = explained.plan
    yield f"{plan.pipeline} at {plan.rate_rps:g} rps: {explained.summary}."
    if plan.stages:
        none = "no limit; without any one of them the plan is the same"
        none = none if explained.binding_complete else "none found in time"
        yield "Binding" if explained.binding else f"Binding: {none}"
        yield from (f"  {each.text}" for each in explained.binding)
        yield from _alternatives(explained)
    for remedy in explained.remedies:
        outcome, then = remedy.outcome, ""
        if outcome is not None:
            figures = f"PAS {outcome.pas:.4f}, {cores_of(outcome.cost_cores)}"
            then = f": {figures}, latency {outcome.latency_s:.3f} s"
        yield f"  Feasible with {remedy.text}{then}"
    if explained.unfinished:
        yield "Not found in time (--deadline gives more):"
        yield from (f"  {text}" for text in explained.unfinished)


def _alternatives(explained: Explanation) -> Iterator[RenderableType]:
    if not explained.alternatives:
        none = "no other variants fit the limits" if explained.alternatives_complete else "none in time"
        yield f"Alternatives: {none}"
        return
    yield "Alternatives with other variants, each the best with its variants"

    def change(heading: str, key: str, form: str) -> ViewColumn:
        # Rounding errors are 0, and 0 has no minus before it.
        return ViewColumn(heading, lambda each: round(getattr(each, key), 9) + 0.0, form)

    yield make_table(
        explained.alternatives,
        change("objective", "objective_change", "{:+.4g}"),
        change("PAS", "pas_change", "{:+.4f}"),
        change("cores", "cost_cores_change", "{:+.4g}"),
        change("latency", "latency_change_s", "{:+.3f} s"),
        ViewColumn("instead", lambda each: "; ".join(each.differences)),
        indent="  ",
    )


def fleet_lines(fleet: FleetPlan) -> Iterator[RenderableType]:
    """Yield a line for each pipeline, the sums, and the gain of one more unit of each limited resource."""
    limits = {CORES: fleet.budget_cores, **fleet.limits}
    budget = ", ".join(in_words(name, most) for name, most in limits.items())
    yield f"Fleet of {counted(len(fleet.members), 'pipeline')} on {budget}"
    # Other resources only if some plan has them.
    others = [name for name in fleet.held.amounts if name != CORES]
    yield make_table(
        fleet.members,
        ViewColumn("pipeline", lambda row: row.plan.pipeline),
        ViewColumn("λ rps", lambda row: row.plan.rate_rps, "{:g}"),
        ViewColumn("weight", "weight", "{:g}"),
        ViewColumn("cores", lambda row: row.plan.cost_cores, "{:g}"),
        *resource_columns(others, lambda row: row.plan.resources),
        ViewColumn("PAS", lambda row: row.plan.pas, "{:.4f}"),
        ViewColumn("objective", lambda row: row.plan.objective, "{:.5g}"),
        ViewColumn("latency", lambda row: row.plan.latency_s, "{:.3f} s"),
        ViewColumn("SLA", lambda row: row.plan.sla_s, "{:.3f} s"),
        ViewColumn("plan", lambda row: Text("\n".join(str(config) for config in row.plan.configs))),
        indent="  ",
    )
    # Every resource with its budget if it has one, such as "10 of 12 cores, 6 GiB of memory".
    names = dict.fromkeys((CORES, *limits, *fleet.held.amounts))
    of = {name: f"of {most:g}" for name, most in limits.items()}
    used = (in_words(name, round(fleet.held.amount(name), 9), of.get(name, "")) for name in names)
    yield (
        f"  {', '.join(used)}, objectives times weights {fleet.worth:.6g} "
        f"{fleet.termination.value} ({fleet.solve_s * 1e3:.0f} ms)"
    )
    words = f"one more core is worth about {fleet.price:.3g}"
    words += "".join(f", one {dimension(name).unit} more {price:.3g}" for name, price in fleet.prices.items())
    if fleet.gap > 0:
        gap = figure(fleet.gap, "gap {:.2%}") if isfinite(fleet.gap) else "no bound known"
        words += f"; the time ran out, {gap} (--deadline gives more)"
    yield f"  {words}"


# Places of a finding that are named; JSON has all of them.
FEW = 3


def fit_lines(
    pipeline: str, stages: Sequence[Mapping[str, Any]], findings: Sequence[ProfileFinding]
) -> Iterator[RenderableType]:
    """Yield the origin and the fits of each stage, then the findings."""
    for stage in stages:
        load = "" if stage["load_rps"] is None else f"   at a load of {stage['load_rps']:g} rps"
        source = f"   by {stage['source']}" if stage["source"] else ""
        ago = f"{counted(stage['age_days'], 'day')} ago" if stage["age_days"] else "today"
        yield f"Stage {pipeline}/{stage['stage']}   measured on {stage['measured_on']}, {ago}{source}"
        yield f"  on {stage['hardware']}{load}\n  {stage['method']}"
        yield make_table(
            stage["fits"],
            ViewColumn("variant", itemgetter("variant")),
            ViewColumn("accuracy", itemgetter("accuracy"), "{:.4g}"),
            ViewColumn("cores", itemgetter("cores"), "{:g}"),
            ViewColumn("batch", lambda row: _range(row["batch_min"], row["batch_max"]), "{}"),
            ViewColumn("R²", lambda row: "flat" if row["is_flat"] else row["r2_ratio"], "{:.2f}"),
            ViewColumn("error", itemgetter("max_error_ratio"), "{:.0%}"),
            ViewColumn("left out", itemgetter("loo_error_ratio"), "{:.0%}"),
            ViewColumn("latency ms", _latencies, "{}"),
            ViewColumn("rps", itemgetter("throughput_rps"), "{:.4g}"),
            indent="  ",
        )
    yield counted(len(findings), "finding") if findings else "No findings."
    together: dict[tuple[str, str], list[ProfileFinding]] = {}
    for finding in findings:
        together.setdefault((finding.stage, finding.kind), []).append(finding)
    for (stage_name, _), group in together.items():
        yield f"  {stage_name}: {group[0].topic}"
        yield from (f"    {words}" for words in map(_words, group) if words)
        yield f"    → {group[0].remedy}"


def _words(finding: ProfileFinding) -> str:
    more = len(finding.places) - FEW
    places = ", ".join(finding.places[:FEW]) + (f", and {more} more" if more > 0 else "")
    return ": ".join(part for part in (finding.variant, places) if part)


def _range(least: object, most: object) -> str:
    return f"{least}" if least == most else f"{least} to {most}"


def _latencies(row: Mapping[str, Any]) -> str:
    """The milliseconds of the smallest and the largest batch, with one more digit for small ones."""
    latencies_ms = (1000 * row["latencies_s"][at] for at in (0, -1))
    return _range(*(f"{each:.1f}" if each < 100 else f"{each:.0f}" for each in latencies_ms))


# Changes that are printed; -o json has all.
MOST_CHANGES = 12


def result_lines(first: SimResult, figures: Mapping[str, Any], repeats: int) -> Iterator[RenderableType]:
    """Yield the figures, then the last changes; with several seeds, the first seed's changes."""
    seeds = f"seed{'s' if repeats > 1 else ''} {span(first.seed, repeats)}"
    yield (
        f"Pipeline {first.pipeline}   policy {first.policy}   {seeds}   "
        f"{first.duration_s / 60:g} min   SLA {first.sla_s:.3g} s   world {figures['world']}"
    )
    count = ".1f" if repeats > 1 else "d"
    known = {f"{each.attribute}_mean": each.words for each in BESIDE_CORES}
    kinds = {key: key.removesuffix("_mean") for key in figures if "/" in key and key.endswith("_mean")}
    rows = {
        "requests": ("requests", count, "", 1),
        "violation_ratio": ("late or lost", ".2f", "%", 100),
        "lost": ("lost", count, "", 1),
        "latency_p50_s": ("latency p50", ".3f", " s", 1),
        "latency_p99_s": ("latency p99", ".3f", " s", 1),
        "pas_mean": ("PAS, mean over time", ".4f", "", 1),
        "cores_mean": ("cores, mean over time", ".2f", "", 1),
        **{key: (f"{words}, mean over time", ".2f", "", 1) for key, words in (known | kinds).items()},
        "usd_per_hour": ("cost, mean over time", ".3f", " USD/h", 1),
        "changes": ("changes", count, "", 1),
        **({"failed_ticks": ("ticks that failed", count, "", 1)} if figures["failed_ticks"] else {}),
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for key, (name, form, unit, scale) in rows.items():
        if key in figures:
            shown = with_half(figures[key], figures.get("intervals", {}).get(key), form, scale=scale)
            table.add_row(name, shown if figures[key] is None else f"{shown}{unit}")
    yield table
    changes = [tick for tick in first.ticks if tick.reason.startswith("apply.")]
    of_first = f" of seed {first.seed}" if repeats > 1 else ""
    if len(changes) > MOST_CHANGES:
        yield f"The last {MOST_CHANGES} of {len(changes)} changes{of_first}:"
    elif changes and of_first:
        yield f"The changes{of_first}:"
    for tick in changes[-MOST_CHANGES:]:
        yield f"  {tick.at_s:6.0f} s  {tick.reason:<22} {tick.configs}"


def as_table(table: ReportTable) -> Table:
    """A table of a report for the terminal."""
    shown = Table(*table.header)
    for at in range(table.texts, len(table.header)):
        shown.columns[at].justify = "right"
    for rows in table.groups:
        for row in rows:
            shown.add_row(*(cell.in_words for cell in row))
    return shown


# A decision and the result of its replay, as JSON values.
Pair = Mapping[str, Any]
# The outcome in a word or two, and its style.
WORDS = {"same": "same", "differs": "differs", "stale": "cannot be told", "nothing": "nothing to replay"}
STYLES = {"differs": "bold red", "stale": "yellow"}
# Differences that a line lists; the first ones are enough.
SHOWN = 2
# Figures of a plan: name, key and form.
FIGURES = (
    ("planned for", "rate_rps", "{:.4g} rps"),
    ("PAS", "pas", "{:.3f}"),
    ("cost", "cost_cores", "{:g} cores"),
    ("latency", "latency_s", "{:.3f} s"),
    ("objective", "objective", "{:.4f}"),
)


def listed(pairs: Sequence[Pair], policy: str | None) -> list[RenderableType]:
    """One line for each decision; for another policy only those that differ."""
    if not pairs:
        return ["no decisions yet"]
    counts = Counter(pair["replayed"]["outcome"] for pair in pairs)
    if policy is None:
        shown, heading = pairs, "taken again"
        outcomes = ", ".join(f"{counts[name]} {words}" for name, words in WORDS.items() if counts[name])
        head = f"{len(pairs)} decisions: {outcomes}"
    else:
        shown = [pair for pair in pairs if pair["replayed"]["outcome"] == "differs"]
        heading, taken = f"by {policy}", counts["same"] + counts["differs"]
        head = f"{policy} would have decided {counts['differs']} of {taken} differently, from the same inputs"
        head += _stale(pairs)
    table = make_table(
        shown,
        ViewColumn("at", lambda pair: date_time(pair["decision"]["at"])),
        ViewColumn("tick", lambda pair: pair["decision"]["tick"]),
        ViewColumn("reason", lambda pair: pair["decision"]["reason"]),
        ViewColumn("configuration", lambda pair: "  ".join(map(config_words, pair["decision"]["configs"]))),
        ViewColumn(
            heading, lambda pair: Text(_result(pair["replayed"]), STYLES.get(pair["replayed"]["outcome"], ""))
        ),
        ViewColumn("id", lambda pair: pair["decision"]["decision_id"]),
    )
    return [*([table] if shown else []), head, *_notes(pairs)]


def parted_nowhere(pairs: Sequence[Pair], policy: str) -> list[RenderableType]:
    """The message that two policies made the same decisions."""
    same = sum(pair["replayed"]["outcome"] == "same" for pair in pairs)
    words = f"{policy} decides the same in all {same} decisions that could be replayed"
    return [words + _stale(pairs), *_notes(pairs)]


def detail(pair: Pair) -> list[RenderableType]:
    """One decision: its outcome, every difference, and both plans."""
    decision, replayed = pair["decision"], pair["replayed"]
    head = f"{decision['decision_id']} at {date_time(decision['at'])}, tick {decision['tick']}"
    policy = f" by {replayed['policy']}" if replayed["policy"] else ""
    lines: list[RenderableType] = [
        f"{head}: {decision['reason']}: {decision['detail']}",
        f"replayed{policy}: {_result(replayed)}",
    ]
    again = replayed["again"]
    if replayed["outcome"] == "differs":
        headings = {"what": "what differs", "recorded": "recorded", "again": "taken again"}
        columns = [ViewColumn(heading, key) for key, heading in headings.items()]
        lines.append(f"then: {again['reason']}: {again['detail']}")
        lines.append(make_table(replayed["differences"], *columns, indent="  "))
    if again is not None and (decision["plan"] or again["plan"]):
        plans = decision["plan"], again["plan"]
        stages = zip_longest(*(plan["stages"] if plan else [] for plan in plans))
        rows: list[tuple[Any, ...]] = [
            ((one or other)["stage"], _stage(one), _stage(other)) for one, other in stages
        ]
        rows += [(name, *(figure(plan and plan[key], form) for plan in plans)) for name, key, form in FIGURES]
        sides = ("plan", "recorded", f"by {replayed['policy']}")
        compared = [ViewColumn(heading, itemgetter(at)) for at, heading in enumerate(sides)]
        lines.append(make_table(rows, *compared, indent="  "))
    return [*lines, *_notes([pair])]


def _stage(stage: dict[str, Any] | None) -> str:
    return config_words(stage).partition("=")[2] if stage else UNKNOWN


def _result(replayed: dict[str, Any]) -> str:
    outcome = replayed["outcome"]
    if outcome != "differs":
        return WORDS[outcome] + (f": {replayed['why']}" if replayed["why"] else "")
    differences = replayed["differences"]
    words = [f"{each['what']} {each['recorded']} → {each['again']}" for each in differences[:SHOWN]]
    more = f" and {len(differences) - SHOWN} more" if len(differences) > SHOWN else ""
    return f"differs: {', '.join(words)}{more}"


def _stale(pairs: Sequence[Pair]) -> str:
    """The decisions that could not be replayed, with their reasons."""
    whys = [pair["replayed"]["why"] for pair in pairs if pair["replayed"]["outcome"] == "stale"]
    return f"; of {len(whys)} it cannot be told: {'; '.join(dict.fromkeys(whys))}" if whys else ""


def _notes(pairs: Sequence[Pair]) -> list[RenderableType]:
    """The differences, each once with its count."""
    counts = Counter(note for pair in pairs for note in pair["replayed"]["notes"])
    return [Text(f"note: {note}" + (f" ({many} times)" if many > 1 else "")) for note, many in counts.items()]
