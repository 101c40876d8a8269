"""The report of one simulated run: a self-contained page, and the same as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ipa.report import html
from ipa.report.html import as_text, rows_of
from ipa.report.sketch import BLUE, GREEN, GREY, ORANGE, Line, Plot, Points, sketch
from ipa.report.stats import LEVEL, Repeats, Row, span, with_half

# Rows of long lists; of the rest the report gives the number.
MOST_CHANGES = 200


@dataclass(frozen=True, slots=True)
class Ticks:
    """The run over time, a value for each kept tick; None is missing."""

    at_s: tuple[float, ...]
    rate_rps: tuple[float | None, ...]
    upper_rps: tuple[float | None, ...]
    latency_s: tuple[float | None, ...]
    cores: tuple[float, ...]
    pas: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class RunChange:
    """A change that the run wrote."""

    at_s: float
    reason: str
    configs: str


@dataclass(frozen=True, slots=True)
class Run:
    """The contents of a run's report; the same run gives the same values. `inputs` are digests by name.

    `latency_cdf` are points (latency in seconds, share of the answered requests that took no longer).
    `figures` are those of `ipa simulate -o json`. With `repeats` they, the quantiles and the decisions are
    means over seeds; time series, the distribution and the changes are of the first seed.
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
    figures: Row
    slo_ratio: float
    core_hours: float
    latency_quantiles_s: Row
    latency_cdf: tuple[tuple[float, float], ...]
    decisions_by_reason: Row
    changes: tuple[RunChange, ...]
    ticks: Ticks
    repeats: Repeats | None = None


def html_of(run: Run) -> str:
    """The page. The same run gives the same bytes."""
    came, latency, *others = _tables(run)
    parts = [
        *_shown(*came),
        html.heading(f"Over time{_of_first(run)}"),
        *map(sketch, _plots(run)),
        *_shown(*latency),
        sketch(_cdf(run)),
    ]
    for each in others:
        parts += _shown(*each)
    parts += [html.heading(f"Changes{_of_first(run)}"), html.paragraph(_cut(run))]
    parts.append(html.table(("second", "reason", "running configuration"), _changes(run)))
    return html.page(_title(run), _lead(run), parts)


def _shown(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [html.heading(title), html.table(header, rows, numeric=range(1, len(header)))]


def markdown_of(run: Run) -> str:
    """The same without plots."""
    lines = [f"# {as_text(_title(run))}", "", as_text(_lead(run))]
    tables = [
        *_tables(run),
        (f"Changes{_of_first(run)}", ("second", "reason", "running configuration"), _changes(run)),
    ]
    for title, header, rows in tables:
        cells = [[as_text(cell) for cell in row] for row in rows]
        lines += ["", f"## {title}", "", *rows_of(header, cells)]
    return "\n".join([*lines, "", _cut(run), ""])


def _title(run: Run) -> str:
    return f"{run.pipeline} under {run.load}"


def _lead(run: Run) -> str:
    said = (
        f"Simulated for {run.duration_s:g} s at {run.mean_rps:.3g} rps, {run.peak_rps:.3g} at the most, "
        f"within an SLA of {run.sla_s:g} s"
    )
    if run.repeats is None:
        return f"{said}. One run has no interval; other seeds show how much is chance."
    return (
        f"{said}, with {len(run.repeats.seeds)} seeds ({_seeds(run.repeats)}). Figures are means over them, "
        f"± half the width of their {100 * LEVEL:.0f} % confidence interval (Student's t)."
    )


def _seeds(repeats: Repeats) -> str:
    return span(repeats.seeds[0].seed, len(repeats.seeds))


def _of_first(run: Run) -> str:
    """A note on contents that are of one seed among several."""
    return f", of seed {run.repeats.seeds[0].seed} alone" if run.repeats else ""


def _tables(run: Run) -> list[tuple[str, Sequence[str], Sequence[Sequence[str]]]]:
    halves, latency_halves, decision_halves = (
        (run.repeats.intervals, run.repeats.latency_intervals_s, run.repeats.decision_intervals)
        if run.repeats
        else ({}, {}, {})
    )
    count = ".1f" if run.repeats else "d"
    quantiles = [
        (name, with_half(value, latency_halves.get(name), ".4f"))
        for name, value in run.latency_quantiles_s.items()
    ]
    reasons = [
        (name, with_half(value, decision_halves.get(name), count))
        for name, value in run.decisions_by_reason.items()
    ]
    digests = [*run.inputs.items(), ("version of ipa", run.version)]
    return [
        ("Results", ("", "value"), _came(run, halves, count)),
        ("Latency of a request", ("quantile", "seconds"), quantiles),
        *([_by_seed(run, run.repeats)] if run.repeats else []),
        ("Decisions", ("reason", "how often"), reasons),
        ("What was asked", ("", "value"), list(run.asked.items())),
        ("Inputs", ("", "sha256"), digests),
    ]


def _came(run: Run, halves: Row, count: str) -> list[tuple[str, str]]:
    """The figures, each with its interval; counts in the format `count`."""

    def figure(name: str, form: str) -> str:
        return with_half(run.figures[name], halves.get(name), form)

    late = halves.get("violation_ratio")
    cores = halves.get("cores_mean")
    core_hours = None if cores is None else cores * run.duration_s / 3600.0
    return [
        ("requests", figure("requests", count)),
        ("within the SLA", f"{with_half(run.slo_ratio, late, '.3f', scale=100)} %"),
        ("late or lost", f"{with_half(1 - run.slo_ratio, late, '.3f', scale=100)} %"),
        ("lost", figure("lost", count)),
        ("accuracy of the running configuration (PAS), mean over time", figure("pas_mean", ".4f")),
        ("accuracy of an answer, mean", figure("accuracy_mean", ".4f")),
        ("cores, mean over time", figure("cores_mean", ".2f")),
        ("core hours paid", with_half(run.core_hours, core_hours, ".3f")),
        ("changes", figure("changes", count)),
    ]


# The columns of the seeds' table: heading, figure, format, and factor.
BY_SEED = (
    ("requests", "requests", "d", 1),
    ("late or lost, %", "violation_ratio", ".3f", 100),
    ("lost", "lost", "d", 1),
    ("PAS", "pas_mean", ".4f", 1),
    ("accuracy", "accuracy_mean", ".4f", 1),
    ("cores", "cores_mean", ".2f", 1),
    ("changes", "changes", "d", 1),
)


def _by_seed(run: Run, repeats: Repeats) -> tuple[str, Sequence[str], Sequence[Sequence[str]]]:
    quantiles = list(run.latency_quantiles_s)
    heads = ("seed", *(head for head, *_ in BY_SEED), *(f"{name}, s" for name in quantiles))
    rows = [
        (
            f"{of.seed}",
            *(with_half(of.figures[name], None, form, scale=scale) for _, name, form, scale in BY_SEED),
            *(with_half(of.latency_quantiles_s[name], None, ".4f") for name in quantiles),
        )
        for of in repeats.seeds
    ]
    return "By seed", heads, rows


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
            "Observed latency",
            "seconds",
            [Line("seen", _points(ticks.at_s, ticks.latency_s), BLUE)],
            limit=("SLA", run.sla_s),
            marks=marks,
        ),
        Plot("Cores held", "cores", [Line("cores", _points(ticks.at_s, ticks.cores), GREEN, "step")]),
        Plot(
            "Accuracy of the running configuration",
            "PAS",
            [Line("PAS", _points(ticks.at_s, ticks.pas), GREY, "step")],
            y_max=1.0,
        ),
    ]


def _cdf(run: Run) -> Plot:
    line = Line("answered requests", run.latency_cdf, BLUE)
    mark = [run.sla_s] if run.latency_cdf and run.sla_s <= run.latency_cdf[-1][0] else []
    return Plot(
        f"Share of requests by latency{_of_first(run)}; dotted: the SLA",
        "share",
        [line],
        marks=mark,
        y_max=1.0,
    )


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
