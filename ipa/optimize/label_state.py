"""Running sums and products of partial plans, stage by stage.

A label of the search carries one number for each *different* prefix of a set of stages: the two branches of a
tree share the number of their common stem. A set is forgotten once its last stage is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ipa.optimize.columns import Array, Index


@dataclass(frozen=True, slots=True)
class LabelStep:
    """The update of the numbers at one stage.

    Number i afterwards is number `source[i]` before, joined with the stage's own where `joins[i]`. `place`
    maps each set that was open before the stage to its number; `kept` are the numbers needed later.
    """

    source: Index
    joins: Index
    place: dict[int, int]
    kept: Index
    # True if each number is joined with the stage's own, and if all are needed later: the usual case.
    is_plain: bool
    keeps_all: bool

    def add(self, numbers: Array, own: Array) -> Array:
        """(… × numbers × labels) and (…) own numbers a label to the numbers after the stage."""
        if self.is_plain:
            summed: Array = numbers + own[..., None, :]
            return summed
        after = numbers.take(self.source, axis=-2)
        after[..., self.joins, :] += own[..., None, :]
        return after

    def multiply(self, numbers: Array, own: Array) -> Array:
        """As `add`, for products of (numbers × labels)."""
        if self.is_plain:
            product: Array = numbers * own
            return product
        after = numbers.take(self.source, axis=0)
        after[self.joins] *= own
        return after

    def remembered(self, numbers: Array) -> Array:
        """Those of (… × numbers × labels) that are needed after the stage."""
        return numbers if self.keeps_all else numbers.take(self.kept, axis=-2)


@lru_cache(maxsize=1024)
def steps_of(sets: tuple[tuple[int, ...], ...], lasts: tuple[int, ...], stages: int) -> tuple[LabelStep, ...]:
    """The step at each of the stages; set i is needed until stage lasts[i] is done."""
    steps: list[LabelStep] = []
    known: dict[tuple[int, ...], int] = {(): 0}
    for stage in range(stages):
        numbers: dict[tuple[int, ...], int] = {}
        source: list[int] = []
        place: dict[int, int] = {}
        for at, members in enumerate(sets):
            if lasts[at] < stage:
                continue
            key = tuple(member for member in members if member <= stage)
            if key not in numbers:
                numbers[key] = len(source)
                source.append(known[tuple(member for member in key if member < stage)])
            place[at] = numbers[key]
        kept = sorted({place[at] for at in place if lasts[at] > stage})
        joins = [number for key, number in numbers.items() if key and key[-1] == stage]
        steps.append(
            LabelStep(
                np.array(source, dtype=np.intp),
                np.array(joins, dtype=np.intp),
                place,
                np.array(kept, dtype=np.intp),
                len(known) == len(source) and source == sorted(joins) == list(range(len(source))),
                kept == list(range(len(source))),
            )
        )
        known = {key: kept.index(number) for key, number in numbers.items() if number in kept}
    return tuple(steps)
