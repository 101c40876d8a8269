"""Local search: exchange one or two options of a plan at a time while the objective rises.

The plans that multipliers suggest lie a few exchanges from the best. Each exchange found here spares label
setting hundreds of labels: the better the known plan, the sooner a bound lies below it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

from ipa.optimize.bounding import Surrogates
from ipa.optimize.columns import Array, Index
from ipa.optimize.program import EQUAL, Program, fits, tolerance

# Exchanges of two are tried among this many of the most promising options on either side.
MOST_MOVES = 96
# Exchanges at the most; a dozen is usual.
MOST_ROUNDS = 50


def polished(program: Program, rows: Surrogates, prices: Array, chosen: Sequence[int]) -> tuple[int, ...]:
    """A plan within the limits that no tried exchange improves, starting from `chosen`, which is within them.

    `rows` are the limits as linear rows and `prices` the worth of a unit of each. `chosen` itself if
    accuracies neither add up nor multiply, or if a stage's option changes the items of another.
    """
    if not program.is_plain or any(stage.enter.any() or stage.leave.any() for stage in program.stages):
        return tuple(chosen)
    moves = _Moves(program, rows, prices)
    first = moves.first[:-1]
    now = first + np.array(chosen, dtype=np.intp)
    for _ in range(MOST_ROUNDS):
        if not moves.exchange(now):
            break
    better = tuple((now - first).tolist())
    return better if fits(program, better) else tuple(chosen)


class _Moves:
    """All options of all stages, one after the other, as moves from the present plan."""

    def __init__(self, program: Program, rows: Surrogates, prices: Array) -> None:
        counts = [len(stage) for stage in program.stages]
        self.first = np.cumsum([0, *counts])
        self._stage = np.repeat(np.arange(len(counts)), counts)
        self._alpha = program.alpha
        self._factor = np.concatenate([stage.factor for stage in program.stages])
        # The value, then the use of each limit.
        self._table = np.vstack(
            [np.concatenate([stage.value for stage in program.stages]), np.concatenate(rows.use, axis=1)]
        )
        self._most = np.array([limit + tolerance(abs(limit)) for limit in rows.most.tolist()])
        self._prices = prices
        self._quantiles = _Quantiles(program) if program.has_spread else None

    def exchange(self, now: Index) -> bool:
        """Exchange one or two options in `now` for a better plan; False if none is found."""
        stage = self._stage
        factors = self._factor[now]
        product = self._alpha * float(factors.prod())
        if self._alpha and not product:
            return False
        ratio = self._factor / factors[stage] if self._alpha else np.ones(len(stage))
        own = self._table[:, now]
        change = self._table - own[:, stage]
        room = self._most - own[1:].sum(axis=1)
        gain = product * (ratio - 1) + change[0]
        fitting = (change[1:] <= room[:, None]).all(axis=0)
        if self._quantiles is not None:
            fitting &= self._quantiles.in_time(now, stage)
        least = EQUAL * max(1.0, abs(product + float(own[0].sum())))
        alone = np.where(fitting, gain, -inf)
        best = int(alone.argmax())
        if alone[best] > least:
            now[stage[best]] = best
            return True
        return self._two(now, ratio, change, room, gain, product, least)

    def _two(
        self,
        now: Index,
        ratio: Array,
        change: Array,
        room: Array,
        gain: Array,
        product: float,
        least: float,
    ) -> bool:
        """One option of higher worth that does not fit, and one that makes room for it."""
        score = gain - self._prices @ change[1:]
        more = _highest(score, np.flatnonzero(gain > least))
        less = _highest(score, np.flatnonzero((change[1:] < 0).any(axis=0)))
        if not len(more) or not len(less):
            return False
        both = product * (ratio[more, None] * ratio[less] - 1) + (change[0, more, None] + change[0, less])
        fitting = self._stage[more, None] != self._stage[less]
        for used, free in zip(change[1:], room, strict=True):
            fitting &= used[more, None] + used[less] <= free
        if self._quantiles is not None:
            fitting &= self._quantiles.in_time_of_two(now, self._stage, more, less)
        both[~fitting] = -inf
        row, column = divmod(int(both.argmax()), len(less))
        if both[row, column] <= least:
            return False
        for move in (more[row], less[column]):
            now[self._stage[move]] = move
        return True


class _Quantiles:
    """The exchanges that keep every path in time, spread included."""

    def __init__(self, program: Program) -> None:
        self._paths = program.graph.paths
        self._sla_s = program.sla_s + tolerance(program.sla_s)
        self._mean = np.concatenate([stage.mean_s for stage in program.stages])
        self._spread = np.concatenate([stage.spread_s2 for stage in program.stages])
        self._member = np.zeros((len(self._paths), len(program.stages)))
        for at, path in enumerate(self._paths):
            self._member[at, list(path)] = 1.0

    def in_time(self, now: Index, stage: Index) -> NDArray[np.bool_]:
        """True for single options that may replace their stage's own."""
        good = np.ones(len(stage), dtype=bool)
        for member, mean, spread in self._changes(now, stage):
            good &= member[0] + mean + np.sqrt(np.maximum(member[1] + spread, 0.0)) <= self._sla_s
        return good

    def in_time_of_two(self, now: Index, stage: Index, more: Index, less: Index) -> NDArray[np.bool_]:
        """[i, j]: True if options more[i] and less[j] may both be taken."""
        good = np.ones((len(more), len(less)), dtype=bool)
        for member, mean, spread in self._changes(now, stage):
            varied = member[1] + (spread[more, None] + spread[less])
            late = member[0] + (mean[more, None] + mean[less])
            good &= late + np.sqrt(np.maximum(varied, 0.0)) <= self._sla_s
        return good

    def _changes(self, now: Index, stage: Index) -> list[tuple[tuple[float, float], Array, Array]]:
        """For each path its present mean and spread, and their change by each option."""
        mean, spread = self._mean[now], self._spread[now]
        mean_change, spread_change = self._mean - mean[stage], self._spread - spread[stage]
        return [
            (
                (float(member @ mean), float(member @ spread)),
                mean_change * member[stage],
                spread_change * member[stage],
            )
            for member in self._member
        ]


def _highest(score: Array, at: Index) -> Index:
    """Those of the candidates whose score is the highest."""
    if len(at) <= MOST_MOVES:
        return at
    return at[np.argpartition(-score[at], MOST_MOVES)[:MOST_MOVES]]
