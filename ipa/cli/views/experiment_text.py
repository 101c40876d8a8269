"""Simulated runs and policies compared, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table

from ipa.model.resources import BESIDE_CORES
from ipa.report.blocks import span, with_half

if TYPE_CHECKING:
    from ipa.report.blocks import Table as ReportTable
    from ipa.simulate.run import SimResult

# Changes that are printed; -o json has all.
MOST_CHANGES = 12


def result_lines(first: SimResult, seen: Mapping[str, Any], repeats: int) -> Iterator[RenderableType]:
    """Yield the figures, then the last changes; of several seeds, those of the first."""
    seeds = f"seed{'s' if repeats > 1 else ''} {span(first.seed, repeats)}"
    yield (
        f"Pipeline {first.pipeline}   policy {first.policy}   {seeds}   "
        f"{first.duration_s / 60:g} min   SLA {first.sla_s:.3g} s"
    )
    count = ".1f" if repeats > 1 else "d"
    known = {f"{each.attribute}_mean": each.words for each in BESIDE_CORES}
    kinds = {key: key.removesuffix("_mean") for key in seen if "/" in key and key.endswith("_mean")}
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
        **({"failed_ticks": ("ticks that failed", count, "", 1)} if seen["failed_ticks"] else {}),
    }
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for key, (name, form, unit, scale) in rows.items():
        if key in seen:
            shown = with_half(seen[key], seen.get("intervals", {}).get(key), form, scale=scale)
            table.add_row(name, shown if seen[key] is None else f"{shown}{unit}")
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
    found = Table(*table.header)
    for at in range(table.texts, len(table.header)):
        found.columns[at].justify = "right"
    for rows in table.groups:
        for row in rows:
            found.add_row(*(cell.in_words for cell in row))
    return found
