"""`python -m experiments.growth`: what a tick adds to the store, and what a hundred pipelines come to."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from experiments.growth.run import Growth, GrowthSetup, grow, projected_bytes

HUNDRED = 100
# What is asked for.
MOST_HOLD_BYTES, MOST_MONTH_BYTES, MOST_YEAR_BYTES = 1000, 2e9, 25e9


def main() -> int:
    """0 if every figure is within its bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ticks", type=int, default=1500, help="of 10 s each, by each pipeline")
    parser.add_argument("--pipelines", type=int, default=2)
    parser.add_argument("--load", choices=("day", "demo"), default="day", help="a day's, or that of ipa demo")
    parser.add_argument("--cluster", action="store_true", help="metrics as Prometheus has them on Kubernetes")
    parser.add_argument("--out", type=Path, default=Path("runs/growth"), help="folder of growth.json")
    args = parser.parse_args()
    with TemporaryDirectory(prefix="ipa-growth-") as folder:
        setup = GrowthSetup(Path(folder), args.pipelines, args.ticks, load=args.load, cluster=args.cluster)
        growth = grow(setup)
    assert growth.stats is not None and growth.pruned is not None
    figures = figures_of(growth)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "growth.json").write_text(json.dumps(figures, indent=1), encoding="utf-8")
    for name, value in figures.items():
        print(f"{name:48} {value:>14,.4g}")
    return int(not within(figures))


def figures_of(growth: Growth) -> dict[str, float]:
    """The figures by their names."""
    stats, pruned = growth.stats, growth.pruned
    assert stats is not None and pruned is not None
    # What stays is measured after pruning, the rest before it.
    month, year = (
        projected_bytes(stats, pruned, growth.setup.retention, 8640 * HUNDRED, days) for days in (30, 365)
    )
    full = stats.sealed_bytes / stats.decisions
    stay = pruned.sealed_bytes
    recorded = growth.holds + growth.changes
    return {
        "ticks": recorded,
        "changes": growth.changes,
        "people's acts": growth.acts,
        "bytes a tick, as it is written": growth.hold_bytes,
        "bytes a decision, sealed": full,
        "bytes a change with what became of it, for ever": stay / max(growth.changes, 1),
        "bytes a pipeline and day, every decision": full * 8640,
        "GB a day, 100 pipelines": full * 8640 * HUNDRED / 1e9,
        "GB after 30 days, 100 pipelines": month / 1e9,
        "GB after a year, 100 pipelines": year / 1e9,
        "memory, MB at the end, with the simulator's": growth.memory_mb[-1] if growth.memory_mb else 0.0,
        "ms a tick": growth.tick_ms,
        "longest background write, ms": growth.longest_write_ms,
        "seconds to verify all, row by row": growth.verify_s,
        "the chain is whole": float(growth.is_whole),
    }


def within(figures: dict[str, float]) -> bool:
    """True if all are as they are asked for."""
    return (
        figures["bytes a tick, as it is written"] <= MOST_HOLD_BYTES
        and figures["GB after 30 days, 100 pipelines"] <= MOST_MONTH_BYTES / 1e9
        and figures["GB after a year, 100 pipelines"] <= MOST_YEAR_BYTES / 1e9
        and bool(figures["the chain is whole"])
    )


if __name__ == "__main__":
    sys.exit(main())
