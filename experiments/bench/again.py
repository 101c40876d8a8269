"""A second solve after a small change of the rate, with the first plan at hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from experiments.bench.cell import Cell
from experiments.bench.instances import instance
from experiments.bench.race import MESSAGES, SAME
from experiments.bench.rows import Row, cell_row, median_of
from experiments.bench.worker import timed

CHANGE_RATIO = 0.05


def again_row(cell: Cell, instances: int, deadline_s: float) -> Row:
    """The time of a solve of label setting that is told the plan of a rate 5 % lower or higher.

    `first_ms` is the median of the first solve, `cold_ms` that of the second where it is told nothing: the
    same problem, so that what the plan is worth is told apart from what the rate does. Problems without a
    first plan are left out. Told or not, the objectives must be equal.
    """
    times: dict[str, list[float]] = {"first": [], "told": [], "cold": []}
    failures: Counter[str] = Counter()
    messages: list[str] = []
    timed(instance(Cell(2, 2, 2), 0), "exact", deadline_s)
    for seed in range(instances):
        problem = instance(cell, seed)
        change = 1 + (CHANGE_RATIO if seed % 2 else -CHANGE_RATIO)
        changed = replace(problem, rate_rps=problem.rate_rps * change)
        first, plan = timed(problem, "exact", deadline_s)
        if plan is None or not plan.stages:
            if first["failure"]:
                failures[first["failure"]] += 1
                messages.append(f"{cell}, seed {seed}: {first['message']}")
            continue
        answers = {"first": first}
        starts = [("told", plan), ("cold", None)]
        for name, start in starts if seed % 4 < 2 else starts[::-1]:
            answers[name] = timed(changed, "exact", deadline_s, start)[0]
        for name, answer in answers.items():
            times[name].append(answer["ms"])
            if answer["failure"]:
                failures[answer["failure"]] += 1
                messages.append(f"{cell}, seed {seed}, {name}: {answer['message']}")
        told, cold = answers["told"]["objective"], answers["cold"]["objective"]
        if _differ(told, cold):
            failures["disagreement"] += 1
            messages.append(f"{cell}, seed {seed}: {told!r} told the first plan, {cold!r} not")
    return cell_row(
        "exact",
        cell,
        len(times["told"]),
        times["told"],
        failures.total(),
        first_ms=median_of(times["first"]),
        cold_ms=median_of(times["cold"]),
        disagreement=failures["disagreement"],
        error=failures["error"],
        messages=messages[:MESSAGES],
    )


def _differ(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is not other
    return abs(one - other) > SAME * max(1.0, abs(one))
