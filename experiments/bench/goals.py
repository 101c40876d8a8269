"""The goals, beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from experiments.bench.rows import Row


@dataclass(frozen=True, slots=True)
class Goal:
    """A limit on one figure of the rows that have these values."""

    words: str
    where: dict[str, Any]
    figure: str
    most: float


def _at(engine: str, variants: int, cores: int, figure: str, most: float) -> Goal:
    where = {
        "part": "sizes",
        "engine": engine,
        "stages": 10,
        "variants": variants,
        "batches": 7,
        "cores": cores,
        "accuracy": "product",
    }
    size = f"10×{variants}×7" + (f"×{cores}" if cores > 1 else "")
    return Goal(f"{size} product, {engine}: {figure.removesuffix('_ms')} ≤ {most:g} ms", where, figure, most)


GOALS = (
    *(
        Goal(
            f"IPA pipelines, {compat}: median ≤ 1 ms",
            {"part": "pipelines", "compat": compat},
            "median_ms",
            1.0,
        )
        for compat in ("ipa-artifact", "paper")
    ),
    _at("exact", 10, 1, "median_ms", 5.0),
    _at("exact", 10, 1, "worst_ms", 50.0),
    _at("gurobi", 10, 1, "median_ms", 20.0),
    _at("highs", 10, 1, "median_ms", 200.0),
    _at("exact", 20, 4, "median_ms", 100.0),
    Goal("fleet of 1 000 pipelines ≤ 1 s", {"part": "fleet", "pipelines": 1000}, "median_ms", 1000.0),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A goal, the worst figure of its rows (None: nothing was measured), and whether it was met."""

    words: str
    measured: float | None
    met: bool


def verdicts(rows: Sequence[Row], goals: Sequence[Goal] = GOALS) -> list[Verdict]:
    """Each goal met or missed: met where every row that it is about was measured and holds it."""
    verdicts = []
    for goal in goals:
        about = [row for row in rows if all(row.get(key) == value for key, value in goal.where.items())]
        figures = [row[goal.figure] for row in about]
        known = [float(figure) for figure in figures if figure is not None]
        worst = max(known, default=None)
        met = worst is not None and len(known) == len(figures) and worst <= goal.most
        verdicts.append(Verdict(goal.words, worst, met))
    return verdicts
