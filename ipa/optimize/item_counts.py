"""The possible numbers of items of a request at each stage, if earlier stages' variants decide them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ipa.model.errors import InputError
from ipa.optimize.problem import PlanningProblem

# Stages with more possible numbers of items are not planned.
MOST_LEVELS = 512


@dataclass(frozen=True, slots=True)
class ItemCount:
    """A number of items that a request may bring to a stage, and the numbers that its children then get."""

    number: int
    items: float
    # For each child, by the stage's variant.
    onward: tuple[tuple[int, ...], ...]


def levels_of(problem: PlanningProblem) -> list[list[ItemCount]]:
    """For each stage its possible numbers of items; one if no fan-out depends on a variant."""
    stages, graph = problem.stages, problem.graph
    if not any(isinstance(edge.fan_out, Mapping) for stage in stages for edge in stage.after):
        return _constant_levels(problem)
    numbers: list[dict[str, int]] = [{} for _ in stages]
    items: list[list[float]] = [[] for _ in stages]
    numbers[0], items[0] = {_key(1.0): 0}, [1.0]
    onward: list[list[list[tuple[int, ...]]]] = [[] for _ in stages]
    for at, stage in enumerate(stages):
        names = stage.columns.variants or ("",)
        for value in items[at]:
            by_child = []
            for child in graph.children[at]:
                edge = next(edge for edge in stages[child].after if edge.parent == stage.name)
                reached = [value * edge.items(name) for name in names]
                for each in reached:
                    if numbers[child].setdefault(_key(each), len(items[child])) == len(items[child]):
                        items[child].append(each)
                by_child.append(tuple(numbers[child][_key(each)] for each in reached))
            onward[at].append(by_child)
        if len(items[at]) > MOST_LEVELS:
            raise InputError(
                f"stage {stage.name!r} may see more than {MOST_LEVELS} numbers of items of a request",
                hint="Give fewer fan-outs by variant before it, or equal ones to like variants.",
            )
    return [
        [ItemCount(number, value, tuple(onward[at][number])) for number, value in enumerate(items[at])]
        for at in range(len(stages))
    ]


def _constant_levels(problem: PlanningProblem) -> list[list[ItemCount]]:
    items: dict[str, float] = {}
    levels = []
    for stage, children in zip(problem.stages, problem.graph.children, strict=True):
        items[stage.name] = items[stage.after[0].parent] * stage.after[0].items("") if stage.after else 1.0
        onward = (0,) * max(1, len(stage.columns.variants))
        levels.append([ItemCount(0, items[stage.name], (onward,) * len(children))])
    return levels


def _key(items: float) -> str:
    """A key that is equal for numbers of items that differ only by rounding."""
    return f"{items:.10g}"
