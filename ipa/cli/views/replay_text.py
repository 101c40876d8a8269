"""Replayed decisions for people: one line each, or one decision with both plans side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from operator import itemgetter
from typing import Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ipa.cli.layout import UNKNOWN, ViewColumn, date_time, figure, table_of
from ipa.cli.views.status_text import config_words

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
AT = ViewColumn("at", lambda pair: date_time(pair["decision"]["at"]))
ID = ViewColumn("id", lambda pair: pair["decision"]["decision_id"])


def listed(found: Sequence[Pair], policy: str | None) -> list[RenderableType]:
    """One line for each decision; for another policy only those that differ."""
    if not found:
        return ["no decisions yet"]
    counts = Counter(pair["replayed"]["outcome"] for pair in found)
    if policy is None:
        outcomes = ", ".join(f"{counts[name]} {words}" for name, words in WORDS.items() if counts[name])
        table = table_of(
            found,
            AT,
            ViewColumn("tick", lambda pair: pair["decision"]["tick"]),
            ViewColumn("reason", lambda pair: pair["decision"]["reason"]),
            ViewColumn(
                "configuration", lambda pair: "  ".join(map(config_words, pair["decision"]["configs"]))
            ),
            ViewColumn(
                "taken again",
                lambda pair: Text(_result(pair["replayed"]), STYLES.get(pair["replayed"]["outcome"], "")),
            ),
            ID,
        )
        return [table, f"{len(found)} decisions: {outcomes}", *_notes(found)]
    taken = counts["same"] + counts["differs"]
    head = f"{policy} would have decided {counts['differs']} of {taken} differently, from the same inputs"
    parted = [pair for pair in found if pair["replayed"]["outcome"] == "differs"]
    return [*([_other_table(parted, policy)] if parted else []), head + _stale(found), *_notes(found)]


def parted_nowhere(found: Sequence[Pair], policy: str) -> list[RenderableType]:
    """The message that two policies decide alike."""
    same = sum(pair["replayed"]["outcome"] == "same" for pair in found)
    words = f"{policy} decides the same in all {same} decisions that could be replayed"
    return [words + _stale(found), *_notes(found)]


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
        lines.append(table_of(replayed["differences"], *columns, indent="  "))
    if again is not None and (decision["plan"] or again["plan"]):
        lines.append(_plans(decision["plan"], again["plan"], replayed["policy"]))
    return [*lines, *_notes([pair])]


def _other_table(found: Sequence[Pair], policy: str) -> Table:
    def worth(side: str) -> list[ViewColumn]:
        """Cores and PAS of the plan; without a plan the cores of the configuration that keeps running."""

        def of(pair: Pair) -> Any:
            return pair["decision"] if side == "decision" else pair["replayed"]["again"]

        def cores(pair: Pair) -> float:
            plan = of(pair)["plan"]
            if plan and plan["stages"]:
                return float(plan["cost_cores"])
            return sum((it["cores"] * it["replicas"] for it in of(pair)["configs"]), 0.0)

        def pas(pair: Pair) -> float | None:
            plan = of(pair)["plan"]
            return plan["pas"] if plan and plan["stages"] else None

        return [ViewColumn("cores", cores, "{:g}"), ViewColumn("PAS", pas, "{:.3f}")]

    return table_of(
        found,
        AT,
        ViewColumn("decided", lambda pair: pair["decision"]["reason"]),
        *worth("decision"),
        ViewColumn(f"{policy} would", lambda pair: pair["replayed"]["again"]["reason"]),
        *worth("replayed"),
        ViewColumn("and run", lambda pair: _wanted(pair["replayed"]["again"]) or "nothing"),
        ID,
    )


def _configs(decision: Mapping[str, Any]) -> str:
    return "  ".join(map(config_words, decision["configs"]))


def _wanted(decision: Mapping[str, Any]) -> str:
    """The configurations of the plan, else those that keep running."""
    plan = decision["plan"]
    return "  ".join(map(config_words, plan["stages"] if plan and plan["stages"] else decision["configs"]))


def _plans(recorded: dict[str, Any] | None, again: dict[str, Any] | None, policy: str) -> Table:
    sides = [plan["stages"] if plan else [] for plan in (recorded, again)]
    rows: list[tuple[Any, ...]] = [
        ((one or other)["stage"], _stage(one), _stage(other)) for one, other in zip_longest(*sides)
    ]
    rows += [
        (name, *(figure(plan and plan[key], form) for plan in (recorded, again)))
        for name, key, form in FIGURES
    ]
    columns = (ViewColumn("plan", itemgetter(0)), ViewColumn("recorded", itemgetter(1)))
    return table_of(rows, *columns, ViewColumn(f"by {policy}", itemgetter(2)), indent="  ")


def _stage(stage: dict[str, Any] | None) -> str:
    return config_words(stage).partition("=")[2] if stage else UNKNOWN


def _result(replayed: dict[str, Any]) -> str:
    outcome = replayed["outcome"]
    if outcome != "differs":
        return WORDS[outcome] + (f": {replayed['why']}" if replayed["why"] else "")
    found = replayed["differences"]
    words = [f"{each['what']} {each['recorded']} → {each['again']}" for each in found[:SHOWN]]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return f"differs: {', '.join(words)}{more}"


def _stale(found: Sequence[Pair]) -> str:
    """The decisions that could not be replayed, with their reasons."""
    whys = [pair["replayed"]["why"] for pair in found if pair["replayed"]["outcome"] == "stale"]
    return f"; of {len(whys)} it cannot be told: {'; '.join(dict.fromkeys(whys))}" if whys else ""


def _notes(found: Sequence[Pair]) -> list[RenderableType]:
    """The differences, each once with its count."""
    counts = Counter(note for pair in found for note in pair["replayed"]["notes"])
    return [Text(f"note: {note}" + (f" ({many} times)" if many > 1 else "")) for note, many in counts.items()]
