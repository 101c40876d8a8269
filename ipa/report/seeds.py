"""Runs that differ only by their seed: the figures of each, and their means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ipa.report.stats import means_of

Row = Mapping[str, float | int | None]
REASONS = "decisions_by_reason"


@dataclass(frozen=True, slots=True)
class SeedFigures:
    """The figures of one seed's run; latencies in seconds, None if nothing was answered."""

    seed: int
    figures: Row
    latency_quantiles_s: Row
    decisions_by_reason: Row


@dataclass(frozen=True, slots=True)
class Repeats:
    """The error of means over seeds: half the width of each one's 95 % interval, None if unknown.

    `seeds` are the runs, in the order of their seeds.
    """

    seeds: tuple[SeedFigures, ...]
    intervals: Row
    latency_intervals_s: Row
    decision_intervals: Row


def over_seeds(summaries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of `ipa simulate -o json` as means over seeds, and `intervals` beside them."""
    figures = means_of([{name: it[name] for name in it if name != REASONS} for it in summaries])
    reasons = means_of([it[REASONS] for it in summaries], missing=0)
    return {**figures.values, REASONS: sorted_by_name(reasons.values), "intervals": figures.half_widths}


def sorted_by_name(values: Row) -> dict[str, float | int | None]:
    """The same, sorted by name: seeds name reasons in different orders."""
    return dict(sorted(values.items()))


def span(first: int, count: int) -> str:
    """The seeds in words."""
    return f"{first}" if count == 1 else f"{first} to {first + count - 1}"


def with_half(value: float | None, half_width: float | None, form: str, *, scale: float = 1) -> str:
    """The figure as text, `±` half the width of its interval if known; a dash for none."""
    if value is None:
        return "–"
    shown = format(scale * value, form)
    return shown if half_width is None else f"{shown} ± {format(scale * half_width, form)}"
