"""The cells as a table in Markdown, with the goals below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from experiments.live.figures import Figures

HEAD = (
    *("policy", "within SLA", "settled", "accuracy", "goodput", "its first seconds included", "cores"),
    *(
        "blind",
        "changes (variants, replicas, batches)",
        "late / dropped / failed",
        "sent",
        "load average",
        "sender late, p99",
    ),
)


def render(
    cells: Sequence[Figures], refused: Mapping[tuple[str, str, str], str], missed: Sequence[str], about: str
) -> str:
    """The page of the run. `refused` has why a cell was not run, by pipeline, world and policy."""
    lines = ["# Policies on real processes", "", about, ""]
    for pipeline, world in dict.fromkeys((it.pipeline, it.world) for it in cells):
        own = [it for it in cells if (it.pipeline, it.world) == (pipeline, world)]
        lines += [f"## {pipeline}, {world}: {own[0].capacity_rps:.4g} rps measured", ""]
        lines += ["| " + " | ".join(HEAD) + " |", "|---|" + "--:|" * (len(HEAD) - 1)]
        lines += ["| " + " | ".join(row(it)) + " |" for it in own]
        lines.append("")
    if refused:
        lines += ["Not run:", ""]
        lines += [f"- {' · '.join(cell)}: {why}" for cell, why in refused.items()]
        lines.append("")
    lines += ["## Goals", ""]
    lines += [f"- missed: {words}" for words in missed] or ["All met."]
    return "\n".join(lines) + "\n"


def row(it: Figures) -> list[str]:
    """The cells of a row of the table."""
    failed = ", ".join(f"{count} {kind}" for kind, count in sorted(it.failed.items())) or "0"
    return [
        it.policy,
        _percent(it.within_ratio),
        _percent(it.settled_ratio),
        "–" if it.accuracy is None else f"{it.accuracy:.3f}",
        _percent(it.goodput_ratio),
        _percent(it.goodput_whole_ratio),
        f"{it.cores_mean:.2f}",
        f"{it.blind_ticks} of {it.ticks}",
        f"{it.variant_switches}, {it.replica_or_core_changes}, {it.batch_changes}",
        f"{it.late} / {it.dropped} / {failed}",
        str(it.sent),
        f"{it.load_average:.1f}",
        f"{1000 * it.sender_lag_s:.0f} ms",
    ]


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"
