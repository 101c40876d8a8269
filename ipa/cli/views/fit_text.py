"""Fits of profiles as tables for people, the findings below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from ipa.cli.views.status_text import bare_table

if TYPE_CHECKING:
    from ipa.profiling.findings import FitRow, StageOverview
    from ipa.profiling.lint import ProfileFinding

# Places of a finding that are named; JSON has all of them.
FEW = 3
HEADINGS = ("accuracy", "cores", "batch", "R²", "error", "left out", "latency ms", "rps")


@dataclass(frozen=True, slots=True)
class FitResult:
    """The result of `ipa fit`: the stages that have a profile, and the findings on all requested ones."""

    pipeline: str
    stages: tuple[StageOverview, ...]
    findings: tuple[ProfileFinding, ...]

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        stages = [asdict(each) | {"measured_on": each.measured_on.isoformat()} for each in self.stages]
        return {
            "pipeline": self.pipeline,
            "stages": stages,
            "findings": [asdict(each) for each in self.findings],
        }


def fit_lines(fitted: FitResult) -> Iterator[RenderableType]:
    """Yield the origin and the fits of each stage, then the findings."""
    for stage in fitted.stages:
        yield from _origin(fitted.pipeline, stage)
        yield _table(stage.fits)
    if not fitted.findings:
        yield "No findings."
        return
    yield "1 finding" if len(fitted.findings) == 1 else f"{len(fitted.findings)} findings"
    order = sorted(fitted.findings, key=lambda each: _place(each, fitted.findings))
    for (stage_name, _), group in groupby(order, key=lambda each: (each.stage, each.kind)):
        together = list(group)
        yield f"  {stage_name}: {together[0].topic}"
        for each in together:
            if words := _words(each):
                yield f"    {words}"
        yield f"    → {together[0].remedy}"


def _place(finding: ProfileFinding, findings: Sequence[ProfileFinding]) -> int:
    """The position of the first finding of the same stage and kind."""
    return next(
        at for at, each in enumerate(findings) if (each.stage, each.kind) == (finding.stage, finding.kind)
    )


def _words(finding: ProfileFinding) -> str:
    more = len(finding.places) - FEW
    places = ", ".join(finding.places[:FEW]) + (f", and {more} more" if more > 0 else "")
    return ": ".join(part for part in (finding.variant, places) if part)


def _origin(pipeline: str, stage: StageOverview) -> list[str]:
    load = "" if stage.load_rps is None else f"   at a load of {stage.load_rps:g} rps"
    source = f"   by {stage.source}" if stage.source else ""
    return [
        f"Stage {pipeline}/{stage.stage}   measured on {stage.measured_on}, {_ago(stage.age_days)}{source}",
        f"  on {stage.hardware}{load}",
        f"  {stage.method}",
    ]


def _ago(days: int) -> str:
    return {0: "today", 1: "1 day ago"}.get(days, f"{days} days ago")


def _table(rows: Sequence[FitRow]) -> Table:
    table = bare_table("  variant", right=HEADINGS, pad_edge=False)
    before = None
    for row in rows:
        first, before = row.variant != before, row.variant
        table.add_row(
            Text(f"  {row.variant}" if first else ""),
            f"{row.accuracy:.4g}" if first else "",
            f"{row.cores:g}",
            f"{row.batch_min}" if row.batch_min == row.batch_max else f"{row.batch_min} to {row.batch_max}",
            "flat" if row.is_flat else f"{row.r2_ratio:.2f}",
            f"{row.max_error_ratio:.0%}",
            "–" if row.loo_error_ratio is None else f"{row.loo_error_ratio:.0%}",
            _latencies(row),
            f"{row.throughput_rps:.4g}",
        )
    return table


def _latencies(row: FitRow) -> str:
    least, most = _ms(row.latency_min_s), _ms(row.latency_max_s)
    return least if row.batch_min == row.batch_max else f"{least} to {most}"


def _ms(seconds: float) -> str:
    """Milliseconds, with one more digit if there are few."""
    return f"{1000 * seconds:.1f}" if seconds < 0.1 else f"{1000 * seconds:.0f}"
