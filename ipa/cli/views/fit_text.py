"""Fits of profiles for people, the findings below."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from ipa.cli.layout import ViewColumn, counted, table_of

if TYPE_CHECKING:
    from ipa.profiling.findings import ProfileFinding

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
        rows = [row for _, each in groupby(stage["fits"], itemgetter("variant")) for row in _rows(each)]
        yield table_of(
            rows,
            ViewColumn("variant", itemgetter("variant")),
            ViewColumn("accuracy", itemgetter("accuracy"), "{:.4g}"),
            ViewColumn("cores", itemgetter("cores"), "{:g}"),
            ViewColumn("batch", lambda row: _range(row["batch_min"], row["batch_max"]), "{}"),
            ViewColumn("R²", lambda row: "flat" if row["is_flat"] else row["r2_ratio"], "{:.2f}"),
            ViewColumn("error", itemgetter("max_error_ratio"), "{:.0%}"),
            ViewColumn("left out", itemgetter("loo_error_ratio"), "{:.0%}"),
            ViewColumn(
                "latency ms",
                lambda row: _range(*(_ms(row["latencies_s"][at]) for at in (0, -1))),
                "{}",
            ),
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


def _rows(fits: Iterator[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    """The rows of a variant, which is named in the first."""
    yield next(fits)
    yield from ({**row, "variant": "", "accuracy": ""} for row in fits)


def _range(least: object, most: object) -> str:
    return f"{least}" if least == most else f"{least} to {most}"


def _ms(seconds: float) -> str:
    """Milliseconds, with one more digit if there are few."""
    return f"{1000 * seconds:.1f}" if seconds < 0.1 else f"{1000 * seconds:.0f}"
