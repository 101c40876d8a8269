"""Fits of profiles for people, the findings below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING

from rich.console import RenderableType

from ipa.cli.layout import ViewColumn, counted, table_of

if TYPE_CHECKING:
    from ipa.profiling.findings import FitRow, StageOverview
    from ipa.profiling.lint import ProfileFinding

# Places of a finding that are named; JSON has all of them.
FEW = 3


def fit_lines(
    pipeline: str, stages: Sequence[StageOverview], findings: Sequence[ProfileFinding]
) -> Iterator[RenderableType]:
    """Yield the origin and the fits of each stage, then the findings."""
    for stage in stages:
        load = "" if stage.load_rps is None else f"   at a load of {stage.load_rps:g} rps"
        source = f"   by {stage.source}" if stage.source else ""
        ago = "today" if not stage.age_days else f"{counted(stage.age_days, 'day')} ago"
        yield f"Stage {pipeline}/{stage.stage}   measured on {stage.measured_on}, {ago}{source}"
        yield f"  on {stage.hardware}{load}\n  {stage.method}"
        first = {id(row) for _, rows in groupby(stage.fits, lambda row: row.variant) for row in [next(rows)]}
        yield table_of(
            [(row, id(row) in first) for row in stage.fits],
            ViewColumn("variant", lambda it: it[0].variant if it[1] else ""),
            ViewColumn("accuracy", lambda it: it[0].accuracy if it[1] else "", "{:.4g}"),
            ViewColumn("cores", lambda it: it[0].cores, "{:g}"),
            ViewColumn("batch", lambda it: _range(it[0], str(it[0].batch_min), str(it[0].batch_max)), "{}"),
            ViewColumn("R²", lambda it: "flat" if it[0].is_flat else it[0].r2_ratio, "{:.2f}"),
            ViewColumn("error", lambda it: it[0].max_error_ratio, "{:.0%}"),
            ViewColumn("left out", lambda it: it[0].loo_error_ratio, "{:.0%}"),
            ViewColumn("latency ms", lambda it: _range(it[0], *map(_ms, _latencies_s(it[0]))), "{}"),
            ViewColumn("rps", lambda it: it[0].throughput_rps, "{:.4g}"),
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


def _range(row: FitRow, least: str, most: str) -> str:
    return least if row.batch_min == row.batch_max else f"{least} to {most}"


def _latencies_s(row: FitRow) -> tuple[float, float]:
    return row.latencies_s[0], row.latencies_s[-1]


def _ms(seconds: float) -> str:
    """Milliseconds, with one more digit if there are few."""
    return f"{1000 * seconds:.1f}" if seconds < 0.1 else f"{1000 * seconds:.0f}"
