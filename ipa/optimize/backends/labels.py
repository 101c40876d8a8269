"""Partial plans as columns of numbers, and their expansion by one stage.

A label carries one number for each *different* prefix of a set of stages: the two branches of a tree share
the number of their common stem. A number is dropped once the last stage of its sets is done.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import inf

import numpy as np
from numpy.typing import NDArray

from ipa.optimize.bounding import Surrogates
from ipa.optimize.problem import Array, Index
from ipa.optimize.program import PLACE, Program, tolerance


@dataclass(frozen=True, slots=True)
class LabelStep:
    """The update of the numbers at one stage.

    Number i after the stage is number `source[i]` before it, combined with the stage's own if `joins[i]`.
    `place` maps each set that was open before the stage to its number; `needed` are those that later stages
    need.
    """

    source: Index
    joins: Index
    place: dict[int, int]
    needed: Index
    # True if each number is joined with the stage's own, and if all are needed later: the usual case.
    is_plain: bool
    keeps_all: bool

    def join(self, operation: np.ufunc, numbers: Array, own: Array) -> Array:
        """Join the stage's own numbers (… × labels) to (… × numbers × labels): those after the stage."""
        joined: Array
        if self.is_plain:
            joined = operation(numbers, own[..., None, :])
            return joined
        joined = numbers.take(self.source, axis=-2)
        joined[..., self.joins, :] = operation(joined[..., self.joins, :], own[..., None, :])
        return joined

    def remembered(self, numbers: Array) -> Array:
        """The numbers of (… × numbers × labels) that later stages need."""
        return numbers if self.keeps_all else numbers.take(self.needed, axis=-2)


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
        needed = sorted({place[at] for at in place if lasts[at] > stage})
        joins = [number for key, number in numbers.items() if key and key[-1] == stage]
        steps.append(
            LabelStep(
                np.array(source, dtype=np.intp),
                np.array(joins, dtype=np.intp),
                place,
                np.array(needed, dtype=np.intp),
                len(known) == len(source) and source == sorted(joins) == list(range(len(source))),
                needed == list(range(len(source))),
            )
        )
        known = {key: needed.index(number) for key, number in numbers.items() if number in needed}
    return tuple(steps)


# The quantities that the first rows of `PartialPlans.sums` add up.
OWN = [PLACE[name] for name in ("value", "changes", "cost")]
# Rows of `PartialPlans.sums` before those of the limits.
VALUE, CHANGES, COST, LIMITS = range(4)


@dataclass(frozen=True, slots=True)
class PartialPlans:
    """Partial plans, one per column, in the order of names.

    `sums` adds up along the stages: the value so far, the tie-breakers (changes, cost), and the use of each
    limit as a linear row, those of the paths first. `times` are the means along the open paths and, if any
    time varies, the squared spreads; `latest` is the latency of the completed paths. `products` are the open
    products of each accuracy, `reached` its completed part, `due` the number of items of stages to come.
    `made` are the parent label and the option.
    """

    sums: Array
    times: Array
    latest: Array
    products: tuple[Array, ...]
    reached: tuple[Array, ...]
    due: dict[int, Index]
    made: Index

    def __len__(self) -> int:
        return len(self.latest)

    @property
    def value(self) -> Array:
        """The part of the objective that is a sum over the stages."""
        value: Array = self.sums[VALUE]
        return value

    def take(self, at: Index) -> PartialPlans:
        """Return only the labels at these indices."""
        return PartialPlans(
            self.sums.take(at, axis=1),
            self.times.take(at, axis=2),
            self.latest.take(at),
            tuple(product.take(at, axis=1) for product in self.products),
            tuple(reached.take(at) for reached in self.reached),
            {stage: number.take(at) for stage, number in self.due.items()},
            self.made.take(at, axis=1),
        )


@dataclass(frozen=True, slots=True)
class Accuracy:
    """An accuracy that labels track: `own` is each option's factor, `floor` the least allowed at the end.

    `largest` is, for each depth, the largest factor of each stage.
    """

    own: tuple[Array, ...]
    floor: float
    steps: tuple[LabelStep, ...]
    # For each term: its weight, and its alternatives' sets, numbered as in the steps.
    terms: tuple[tuple[float, tuple[int, ...]], ...]
    sets: tuple[tuple[int, ...], ...]
    lasts: tuple[int, ...]

    def could_reach(self, depth: int, products: Array, reached: Array) -> Array:
        """The highest accuracy reachable after the first `depth` stages with these open products."""
        most = reached.copy()
        after = self.steps[depth - 1] if depth else None
        for weight, alternatives in self.terms:
            if depth and self.lasts[alternatives[0]] < depth:
                continue
            best: Array | None = None
            for at in alternatives:
                number = int(np.searchsorted(after.needed, after.place[at])) if after else 0
                rest = 1.0
                for stage in self.sets[at]:
                    if stage >= depth:
                        rest *= float(self.own[stage].max())
                so_far = products[number] * rest
                best = so_far if best is None else np.maximum(best, so_far)
            assert best is not None
            most += weight * best
        return most


def accuracies_of(program: Program) -> tuple[Accuracy, ...]:
    """The accuracies that labels must track: the objective's, and PAS if its floor needs it."""
    accuracies = []
    if program.alpha > 0:
        accuracies.append(_accuracy(program, "factor", -inf))
    if program.log_floor > -inf and not program.graph.is_product:
        accuracies.append(_accuracy(program, "accuracy", float(np.exp(program.log_floor))))
    return tuple(accuracies)


def _accuracy(program: Program, column: str, floor: float) -> Accuracy:
    sets: list[tuple[int, ...]] = []
    lasts: list[int] = []
    terms = []
    for term in program.graph.terms:
        last = max(stages[-1] for stages in term.alternatives)
        terms.append((term.weight, tuple(range(len(sets), len(sets) + len(term.alternatives)))))
        sets.extend(term.alternatives)
        lasts.extend([last] * len(term.alternatives))
    own = tuple(getattr(stage, column) for stage in program.stages)
    steps = steps_of(tuple(sets), tuple(lasts), len(program.stages))
    return Accuracy(own, floor, steps, tuple(terms), tuple(sets), tuple(lasts))


def _levels(program: Program) -> list[bool]:
    """For each stage, True if stages before it may send other numbers of items than its option expects.

    A reduced program may keep one number at a stage, and more in the options of the stages before it.
    """
    numbers = [set(stage.enter.tolist()) for stage in program.stages]
    for at, children in enumerate(program.graph.children):
        for place, child in enumerate(children):
            numbers[child].update(program.stages[at].leave[place].tolist())
    return [len(items) > 1 for items in numbers]


class LabelExpansion:
    """Expands labels by a stage, and drops those whose every completion breaks a limit."""

    def __init__(self, program: Program, rows: Surrogates) -> None:
        self._stages = program.stages
        self._children = program.graph.children
        self.accuracies = accuracies_of(program)
        paths, depth = program.graph.paths, len(program.stages)
        self._paths = steps_of(paths, tuple(path[-1] for path in paths), depth)
        self._own = [
            np.concatenate([stage.numbers[OWN], use])
            for stage, use in zip(program.stages, rows.use, strict=True)
        ]
        kinds = ["mean_s", "spread_s2"] if program.has_spread else ["mean_s"]
        self._times = [stage.numbers[[PLACE[kind] for kind in kinds]] for stage in program.stages]
        # The first row of the sums whose limit is not a path's.
        self.linear = LIMITS + len(paths)
        self._row_count = LIMITS + len(rows.most)
        self._room = _room([own[self.linear :] for own in self._own], rows.most[len(paths) :])
        least = [times.min(axis=1) for times in self._times]
        self._rest = [self._rests(at, paths, least) for at in range(depth)]
        self._sla = program.sla_s + tolerance(program.sla_s)
        self._levels = _levels(program)
        # For each stage: True if a path has ended, or a term of each accuracy is complete, after it.
        first = min(path[-1] for path in paths)
        self.has_ended = [at >= first for at in range(depth)]
        self.has_complete = [
            tuple(at >= min(accuracy.lasts) for accuracy in self.accuracies) for at in range(depth)
        ]

    def _rests(
        self, at: int, paths: tuple[tuple[int, ...], ...], least: list[Array]
    ) -> list[tuple[int, list[float], bool]]:
        """For each path open at the stage: its number, the least remaining time, and True if it ends."""
        rests = []
        for number in self._paths[at].place:
            rest = [stage for stage in paths[number] if stage > at]
            to_come = sum((least[stage] for stage in rest), np.zeros_like(least[at]))
            rests.append((self._paths[at].place[number], to_come.tolist(), not rest))
        return rests

    def start(self) -> PartialPlans:
        """The one label without stages."""
        one, zero = np.ones((1, 1)), np.zeros(1)
        return PartialPlans(
            np.zeros((self._row_count, 1)),
            np.zeros((len(self._times[0]), 1, 1)),
            # The released formula gives times below zero.
            np.full(1, -inf),
            tuple(one for _ in self.accuracies),
            tuple(zero for _ in self.accuracies),
            {},
            np.zeros((2, 1), dtype=np.intp),
        )

    def grow(self, labels: PartialPlans, at: int) -> PartialPlans:
        """Every label with every option of stage `at` that may still meet the limits."""
        step = self._paths[at]
        made = self._pairs(labels, at)
        times = step.join(np.add, labels.times.take(made[0], axis=2), self._times[at].take(made[1], axis=1))
        latest, good = self._latest(at, labels.latest.take(made[0]), times)
        due, agree = self._due(labels, at, *made)
        if agree is not None:
            good &= agree
        if not good.all():
            left = good.nonzero()[0]
            made, times, latest = made.take(left, axis=1), times.take(left, axis=2), latest.take(left)
            due = {child: number.take(left) for child, number in due.items()}
        sums = labels.sums.take(made[0], axis=1)
        sums += self._own[at].take(made[1], axis=1)
        return PartialPlans(
            sums, step.remembered(times), latest, *self._extend_accuracies(labels, at, *made), due, made
        )

    def _pairs(self, labels: PartialPlans, at: int) -> Index:
        """Label and option of all pairs that leave room for later stages and match the items due."""
        own, room = self._own[at][self.linear :], self._room[at]
        fits: NDArray[np.bool_] | None = None
        if at in labels.due:
            fits = labels.due[at][:, None] == self._stages[at].enter
        for so_far, more, most in zip(labels.sums[self.linear :], own, room, strict=True):
            within = so_far[:, None] + more <= most
            fits = within if fits is None else fits & within
        if fits is None:
            count = own.shape[1]
            return np.array(np.divmod(np.arange(len(labels) * count), count))
        return np.array(fits.nonzero())

    def _latest(self, at: int, latest: Array, times: Array) -> tuple[Array, NDArray[np.bool_]]:
        """The latency of the paths that end here, and True for labels still in time on all open paths."""
        in_time: NDArray[np.bool_] | None = None
        for place, least, ends in self._rest[at]:
            quantile = times[0, place] + least[0]
            if len(least) > 1:
                quantile += np.sqrt(times[1, place] + least[1])
            good = quantile <= self._sla
            in_time = good if in_time is None else in_time & good
            if ends:
                latest = np.maximum(latest, quantile)
        assert in_time is not None, "every stage is on a path"
        return latest, in_time

    def _due(
        self, labels: PartialPlans, at: int, parent: Index, option: Index
    ) -> tuple[dict[int, Index], NDArray[np.bool_] | None]:
        """The items that later stages must be planned for, and True for labels that agree with this."""
        due = {child: number.take(parent) for child, number in labels.due.items() if child != at}
        agree: NDArray[np.bool_] | None = None
        for place, child in enumerate(self._children[at]):
            if not self._levels[child]:
                continue
            sent = self._stages[at].leave[place].take(option)
            if child in due:
                same = due[child] == sent
                agree = same if agree is None else agree & same
            due[child] = sent
        return due, agree

    def _extend_accuracies(
        self, labels: PartialPlans, at: int, parent: Index, option: Index
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """The open products and the completed part of each accuracy after the stage."""
        products, reached = [], []
        for accuracy, product, done in zip(self.accuracies, labels.products, labels.reached, strict=True):
            step = accuracy.steps[at]
            after = step.join(np.multiply, product.take(parent, axis=1), accuracy.own[at].take(option))
            complete = done.take(parent)
            for weight, alternatives in accuracy.terms:
                if accuracy.lasts[alternatives[0]] == at:
                    best = np.maximum.reduce([after[step.place[each]] for each in alternatives])
                    complete = complete + weight * best
            products.append(step.remembered(after))
            reached.append(complete)
        return tuple(products), tuple(reached)


def _room(uses: list[Array], most: Array) -> list[list[float]]:
    """For each stage, the most that plans may use of each limit up to it: later stages need the rest."""
    left = np.array([limit + tolerance(abs(limit)) for limit in most.tolist()])
    room = []
    for use in reversed(uses):
        room.append(left.tolist())
        left = left - use.min(axis=1)
    return room[::-1]
