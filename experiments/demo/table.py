"""The demo's table as Markdown, put into a page: `python -m experiments.demo.table SUMMARY.json`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.measured import put

NAMES = {
    "adaptive": "adaptive",
    "static-smallest": "smallest plan that carries the peak",
    "static-largest": "largest plan",
    "static-largest-resident": "largest plan, its queues choose",
}
# Fixed plans, as without this service: their queues choose no other variants.
FIXED = ("static-smallest", "static-largest")
# A share of requests in time is equal within what a run of some hundred requests can tell.
EQUAL_RATIO = 0.005


def markdown(summary: Mapping[str, Any]) -> str:
    """The conditions, the table and the win: the accuracy at an equal share of requests in time."""
    runs = {name: summary["runs"][name] for name in NAMES}
    load = summary.get("load_before")
    beside = "a load not recorded" if load is None else f"a load average of {load:.1f} before it"
    lines = [
        f"Made {summary['made_at'][:10]} on {summary['machine']['cores']} cores with {beside} and "
        f"{summary['neighbours']} busy loops beside; SLA {summary['sla_s']:g} s; "
        f"{summary['rate_rps']['low']:.2g} to {summary['rate_rps']['high']:.2g} pages a second.",
        "",
        f"| | {' | '.join(NAMES.values())} |",
        f"|---|{'---|' * len(NAMES)}",
    ]
    rows = {
        f"within the SLA of {summary['sla_s']:g} s": lambda run: f"{run['within_sla_ratio']:.1%}",
        "measured accuracy of the answers": lambda run: f"{run['accuracy']:.3f}",
        "cores, mean": lambda run: f"{run['cores_mean']:.2f}",
        "latency p50, p99": lambda run: f"{run['latency_p50_s']:.2f} s, {run['latency_p99_s']:.2f} s",
        "answered / dropped / failed": lambda run: f"{run['answered']} / {run['dropped']} / {run['failed']}",
        "variant switches; replica or core changes": lambda run: (
            f"{run['variant_switches']}; {run['replica_or_core_changes']}"
        ),
    }
    lines += [f"| {name} | {' | '.join(map(cell, runs.values()))} |" for name, cell in rows.items()]
    return "\n".join([*lines, "", win(runs)])


def win(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """The comparison with the most accurate fixed plan that has as many requests in time.

    With the one that has most in time if none has as many.
    """
    own, by_queues = runs["adaptive"], runs["static-largest-resident"]
    lead = {name: runs[name]["within_sla_ratio"] - own["within_sla_ratio"] for name in FIXED}
    as_many = [name for name in FIXED if lead[name] >= -EQUAL_RATIO]
    rival = (
        max(as_many, key=lambda name: runs[name]["accuracy"]) if as_many else max(lead, key=lead.__getitem__)
    )
    other = runs[rival]
    ours, theirs = f"{own['accuracy']:.3f}", f"{other['accuracy']:.3f}"
    in_time = f"{own['within_sla_ratio']:.1%} at {ours} against {other['within_sla_ratio']:.1%} at {theirs}"
    if not as_many:
        verdict = f"**No fixed plan had as many requests in time: {in_time}** of the {NAMES[rival]}."
    elif lead[rival] > EQUAL_RATIO:
        verdict = f"In this run the {NAMES[rival]} had more requests in time: {in_time}."
    elif other["accuracy"] > own["accuracy"]:
        verdict = (
            f"In this run the {NAMES[rival]} was more accurate at an equal share of requests in time: "
            f"{theirs} against {ours}."
        )
    else:
        verdict = (
            f"**At an equal share of requests in time, the answers were more accurate: {ours} against "
            f"{theirs}** of the {NAMES[rival]}."
        )
    return (
        f"{verdict} The largest plan whose queues choose had {by_queues['within_sla_ratio']:.1%} in time at "
        f"{by_queues['accuracy']:.3f}, with {by_queues['cores_mean']:.2f} cores instead of "
        f"{own['cores_mean']:.2f}."
    )


def main() -> None:
    """Put the table of a summary into the page of what was measured."""
    put("make demo", markdown(json.loads(Path(sys.argv[1]).read_text("utf-8"))))


if __name__ == "__main__":
    main()
