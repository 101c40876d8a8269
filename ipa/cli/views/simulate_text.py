"""A simulated run as a short table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from ipa.model.resources import BESIDE_CORES
from ipa.report.stats import span, with_half
from ipa.simulate.result import SimResult

# Changes that are printed; -o json has all.
MOST_CHANGES = 12


def result_lines(first: SimResult, seen: Mapping[str, Any], repeats: int) -> Iterator[RenderableType]:
    """Yield the figures, then the last changes; of several seeds, those of the first."""
    seeds = f"seed{'s' if repeats > 1 else ''} {span(first.seed, repeats)}"
    yield (
        f"Pipeline {first.pipeline}   policy {first.policy}   {seeds}   "
        f"{first.duration_s / 60:g} min   SLA {first.sla_s:.3g} s"
    )
    halves = seen.get("intervals", {})
    count = ".1f" if repeats > 1 else "d"

    def figure(name: str, form: str, unit: str = "", scale: float = 1) -> str:
        shown = with_half(seen[name], halves.get(name), form, scale=scale)
        return shown if seen[name] is None else f"{shown}{unit}"

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, text in (
        ("requests", figure("requests", count)),
        ("late or lost", figure("violation_ratio", ".2f", "%", 100)),
        ("lost", figure("lost", count)),
        ("latency p50", figure("latency_p50_s", ".3f", " s")),
        ("latency p99", figure("latency_p99_s", ".3f", " s")),
        ("PAS, mean over time", figure("pas_mean", ".4f")),
        ("cores, mean over time", figure("cores_mean", ".2f")),
        *((f"{name}, mean over time", figure(key, ".2f")) for name, key in _others(seen)),
        *(
            [("cost, mean over time", figure("usd_per_hour", ".3f", " USD/h"))]
            if "usd_per_hour" in seen
            else []
        ),
        ("changes", figure("changes", count)),
        *([("ticks that failed", figure("failed_ticks", count))] if seen["failed_ticks"] else []),
    ):
        table.add_row(name, text)
    yield table
    changes = [tick for tick in first.ticks if tick.reason.startswith("apply.")]
    of_first = f" of seed {first.seed}" if repeats > 1 else ""
    if len(changes) > MOST_CHANGES:
        yield f"The last {MOST_CHANGES} of {len(changes)} changes{of_first}:"
    elif changes and of_first:
        yield f"The changes{of_first}:"
    for tick in changes[-MOST_CHANGES:]:
        yield f"  {tick.at_s:6.0f} s  {tick.reason:<22} {tick.configs}"


def _others(seen: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The resources other than cores that were held, in words, each with the key of its mean."""
    known = {f"{each.attribute}_mean": each.words for each in BESIDE_CORES}
    kinds = {key: key.removesuffix("_mean") for key in seen if "/" in key and key.endswith("_mean")}
    return [(words, key) for key, words in (known | kinds).items() if key in seen]
