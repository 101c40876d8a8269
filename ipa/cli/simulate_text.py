"""A simulated run as a short table for people."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from ipa.cli.plan_text import print_line
from ipa.simulate.result import SimResult

# A longer list of changes is for -o json and the record.
MOST_CHANGES = 12


def print_result(result: SimResult, console: Console) -> None:
    """Print the run's figures, then the last of its changes."""
    seen = result.summary()
    print_line(
        console,
        f"Pipeline {result.pipeline}   policy {result.policy}   seed {result.seed}   "
        f"{result.duration_s / 60:g} min   SLA {result.sla_s:.3g} s",
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, text in (
        ("requests", f"{seen['requests']}"),
        ("late or lost", f"{seen['violation_ratio']:.2%}"),
        ("lost", f"{seen['lost']}"),
        ("latency p50", _seconds(seen["latency_p50_s"])),
        ("latency p99", _seconds(seen["latency_p99_s"])),
        ("PAS, mean over time", f"{seen['pas_mean']:.4f}"),
        ("cores, mean over time", f"{seen['cores_mean']:.2f}"),
        ("changes", f"{seen['changes']}"),
    ):
        table.add_row(name, text)
    console.print(table)
    changes = [tick for tick in result.ticks if tick.reason.startswith("apply.")]
    if len(changes) > MOST_CHANGES:
        print_line(console, f"The last {MOST_CHANGES} of {len(changes)} changes:")
    for tick in changes[-MOST_CHANGES:]:
        print_line(console, f"  {tick.at_s:6.0f} s  {tick.reason:<22} {tick.configs}")


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f} s"
