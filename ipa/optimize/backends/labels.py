"""Partial plans as columns of numbers, and how they grow by one stage."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from ipa.optimize.columns import Array, Index
from ipa.optimize.program import Program, tolerance
from ipa.optimize.tracks import Step, steps_of


@dataclass(frozen=True, slots=True)
class Labels:
    """Partial plans, one a column, in the order of names.

    `means` and `spreads` are the sums along the paths that are open, `latest` the latency of those that have
    ended; `products` the products that are still open of each accuracy, `reached` its part that is complete.
    `use` is what they take of the linear limits, `ties` what breaks ties (changes, cost), `due` the number of
    items of stages to come. `parent` and `option` say how each was made of a label before.
    """

    value: Array
    means: Array
    spreads: Array
    latest: Array
    products: tuple[Array, ...]
    reached: tuple[Array, ...]
    use: Array
    rows: Array
    ties: Array
    due: dict[int, Index]
    parent: Index
    option: Index

    def __len__(self) -> int:
        return len(self.value)

    def take(self, at: NDArray[np.intp] | NDArray[np.bool_]) -> Labels:
        """Those labels only."""
        return Labels(
            self.value[at],
            self.means[:, at],
            self.spreads[:, at],
            self.latest[at],
            tuple(product[:, at] for product in self.products),
            tuple(reached[at] for reached in self.reached),
            self.use[:, at],
            self.rows[:, at],
            self.ties[:, at],
            {stage: number[at] for stage, number in self.due.items()},
            self.parent[at],
            self.option[at],
        )


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One accuracy that must be followed: `own` is each option's factor, `floor` the least at the end.

    `largest` is, for each depth, the largest factor of each stage.
    """

    own: tuple[Array, ...]
    floor: float
    steps: tuple[Step, ...]
    # For each term: its weight, and the sets (numbered as in the steps) of its alternatives.
    terms: tuple[tuple[float, tuple[int, ...]], ...]
    sets: tuple[tuple[int, ...], ...]
    lasts: tuple[int, ...]

    def could_reach(self, depth: int, products: Array, reached: Array) -> Array:
        """The most that the accuracy can become after the first `depth` stages, `products` those now open."""
        most = reached.copy()
        after = self.steps[depth - 1] if depth else None
        for weight, alternatives in self.terms:
            if depth and self.lasts[alternatives[0]] < depth:
                continue
            best: Array | None = None
            for at in alternatives:
                number = int(np.searchsorted(after.kept, after.place[at])) if after else 0
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
    """The accuracies that labels must follow: that of the objective, and PAS where its floor needs it."""
    found = []
    if program.uses_product and (program.alpha > 0 or program.term_floor > -inf):
        found.append(_accuracy(program, "factor", program.term_floor))
    if program.log_floor > -inf and not program.graph.is_product:
        found.append(_accuracy(program, "accuracy", float(np.exp(program.log_floor))))
    return tuple(found)


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
    """Whether the stages before each may send other numbers of items than the one it is planned for.

    A program that was cut down may hold one number at a stage, and more in what is left before it.
    """
    numbers = [set(stage.enter.tolist()) for stage in program.stages]
    for at, children in enumerate(program.graph.children):
        for place, child in enumerate(children):
            numbers[child].update(program.stages[at].leave[place].tolist())
    return [len(found) > 1 for found in numbers]


class Growth:
    """How labels grow, and which of them no completion can bring within the limits."""

    def __init__(self, program: Program, rows: tuple[Array, ...], row_count: int) -> None:
        self._program = program
        self._stages = program.stages
        self._rows = rows
        self._row_count = row_count
        self.accuracies = accuracies_of(program)
        paths = program.graph.paths
        self._paths = steps_of(paths, tuple(path[-1] for path in paths), len(self._stages))
        limits = program.limits()
        self._limits = [
            np.array([limit.use[at] for limit in limits]).reshape(len(limits), len(stage))
            for at, stage in enumerate(self._stages)
        ]
        self._most = np.array([limit.most + tolerance(abs(limit.most)) for limit in limits])
        least = np.array([use.min(axis=1) for use in self._limits]).reshape(len(self._stages), len(limits))
        # What the stages after each depth take of each limit at the least.
        self._rest = np.vstack([np.cumsum(least[::-1], axis=0)[::-1], np.zeros(len(limits))])
        self._mean = np.array([stage.mean_s.min() for stage in self._stages])
        self._spread = np.array([stage.spread_s2.min() for stage in self._stages])
        self._sla = program.sla_s + tolerance(program.sla_s)
        self._levels = _levels(program)

    def start(self) -> Labels:
        """The one label of no stage."""
        one, zero, none = np.ones((1, 1)), np.zeros(1), np.zeros(1, dtype=np.intp)
        return Labels(
            zero,
            np.zeros((1, 1)),
            np.zeros((1, 1)),
            zero,
            tuple(one for _ in self.accuracies),
            tuple(zero for _ in self.accuracies),
            np.zeros((len(self._most), 1)),
            np.zeros((self._row_count, 1)),
            np.zeros((2, 1)),
            {},
            none,
            none,
        )

    def grow(self, labels: Labels, at: int) -> Labels:
        """Every label with every option of stage `at` that may still meet the limits."""
        stage, step = self._stages[at], self._paths[at]
        count = len(stage)
        use = labels.use[:, :, None] + self._limits[at][:, None, :]
        fits = np.ones((len(labels), count), dtype=bool)
        for row, rest, most in zip(use, self._rest[at + 1], self._most, strict=True):
            fits &= row <= most - rest
        if at in labels.due:
            fits &= labels.due[at][:, None] == stage.enter[None, :]
        parent, option = np.nonzero(fits)
        means = step.add(labels.means[:, parent], stage.mean_s[option])
        spreads = step.add(labels.spreads[:, parent], stage.spread_s2[option])
        latest, in_time = self._latest(at, step, labels.latest[parent], means, spreads)
        due, agree = self._due(labels, at, parent, option)
        good = np.flatnonzero(in_time if agree is None else in_time & agree)
        if len(good) < len(parent):
            parent, option = parent[good], option[good]
            means, spreads, latest = means[:, good], spreads[:, good], latest[good]
            due = {child: number[good] for child, number in due.items()}
        products, reached = self._accuracy(labels, at, parent, option)
        return Labels(
            labels.value[parent] + stage.value[option],
            means[step.kept],
            spreads[step.kept],
            latest,
            products,
            reached,
            use[:, parent, option],
            labels.rows[:, parent] + self._rows[at][:, option],
            labels.ties[:, parent] + np.array([stage.changes, stage.cost_cores])[:, option],
            due,
            parent,
            option,
        )

    def _latest(
        self, at: int, step: Step, latest: Array, means: Array, spreads: Array
    ) -> tuple[Array, NDArray[np.bool_]]:
        """The latency of the paths that end here, and who can still be in time on all open paths."""
        in_time = np.ones(len(latest), dtype=bool)
        for path, stages in enumerate(self._program.graph.paths):
            if path not in step.place:
                continue
            rest = [stage for stage in stages if stage > at]
            mean, spread = means[step.place[path]], spreads[step.place[path]]
            quantile = mean + self._mean[rest].sum()
            quantile = quantile + np.sqrt(spread + self._spread[rest].sum())
            in_time &= quantile <= self._sla
            if not rest:
                latest = np.maximum(latest, quantile)
        return latest, in_time

    def _due(
        self, labels: Labels, at: int, parent: Index, option: Index
    ) -> tuple[dict[int, Index], NDArray[np.bool_] | None]:
        """The items that later stages must be planned for, and who agrees with what was known of them."""
        due = {child: number[parent] for child, number in labels.due.items() if child != at}
        agree: NDArray[np.bool_] | None = None
        for place, child in enumerate(self._program.graph.children[at]):
            if not self._levels[child]:
                continue
            sent = self._stages[at].leave[place, option]
            if child in due:
                same = due[child] == sent
                agree = same if agree is None else agree & same
            due[child] = sent
        return due, agree

    def _accuracy(
        self, labels: Labels, at: int, parent: Index, option: Index
    ) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
        """The open products and the complete part of each accuracy after the stage."""
        products, reached = [], []
        for accuracy, product, done in zip(self.accuracies, labels.products, labels.reached, strict=True):
            step = accuracy.steps[at]
            after = step.multiply(product[:, parent], accuracy.own[at][option])
            complete = done[parent]
            for weight, alternatives in accuracy.terms:
                if accuracy.lasts[alternatives[0]] == at:
                    best = np.maximum.reduce([after[step.place[each]] for each in alternatives])
                    complete = complete + weight * best
            products.append(after[step.kept])
            reached.append(complete)
        return tuple(products), tuple(reached)
