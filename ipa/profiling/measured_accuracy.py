"""The accuracy of a variant, measured from labels of the requests that it served.

A confidence sequence by hedged betting (Waudby-Smith & Ramdas, arXiv 2010.09686): bets against a candidate
for the accuracy win in the long run only if it is wrong, so a candidate is refuted once they won 2/ERROR
times the stake, whenever one looks. Labels are few and agreements with a more accurate variant are many, so a
label counts less what its own agreement explains (prediction-powered inference, PPI++, arXiv 2311.01453):
C − λ·(A − Ā), with Ā the mean of agreements that no other label uses and λ fitted on earlier labels. Its
expectation is exactly the accuracy, whatever λ is. Labels must be a random sample of the requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from math import floor, log, sqrt
from operator import itemgetter

import numpy as np
from numpy.typing import NDArray

# The probability that the interval ever leaves out an accuracy that does not change.
ERROR = 0.002
LOG_LIMIT = log(2 / ERROR)
# Candidates are this far apart, with the profile's accuracy among them; bounds lie just inside refuted ones.
RESOLUTION, INSIDE = 0.01, 1e-4
# No accuracy is less: planners take logarithms.
LEAST = 1e-9
# Bets are for a decision after this many labels, and stake at most this share of what may be lost.
BET_LABELS, MOST_STAKE = 150, 0.97
# Agreements that wait for a label, evenly: a label uses up the fullest pool. Pools are chosen by their number
# alone, since one that is chosen by its sum would be biased.
POOLS, NUMBER = 16, itemgetter(0)
# As if five labels had been explained by 80 %, which is usual for variants of one stage: number, then sums of
# C, A, C·A and A².
FIRST_FIT = (5.0, 3.75, 3.75, 3.5625, 3.75)


@dataclass(frozen=True, slots=True)
class Feedback:
    """The judgement of the `variant`'s answer to a request, each 0 to 1 or None if unknown.

    `correct`: it is right; `agrees`: the most accurate variant answers the same.
    """

    correct: float | None = None
    agrees: float | None = None
    stage: str = ""
    variant: str = ""
    request: str = ""


@dataclass(frozen=True, slots=True)
class AccuracyInterval:
    """The accuracy of a variant by its profile, and as `labels` measured it: the mean and its bounds.

    `mean` is None without labels. `contradicts`: the profile's is outside the bounds.
    """

    variant: str
    profiled: float
    labels: int
    mean: float | None
    lower: float
    upper: float
    contradicts: bool


@dataclass(frozen=True, slots=True)
class MeasuredAccuracy:
    """The accuracy of a variant as measured, beside the `profiled` one.

    `first` is the place of the lowest candidate that is not refuted, in RESOLUTIONs from the profiled one.
    `wealth` has for it and for each above it the logarithms of the wealth of bets on more and on less.
    `payoffs` are the sum and the sum of squares of the labels less what agreements explain, `fit` has the
    sums of FIRST_FIT, and `pools` the number and sum of the agreements that wait in each.
    """

    stage: str
    variant: str
    profiled: float
    labels: int = 0
    first: int = 0
    wealth: tuple[tuple[float, float], ...] = ()
    payoffs: tuple[float, float] = (0.0, 0.0)
    fit: tuple[float, ...] = FIRST_FIT
    pools: tuple[tuple[int, float], ...] = ()

    @property
    def interval(self) -> AccuracyInterval:
        """The interval now; a bound without a refuted candidate is open."""
        (low, high), after = _ends(self.profiled), self.first + len(self.wealth)
        lower, upper, mean = LEAST, 1.0, None
        if self.wealth and self.first > low:
            lower = self.profiled + (self.first - 1) * RESOLUTION + INSIDE
        if self.wealth and after <= high:
            upper = self.profiled + after * RESOLUTION - INSIDE
        if self.labels:
            mean = min(max(self.payoffs[0] / self.labels, lower), upper)
        is_off = not lower <= self.profiled <= upper
        return AccuracyInterval(self.variant, self.profiled, self.labels, mean, lower, upper, is_off)

    def with_feedback(self, feedback: Iterable[Feedback]) -> MeasuredAccuracy:
        """The measurement after these judgements, in their order.

        If every candidate is refuted the accuracy has changed: the measurement begins anew.
        """
        pools = [list(pool) for pool in self.pools or ((0, 0.0),) * POOLS]
        fit, (total, squares), labels = np.array(self.fit), self.payoffs, self.labels
        rows = []
        for each in feedback:
            if each.correct is None:
                emptiest = min(pools, key=NUMBER)
                emptiest[:] = emptiest[0] + 1, emptiest[1] + (each.agrees or 0.0)
                continue
            payoff, weight = each.correct, 0.0
            if each.agrees is not None:
                fullest = max(pools, key=NUMBER)
                if fullest[0]:
                    weight = _explained(fit, fullest[0])
                    payoff -= weight * (each.agrees - fullest[1] / fullest[0])
                    fullest[:] = [0, 0.0]
                pair = (each.correct, each.agrees)
                fit += (1, *pair, pair[0] * pair[1], pair[1] ** 2)
            rows.append((payoff, weight, _bet(labels, total, squares)))
            labels, total, squares = labels + 1, total + payoff, squares + payoff**2
        first, wealth = self._refute(np.array(rows).reshape(-1, 3))
        if not wealth:
            return MeasuredAccuracy(self.stage, self.variant, self.profiled)
        return replace(
            self,
            labels=labels,
            first=first,
            wealth=wealth,
            payoffs=(round(total, 4), round(squares, 4)),
            fit=tuple(np.round(fit, 4).tolist()),
            pools=tuple((int(count), round(agreed, 4)) for count, agreed in pools),
        )

    def _refute(self, rows: NDArray[np.float64]) -> tuple[int, tuple[tuple[float, float], ...]]:
        """`first` and `wealth` after bets on these payoffs; no wealth if every candidate is refuted."""
        low, high = _ends(self.profiled)
        first = self.first if self.wealth else low
        before = np.array(self.wealth or ((0.0, 0.0),) * (high - low + 1))
        candidates = self.profiled + RESOLUTION * (first + np.arange(len(before)))
        payoff, weight, bet = (column[:, None] for column in rows.T)
        # A payoff is between −λ and 1 + λ.
        more = np.minimum(bet, MOST_STAKE / np.maximum(candidates + weight, INSIDE))
        less = np.minimum(bet, MOST_STAKE / np.maximum(1 + weight - candidates, INSIDE))
        won = np.log1p(np.stack([more, -less], axis=2) * (payoff - candidates)[:, :, None])
        wealth = np.concatenate([before[None], before + won.cumsum(axis=0)])
        (left,) = np.nonzero((wealth < LOG_LIMIT).all(axis=(0, 2)))
        if not len(left):
            return first, ()
        # Both wealths are monotonic over the candidates, so those that are left are neighbours.
        kept = wealth[-1, left[0] : left[-1] + 1]
        return first + int(left[0]), tuple((more, less) for more, less in np.round(kept, 3).tolist())


def _ends(profiled: float) -> tuple[int, int]:
    """The places of the lowest and the highest candidate."""
    return -floor(profiled / RESOLUTION + INSIDE), floor((1 - profiled) / RESOLUTION + INSIDE)


def _explained(fit: NDArray[np.float64], count: float) -> float:
    """λ, from 0 to 1: the covariance of C and A over the variance of A and of the mean of `count` others."""
    number, correct, agrees, both, square = fit.tolist()
    variance = square / number - (agrees / number) ** 2
    covariance = both / number - correct * agrees / number**2
    return min(max(covariance / variance * count / (count + 1), 0.0), 1.0) if variance > INSIDE else 0.0


def _bet(labels: int, total: float, squares: float) -> float:
    """The bet on the next payoff, by the deviation of the earlier ones; half a coin's before the first."""
    mean = (0.25 + total) / (labels + 0.5)
    variance = (0.125 + max(squares - 2 * mean * total + labels * mean**2, 0.0)) / (labels + 0.5)
    ahead = max(BET_LABELS, (labels + 1) * log(labels + 2) / log(BET_LABELS + 1))
    return sqrt(2 * LOG_LIMIT / (variance * ahead))
