"""Which running sums and products a partial plan must remember, stage by stage.

A label of the search carries one number for each *different* part of a set of stages that lies behind it: the
two branches of a tree share the number of their common stem. A set is forgotten once its last stage is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ipa.optimize.columns import Array, Index


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to the numbers at one stage.

    Number i afterwards is made of number `source[i]` before, with the stage's own where `joins[i]`. `place`
    says which number belongs to each set that was open before the stage; `kept` are the numbers that are
    remembered.
    """

    source: Index
    joins: Index
    place: dict[int, int]
    kept: Index

    def add(self, numbers: Array, own: Array) -> Array:
        """(numbers × labels) and one own number a label to the numbers after the stage."""
        after = numbers[self.source]
        after[self.joins] += own
        return after

    def multiply(self, numbers: Array, own: Array) -> Array:
        """As `add`, for products."""
        after = numbers[self.source]
        after[self.joins] *= own
        return after


@lru_cache(maxsize=1024)
def steps_of(sets: tuple[tuple[int, ...], ...], lasts: tuple[int, ...], stages: int) -> tuple[Step, ...]:
    """The step at each of the stages; set i is remembered until stage lasts[i] is done."""
    steps: list[Step] = []
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
            Step(
                np.array(source, dtype=np.intp),
                np.array(joins, dtype=np.intp),
                place,
                np.array(kept, dtype=np.intp),
            )
        )
        known = {key: kept.index(number) for key, number in numbers.items() if number in kept}
    return tuple(steps)
