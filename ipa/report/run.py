"""The report of one simulated run: a page that needs nothing else, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ipa.report import html
from ipa.report.marked import as_text, rows_of
from ipa.report.plots import BLUE, GREEN, GREY, ORANGE, Line, Plot, Points
from ipa.report.sketch import sketch

NOTHING = "–"
# What a run has so many of is drawn, and said of the rest how many they are.
MOST_CHANGES = 200


@dataclass(frozen=True, slots=True)
class Ticks:
    """The run over time, a value a tick that is kept; None is what was not seen."""

    at_s: tuple[float, ...]
    rate_rps: tuple[float | None, ...]
    upper_rps: tuple[float | None, ...]
    latency_s: tuple[float | None, ...]
    cores: tuple[float, ...]
    pas: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Changed:
    """A change that the run wrote."""

    at_s: float
    reason: str
    configs: str


@dataclass(frozen=True, slots=True)
class Run:
    """All that a report says of a run; the same run gives the same values. `inputs` are digests by name.

    `latency_cdf` are points (latency in seconds, share of the answered requests that took no longer).
    `figures` are those of `ipa simulate -o json`.
    """

    pipeline: str
    load: str
    asked: Mapping[str, str]
    inputs: Mapping[str, str]
    version: str
    duration_s: float
    sla_s: float
    mean_rps: float
    peak_rps: float
    figures: Mapping[str, float | int | None]
    slo_ratio: float
    core_hours: float
    latency_quantiles_s: Mapping[str, float | None]
    latency_cdf: tuple[tuple[float, float], ...]
    decisions_by_reason: Mapping[str, int]
    changes: tuple[Changed, ...]
    ticks: Ticks


def html_of(run: Run) -> str:
    """The page. The same run gives the same bytes."""
    came, latency, *others = _tables(run)
    parts = [
        *_shown(*came),
        html.heading("Over time"),
        *map(sketch, _plots(run)),
        *_shown(*latency),
        sketch(_cdf(run)),
    ]
    for each in others:
        parts += _shown(*each)
    parts += [html.heading("Changes"), html.paragraph(_cut(run))]
    parts.append(html.table(("second", "reason", "what runs then"), _changes(run)))
    return html.page(_title(run), _lead(run), parts)


def _shown(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [html.heading(title), html.table(header, rows, numeric=range(1, len(header)))]


def markdown_of(run: Run) -> str:
    """The same without pictures."""
    lines = [f"# {as_text(_title(run))}", "", as_text(_lead(run))]
    tables = [*_tables(run), ("Changes", ("second", "reason", "what runs then"), _changes(run))]
    for title, header, rows in tables:
        cells = [[as_text(cell) for cell in row] for row in rows]
        lines += ["", f"## {title}", "", *rows_of(header, cells)]
    return "\n".join([*lines, "", _cut(run), ""])


def _title(run: Run) -> str:
    return f"{run.pipeline} under {run.load}"


def _lead(run: Run) -> str:
    return (
        f"Simulated for {run.duration_s:g} s at {run.mean_rps:.3g} rps, {run.peak_rps:.3g} at the most, "
        f"within an SLA of {run.sla_s:g} s. One run has no interval; another seed tells how much is chance."
    )


def _tables(run: Run) -> list[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    figures = run.figures
    came = [
        ("requests", f"{figures['requests']}"),
        ("within the SLA", f"{100 * run.slo_ratio:.3f} %"),
        ("late or lost", f"{100 * (1 - run.slo_ratio):.3f} %"),
        ("lost", f"{figures['lost']}"),
        ("accuracy of what runs (PAS), mean over time", _number(figures["pas_mean"], 4)),
        ("accuracy of an answer, mean", _number(figures["accuracy_mean"], 4)),
        ("cores, mean over time", _number(figures["cores_mean"], 2)),
        ("core hours paid", f"{run.core_hours:.3f}"),
        ("changes", f"{figures['changes']}"),
    ]
    quantiles = [(name, _number(value, 4)) for name, value in run.latency_quantiles_s.items()]
    reasons = [(name, str(count)) for name, count in run.decisions_by_reason.items()]
    digests = [*run.inputs.items(), ("version of ipa", run.version)]
    return [
        ("What came of it", ("", "value"), came),
        ("Latency of a request", ("quantile", "seconds"), quantiles),
        ("Decisions", ("reason", "how often"), reasons),
        ("What was asked", ("", "value"), list(run.asked.items())),
        ("Inputs", ("", "sha256"), digests),
    ]


def _plots(run: Run) -> list[Plot]:
    ticks = run.ticks
    marks = [change.at_s for change in run.changes[:MOST_CHANGES]]
    return [
        Plot(
            "Load; a dotted line is a change",
            "requests / s",
            [
                Line("planned for", _points(ticks.at_s, ticks.upper_rps), ORANGE),
                Line("seen", _points(ticks.at_s, ticks.rate_rps), BLUE),
            ],
            marks=marks,
        ),
        Plot(
            "Latency as it was seen",
            "seconds",
            [Line("seen", _points(ticks.at_s, ticks.latency_s), BLUE)],
            limit=("SLA", run.sla_s),
            marks=marks,
        ),
        Plot("Cores held", "cores", [Line("cores", _points(ticks.at_s, ticks.cores), GREEN, "step")]),
        Plot(
            "Accuracy of what runs",
            "PAS",
            [Line("PAS", _points(ticks.at_s, ticks.pas), GREY, "step")],
            y_max=1.0,
        ),
    ]


def _cdf(run: Run) -> Plot:
    line = Line("answered requests", run.latency_cdf, BLUE)
    mark = [run.sla_s] if run.latency_cdf and run.sla_s <= run.latency_cdf[-1][0] else []
    return Plot("Share within so long; dotted: the SLA", "share", [line], marks=mark, y_max=1.0)


def _points(at_s: Sequence[float], values: Sequence[float | None]) -> Points:
    return [(at, value) for at, value in zip(at_s, values, strict=True) if value is not None]


def _changes(run: Run) -> list[tuple[str, ...]]:
    return [(f"{it.at_s:.0f}", it.reason, it.configs) for it in run.changes[:MOST_CHANGES]]


def _cut(run: Run) -> str:
    more = len(run.changes) - MOST_CHANGES
    return (
        f"The first {MOST_CHANGES}; {more} more are in the JSON."
        if more > 0
        else f"{len(run.changes)} changes."
    )


def _number(value: float | None, digits: int) -> str:
    return NOTHING if value is None else f"{value:.{digits}f}"
