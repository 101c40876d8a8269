"""Replayed decisions for people: one line each, or one decision with both plans side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import zip_longest
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from ipa.cli.views.status_text import bare_table, config_words
from ipa.cli.views.times import date_time

Pair = dict[str, Any]
# The outcome in a word or two.
WORDS = {"same": "same", "differs": "differs", "stale": "cannot be told", "nothing": "nothing to replay"}
# Differences that a line lists; the first ones are enough.
SHOWN = 2
# Figures of a plan: name, key, format and unit.
FIGURES = (
    ("planned for", "rate_rps", ".4g", " rps"),
    ("PAS", "pas", ".3f", ""),
    ("cost", "cost_cores", "g", " cores"),
    ("latency", "latency_s", ".3f", " s"),
    ("objective", "objective", ".4f", ""),
)


def listed(found: Sequence[Pair], policy: str | None) -> list[RenderableType]:
    """One line for each decision; for another policy only those that differ."""
    if not found:
        return ["no decisions yet"]
    counts = Counter(pair["replayed"]["outcome"] for pair in found)
    if policy is None:
        said = ", ".join(f"{counts[name]} {words}" for name, words in WORDS.items() if counts[name])
        return [_same_table(found), f"{len(found)} decisions: {said}", *_notes(found)]
    taken = counts["same"] + counts["differs"]
    head = f"{policy} would have decided {counts['differs']} of {taken} differently, from the same inputs"
    if counts["stale"]:
        head += f"; of {counts['stale']} it cannot be told: {_why(found, 'stale')}"
    parted = [pair for pair in found if pair["replayed"]["outcome"] == "differs"]
    return [*([_other_table(parted, policy)] if parted else []), head, *_notes(found)]


def parted_nowhere(found: Sequence[Pair], policy: str) -> list[RenderableType]:
    """The message that two policies decide alike."""
    counts = Counter(pair["replayed"]["outcome"] for pair in found)
    words = f"{policy} decides the same in all {counts['same']} decisions that could be replayed"
    if counts["stale"]:
        words += f"; of {counts['stale']} it cannot be told: {_why(found, 'stale')}"
    return [words, *_notes(found)]


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
        lines += [f"then: {again['reason']}: {again['detail']}", _differences(replayed)]
    if again is not None and (decision["plan"] or again["plan"]):
        lines.append(_plans(decision["plan"], again["plan"], replayed["policy"]))
    return [*lines, *_notes([pair])]


def _same_table(found: Sequence[Pair]) -> RenderableType:
    table = bare_table("at", "tick", "reason", "configuration", "taken again", "id")
    for pair in found:
        each, replayed = pair["decision"], pair["replayed"]
        configs = "  ".join(config_words(config) for config in each["configs"])
        cells = (date_time(each["at"]), str(each["tick"]), each["reason"], configs, _result(replayed))
        style = {"differs": "bold red", "stale": "yellow"}.get(replayed["outcome"], "")
        row = [Text(cell) for cell in (*cells, each["decision_id"])]
        row[4].stylize(style)
        table.add_row(*row)
    return table


def _other_table(found: Sequence[Pair], policy: str) -> RenderableType:
    table = bare_table("at", "decided", "cores", "PAS", f"{policy} would", "cores", "PAS", "and run", "id")
    for column in (2, 3, 5, 6):
        table.columns[column].justify = "right"
    for pair in found:
        each, again = pair["decision"], pair["replayed"]["again"]
        plan = again["plan"]
        wanted = plan["stages"] if plan and plan["stages"] else again["configs"]
        row = (
            date_time(each["at"]),
            each["reason"],
            *_worth(each),
            again["reason"],
            *_worth(again),
            "  ".join(config_words(config) for config in wanted) or "nothing",
            each["decision_id"],
        )
        table.add_row(*(Text(cell) for cell in row))
    return table


def _worth(decision: dict[str, Any]) -> tuple[str, str]:
    """Cores and PAS of the plan; without a plan the cores of the configuration that keeps running."""
    plan = decision["plan"]
    if plan and plan["stages"]:
        return f"{plan['cost_cores']:g}", f"{plan['pas']:.3f}"
    return f"{sum(it['cores'] * it['replicas'] for it in decision['configs']):g}", "–"


def _differences(replayed: dict[str, Any]) -> RenderableType:
    table = bare_table("  what differs", "recorded", "taken again")
    for each in replayed["differences"]:
        table.add_row(Text(f"  {each['what']}"), Text(each["recorded"]), Text(each["again"]))
    return table


def _plans(recorded: dict[str, Any] | None, again: dict[str, Any] | None, policy: str) -> RenderableType:
    table = bare_table("  plan", "recorded", f"by {policy}")
    for one, other in zip_longest(_stages(recorded), _stages(again)):
        name = (one or other)["stage"]
        table.add_row(*(Text(cell) for cell in (f"  {name}", _stage(one), _stage(other))))
    for name, key, form, unit in FIGURES:
        values = [_figure(plan, key, form, unit) for plan in (recorded, again)]
        table.add_row(*(Text(cell) for cell in (f"  {name}", *values)))
    return table


def _stages(plan: dict[str, Any] | None) -> list[dict[str, Any]]:
    return list(plan["stages"]) if plan else []


def _stage(stage: dict[str, Any] | None) -> str:
    return config_words(stage).partition("=")[2] if stage else "–"


def _figure(plan: dict[str, Any] | None, key: str, form: str, unit: str) -> str:
    value = plan[key] if plan else None
    return "–" if value is None else f"{value:{form}}{unit}"


def _result(replayed: dict[str, Any]) -> str:
    outcome = replayed["outcome"]
    if outcome != "differs":
        return WORDS[outcome] + (f": {replayed['why']}" if replayed["why"] else "")
    found = replayed["differences"]
    words = [f"{each['what']} {each['recorded']} → {each['again']}" for each in found[:SHOWN]]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"differs: {', '.join(words)}{more}"


def _why(found: Sequence[Pair], outcome: str) -> str:
    whys = dict.fromkeys(p["replayed"]["why"] for p in found if p["replayed"]["outcome"] == outcome)
    return "; ".join(whys)


def _notes(found: Sequence[Pair]) -> list[RenderableType]:
    """The differences, each once with its count."""
    counts = Counter(note for pair in found for note in pair["replayed"]["notes"])
    return [Text(f"note: {note}" + (f" ({many} times)" if many > 1 else "")) for note, many in counts.items()]
