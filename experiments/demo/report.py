"""The one-page report of the demo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.demo.summary import RunRecord, rate_seen
from experiments.plots import Line, Plot, draw
from ipa.report.blocks import FigureBlock, Heading, Paragraph, Table, TableCell, as_page
from ipa.report.plots import BLUE, GREEN, ORANGE, RED

# (key of the summary, what it is called, how it is shown)
FIGURES: tuple[tuple[str, str, str], ...] = (
    ("sent", "requests sent", "d"),
    ("answered", "answered", "d"),
    ("dropped", "dropped for their deadline", "d"),
    ("failed", "failed", "d"),
    ("latency_p50_s", "latency p50, s", ".3f"),
    ("latency_p99_s", "latency p99, s", ".3f"),
    ("within_sla_ratio", "share within SLA", ".1%"),
    ("accuracy", "measured accuracy of the answers", ".3f"),
    ("cores_mean", "cores, mean", ".2f"),
    ("core_seconds", "core-seconds", ".0f"),
    ("variant_switches", "variant switches", "d"),
    ("replica_or_core_changes", "replica or core changes", "d"),
    ("batch_changes", "batch size changes", "d"),
)


def render(summary: Mapping[str, Any], records: Mapping[str, RunRecord]) -> str:
    """The report as HTML."""
    adaptive = records["adaptive"]
    sla_s = summary["sla_s"]
    lead = (
        f"Pages of text, {summary['rate_rps']['low']:g} to {summary['rate_rps']['high']:g} a second and "
        "back, through a real two-stage OCR pipeline on "
        f"{summary['machine']['cores']} cores ({summary['machine']['processor']}); SLA {sla_s:g} s. "
        f"Made {summary['made_at']}."
    )
    blocks = [
        Heading("The runs"),
        _table("The runs side by side.", ("", *summary["runs"]), runs_rows(summary["runs"])),
        Paragraph(_verdict(summary["comparison"])),
        Heading("The adaptive run"),
        *map(
            _figure,
            (
                _load_plot(adaptive),
                _latency_plot("Latency of each request", adaptive, sla_s),
                Plot("Cores", "cores", [_steps("allocated", adaptive, "cost_cores", BLUE)]),
                Plot(
                    "Accuracy of what runs (PAS)",
                    "accuracy",
                    [_steps("predicted", adaptive, "pas", GREEN)],
                    y_max=1.0,
                ),
            ),
        ),
        Heading("The same shape under the static plans"),
        _figure(_latency_plot("Smallest plan", records["static-smallest"], sla_s)),
        _figure(_latency_plot("Largest plan", records["static-largest"], sla_s)),
        _figure(_latency_plot("Largest plan, its queues choose", records["static-largest-resident"], sla_s)),
        Heading("Decisions"),
        _decisions_table(adaptive.decisions),
        _table(
            "All decisions of the adaptive run by reason.",
            ("reason", "times"),
            [
                (reason, str(n))
                for reason, n in sorted(summary["runs"]["adaptive"]["decisions_by_reason"].items())
            ],
        ),
    ]
    return as_page("An OCR pipeline under a load that rises and falls", lead, blocks)


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> Table:
    return Table(caption, header, [[[TableCell(cell) for cell in row] for row in rows]], texts=texts)


def _figure(plot: Plot) -> FigureBlock:
    return FigureBlock(f"{plot.title}.", draw(plot))


def runs_rows(runs: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """One row a figure: its name, then its value in every run."""
    return [(label, *(shown(run[key], form) for run in runs.values())) for key, label, form in FIGURES]


def shown(value: float | None, form: str) -> str:
    """The value in that format, a dash where there is none."""
    return "–" if value is None else format(value, form)


def _verdict(comparison: Mapping[str, Any]) -> str:
    accuracy = shown(comparison["accuracy_above_smallest"], "+.3f")
    within = shown(comparison["within_sla_above_largest"], "+.1%")
    smallest = shown(comparison["cores_mean_above_smallest"], "+.2f")
    largest = shown(comparison["cores_mean_above_largest"], "+.2f")
    return (
        f"Adaptive is {accuracy} in accuracy against the smallest plan and {within} in the share within the "
        f"SLA against the largest; it used {smallest} cores against the smallest and {largest} against the "
        "largest."
    )


def _load_plot(run: RunRecord) -> Plot:
    samples = [s for s in run.samples if s["forecast_upper_rps"] is not None]
    point = [(s["t_s"], s["forecast_rps"]) for s in samples]
    upper = [(s["t_s"], s["forecast_upper_rps"]) for s in samples]
    return Plot(
        title="Load",
        y_label="pages / s",
        lines=[
            Line("sent", rate_seen(run.requests, run.duration_s), BLUE),
            Line("forecast of the peak", point, ORANGE),
        ],
        band=("its upper quantile", point, upper),
        marks=[s["t_s"] for s in run.samples if s["applied"]],
    )


def _latency_plot(title: str, run: RunRecord, sla_s: float) -> Plot:
    answered = [(r["at_s"], r["latency_s"]) for r in run.requests if r["outcome"] == "answered"]
    lost = [(r["at_s"], 0.0) for r in run.requests if r["outcome"] != "answered"]
    lines = [Line("answered", answered, BLUE, ".")]
    if lost:
        lines.append(Line("not answered", lost, RED, "."))
    return Plot(title=title, y_label="seconds", lines=lines, limit=("SLA", sla_s))


def _steps(label: str, run: RunRecord, key: str, colour: str) -> Line:
    points = [(sample["t_s"], sample[key]) for sample in run.samples if sample[key] is not None]
    return Line(label, points, colour, "step")


def _decisions_table(decisions: Sequence[Mapping[str, Any]]) -> Table:
    rows = [
        (
            decision["at"][11:19],
            decision["reason"],
            decision["detail"],
            shown(decision["observed_rate_rps"], ".2f"),
            shown((decision["forecast"] or {}).get("upper_rps"), ".2f"),
        )
        for decision in decisions
        if decision["action"] == "apply"
    ]
    header = ("time (UTC)", "reason", "what", "seen, rps", "planned for, rps")
    return _table("Decisions of the adaptive run that changed something.", header, rows, texts=3)
