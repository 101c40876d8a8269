"""One fitted correction: a layer of tanh units, by construction rising in what makes a stage slower."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experiments.queueing.stage_loop import Floats

# Rows of `ipa.queueing.tail.Parts.features`: independent of service and replicas; rising with slower service
# or fewer replicas; the same with slope one in their logarithms.
FREE, RISING, EVEN = slice(0, 8), slice(8, 16), slice(16, 19)
ROWS = (FREE.stop - FREE.start, RISING.stop - RISING.start, EVEN.stop - EVEN.start)
# How hard a fall beyond the budget is punished while fitting.
STIFFNESS = 20.0


@dataclass
class Correction:
    """Weights of `free` units that see only free rows, and of `rising` units that see all.

    A rising unit's weights on rising rows, and on its output, are squares. On even rows they may be negative
    as long as the output falls by no more than `budget` for each unit that the even rows rise: what it
    corrects rises at least that fast.
    """

    free: int
    rising: int
    budget: float = 0.0
    cache: Any = field(default=None, repr=False)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of the blocks of the weights, in their order."""
        few, many = (self.free,), (self.rising,)
        first = [(ROWS[0], *few), few, few]
        return [*first, *([(rows, *many) for rows in ROWS] + [many, many, (1,)] if self.rising else [])]

    @property
    def size(self) -> int:
        """The number of weights."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def blocks(self, weights: Floats) -> list[Floats]:
        """Views of the weights."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])
        return [
            part.reshape(shape) for part, shape in zip(np.split(weights, ends[:-1]), self.shapes, strict=True)
        ]

    def even(self, weights: Floats) -> Floats:
        """The weights on even rows as they count."""
        return weights if self.budget else weights * weights

    def value(self, weights: Floats, rows: Floats) -> Floats:
        """The correction of each option; `rows` are the features, scaled."""
        w0, c0, a0, *rest = self.blocks(weights)
        h0 = np.tanh(w0.T @ rows[FREE] + c0[:, None])
        total, h1 = a0 @ h0, None
        if rest:
            w1, wm, ws, c, a, d = rest
            inner = w1.T @ rows[FREE] + (wm * wm).T @ rows[RISING] + self.even(ws).T @ rows[EVEN]
            h1 = np.tanh(inner + c[:, None])
            total = total + (a * a) @ h1 + d[0]
        self.cache = rows, h0, h1
        return np.asarray(total)

    def gradient(self, weights: Floats, slopes: Floats) -> Floats:
        """Of a sum that changes by `slopes` with each option's value, after `value`."""
        rows, h0, h1 = self.cache
        _, _, a0, *rest = self.blocks(weights)
        result = np.zeros_like(weights)
        g0, gc0, ga0, *grest = self.blocks(result)
        inner = slopes * a0[:, None] * (1.0 - h0 * h0)
        g0[:], gc0[:], ga0[:] = rows[FREE] @ inner.T, inner.sum(axis=1), h0 @ slopes
        if rest:
            _, wm, ws, _, a, _ = rest
            g1, gm, gs, gc, ga, gd = grest
            inner = slopes * (a * a)[:, None] * (1.0 - h1 * h1)
            g1[:], gm[:] = rows[FREE] @ inner.T, 2.0 * wm * (rows[RISING] @ inner.T)
            gs[:] = (1.0 if self.budget else 2.0 * ws) * (rows[EVEN] @ inner.T)
            gc[:], ga[:], gd[0] = inner.sum(axis=1), 2.0 * a * (h1 @ slopes), slopes.sum()
        return result

    def excess(self, weights: Floats) -> float:
        """By how much the budget is exceeded."""
        if not self.budget:
            return 0.0
        *_, ws, _, a, _ = self.blocks(weights)
        return float((np.maximum(-ws, 0.0) @ (a * a)).sum() - self.budget)

    def penalty(self, weights: Floats) -> tuple[float, Floats]:
        """The cost of exceeding the budget, and its gradient."""
        result, over = np.zeros_like(weights), self.excess(weights)
        if over <= 0.0:
            return 0.0, result
        *_, ws, _, a, _ = self.blocks(weights)
        *_, gs, _, ga, _ = self.blocks(result)
        gs[:] = -2.0 * STIFFNESS * over * (ws < 0.0) * (a * a)
        ga[:] = 4.0 * STIFFNESS * over * a * np.maximum(-ws, 0.0).sum(axis=0)
        return STIFFNESS * over * over, result

    def within_budget(self, weights: Floats) -> Floats:
        """The weights with the negative ones shrunk until the budget holds."""
        result, over = weights.copy(), self.excess(weights)
        if over > 0.0:
            *_, ws, _, _, _ = self.blocks(result)
            ws[ws < 0.0] *= self.budget / (self.budget + over)
        return result

    def table(self, weights: Floats, centre: Floats, width: Floats) -> tuple[Floats, Floats, Floats, float]:
        """Units by features, offsets, output weights and the constant, for features that are not scaled."""
        w0, c0, a0, *rest = self.blocks(weights)
        units = np.zeros((self.free + (self.rising if rest else 0), sum(ROWS)))
        units[: self.free, FREE] = w0.T
        offsets, out, constant = c0, a0, 0.0
        if rest:
            w1, wm, ws, c, a, d = rest
            units[self.free :, FREE], units[self.free :, RISING] = w1.T, (wm * wm).T
            units[self.free :, EVEN] = self.even(ws).T
            offsets, out, constant = np.concatenate([c0, c]), np.concatenate([a0, a * a]), float(d[0])
        units = units / width
        return units, offsets - units @ centre, out, constant
