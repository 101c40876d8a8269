"""The optimisation in plain numbers: choose one option of each stage; the program and its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt

import numpy as np
from numpy.typing import NDArray

from ipa.model.plan import Termination
from ipa.optimize.graph import Graph
from ipa.optimize.problem import Array, Index, TableRow

# The rows of an `Options` table: whole numbers, followed by the numbers of items sent on; and the rest.
COUNTS = ("point", "replicas", "enter")
NUMBERS = (
    *("items", "service_s", "wait_s", "mean_s", "spread_s2", "accuracy", "factor", "gain", "value"),
    *("batch_size", "cost", "cost_cores", "peak_cores", "started_cores", "changes"),
)
PLACE = {name: at for at, name in enumerate(NUMBERS)}
# Rows of which a plan needs more than the sum over its stages.
OF_STAGES = [PLACE[name] for name in ("factor", "accuracy", "mean_s", "spread_s2")]
# Objectives this close (relative above 1) count as equal.
EQUAL = 1e-9


@dataclass(frozen=True, slots=True, eq=False)
class Options:
    """The ways to run a stage, replicas already fixed, as columns in the order of names.

    `point` is an index into the stage's operating points, −1 if the pipeline's router does the work. `enter`
    numbers the items that a request brings; `leave` holds, for each stage after this one, the number that its
    `enter` must have. `service_s` and `wait_s` are for display: the program uses the mean time `mean_s` and
    `spread_s2`, the square of the stage's quantile less its mean. `factor` multiplies and `gain` adds up to
    the accuracy term; `value` adds up to the objective. `cost` is the price of the option's resources,
    `cost_cores` if they are not priced. `peak_cores` are those of old and new replicas together,
    `started_cores` those of replicas that a change would start, `changes` the size of the change (1:
    replicas, 2: more). After the rows of `NUMBERS` come two of each of the program's budgets: the use after
    the change, and that of old and new replicas together.

    All columns are rows of two tables, so that a subset of the options is taken at once.
    """

    counts: Index
    numbers: Array

    point = TableRow("counts", COUNTS.index("point"))
    replicas = TableRow("counts", COUNTS.index("replicas"))
    enter = TableRow("counts", COUNTS.index("enter"))
    items = TableRow("numbers", PLACE["items"])
    service_s = TableRow("numbers", PLACE["service_s"])
    wait_s = TableRow("numbers", PLACE["wait_s"])
    mean_s = TableRow("numbers", PLACE["mean_s"])
    spread_s2 = TableRow("numbers", PLACE["spread_s2"])
    accuracy = TableRow("numbers", PLACE["accuracy"])
    factor = TableRow("numbers", PLACE["factor"])
    gain = TableRow("numbers", PLACE["gain"])
    value = TableRow("numbers", PLACE["value"])
    batch_size = TableRow("numbers", PLACE["batch_size"])
    cost = TableRow("numbers", PLACE["cost"])
    cost_cores = TableRow("numbers", PLACE["cost_cores"])
    peak_cores = TableRow("numbers", PLACE["peak_cores"])
    started_cores = TableRow("numbers", PLACE["started_cores"])
    changes = TableRow("numbers", PLACE["changes"])

    def __len__(self) -> int:
        return len(self.counts[0])

    @property
    def leave(self) -> Index:
        """The number of items that each later stage must have, (stages after this one × options)."""
        return self.counts[len(COUNTS) :]

    def held(self, budget: int) -> Array:
        """The options' use of budget number `budget` after the change."""
        row: Array = self.numbers[len(NUMBERS) + 2 * budget]
        return row

    def peak(self, budget: int) -> Array:
        """The options' use of budget number `budget` by old and new replicas together."""
        row: Array = self.numbers[len(NUMBERS) + 2 * budget + 1]
        return row

    @property
    def log_accuracy(self) -> Array:
        """ln of the accuracy, −inf for 0: its sum over the stages is ln PAS."""
        with np.errstate(divide="ignore"):
            logs: Array = np.log(self.accuracy)
        return logs

    def take(self, at: NDArray[np.intp] | NDArray[np.bool_] | list[int]) -> Options:
        """Return only the options at these indices."""
        return Options(self.counts[:, at], self.numbers[:, at])

    def having(self, **columns: Array) -> Options:
        """Return a copy of the options with the named columns replaced."""
        numbers = self.numbers.copy()
        for name, column in columns.items():
            numbers[PLACE[name]] = column
        return Options(self.counts, numbers)


def options_of(point: Index, replicas: Index, enter: Index, leave: Index, numbers: Array) -> Options:
    """The options with those columns, the rows of `NUMBERS`, and the rows of the budgets."""
    return Options(np.concatenate([point[None], replicas[None], enter[None], leave]), numbers)


@dataclass(frozen=True, slots=True)
class ResourceBudget:
    """A limited resource other than cores, by name.

    `most` holds at any moment of the change, `held` after it: running replicas may stay above a bound until
    they are replaced.
    """

    name: str
    most: float
    held: float = inf


@dataclass(frozen=True, slots=True)
class Weights:
    """The objective alpha · accuracy − beta · cost − delta · Σ batch sizes − transition · cores started."""

    alpha: float
    beta: float
    delta: float
    transition: float = 0.0


@dataclass(frozen=True, slots=True)
class LinearLimit:
    """Σ over the stages of the chosen options' use (`use`, one array per stage) ≤ `most`."""

    name: str
    use: tuple[Array, ...]
    most: float


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """max alpha · accuracy(factors) + Σ value, within limits.

    For each path: Σ mean_s + sqrt(Σ spread_s2) ≤ sla_s. Σ cost_cores ≤ max_cost, Σ peak_cores ≤ cores, each
    budget holds, ln PAS ≥ log_floor. `uses_product`: factors count. `is_priced`: the cost is not that of the
    cores alone.
    """

    graph: Graph
    stages: tuple[Options, ...]
    weights: Weights
    uses_product: bool
    sla_s: float
    cores: float = inf
    budgets: tuple[ResourceBudget, ...] = ()
    max_cost: float = inf
    log_floor: float = -inf
    is_priced: bool = False

    @property
    def alpha(self) -> float:
        """The weight of the product of factors; 0 if the accuracy term is a sum."""
        return self.weights.alpha if self.uses_product else 0.0

    @property
    def has_spread(self) -> bool:
        """True if any option's time varies."""
        return any(bool(stage.spread_s2.any()) for stage in self.stages)

    @property
    def is_plain(self) -> bool:
        """True if accuracies add up, or are the plain product of all stages."""
        return not self.alpha or self.graph.is_product

    def limits(self) -> tuple[LinearLimit, ...]:
        """The linear limits, without those of the paths."""
        names: list[tuple[str, float, Callable[[Options], Array]]] = [
            ("cores", self.cores, lambda stage: stage.peak_cores),
            *self._of_budgets(),
            ("cost", self.max_cost, lambda stage: stage.cost_cores),
        ]
        if self.graph.is_product:
            names.append(("accuracy", -self.log_floor, lambda stage: -stage.log_accuracy))
        return tuple(
            LinearLimit(name, tuple(use(stage) for stage in self.stages), most)
            for name, most, use in names
            if most < inf
        )

    def _of_budgets(self) -> Iterator[tuple[str, float, Callable[[Options], Array]]]:
        for at, budget in enumerate(self.budgets):
            yield budget.name, budget.most, lambda stage, at=at: stage.peak(at)  # type: ignore[misc]
            yield budget.name, budget.held, lambda stage, at=at: stage.held(at)  # type: ignore[misc]

    def in_cores(self) -> Program:
        """The same program with the cores as each option's cost; its value keeps the prices."""
        if not self.is_priced:
            return self
        stages = tuple(stage.having(cost=stage.cost_cores) for stage in self.stages)
        return replace(self, stages=stages, is_priced=False)

    def with_budget(self, budget: ResourceBudget, uses: Sequence[Array]) -> Program:
        """The same program with one more budget, of which the options of each stage have that use."""
        stages = tuple(
            Options(stage.counts, np.vstack([stage.numbers, use, use]))
            for stage, use in zip(self.stages, uses, strict=True)
        )
        return replace(self, stages=stages, budgets=(*self.budgets, budget))

    def weighed(self, weights: Weights) -> Program:
        """The same program with other weights."""
        return replace(
            self,
            weights=weights,
            stages=tuple(
                stage.having(value=value_of(weights, stage, self.uses_product)) for stage in self.stages
            ),
        )


@dataclass(frozen=True, slots=True, eq=False)
class ProgramAnswer:
    """The end of a solve, the chosen option of each stage, and the bound on the best objective.

    `chosen` is empty without a plan; `bound` is None if the solver gives none. `note` tells how the answer
    was found.
    """

    termination: Termination
    chosen: tuple[int, ...] = ()
    bound: float | None = None
    note: str = ""


def value_of(weights: Weights, stage: Options, uses_product: bool) -> Array:
    """Each option's part of the objective, without the product's part."""
    value = -weights.beta * stage.cost - weights.delta * stage.batch_size
    if weights.transition:
        value = value - weights.transition * stage.started_cores
    return value if uses_product else weights.alpha * stage.gain + value


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums of a choice of one option per stage."""

    objective: float
    term: float
    pas: float
    latency_s: float
    cost: float
    cost_cores: float
    changes: float


def evaluate(program: Program, chosen: Sequence[int]) -> Totals:
    """The totals of the plan that takes option chosen[s] of each stage s."""
    graph = program.graph
    columns = np.array([stage.numbers[:, at] for stage, at in zip(program.stages, chosen, strict=True)]).T
    total = dict(zip(NUMBERS, columns.sum(axis=1).tolist(), strict=False))
    factor, accuracy, mean_s, spread_s2 = columns[OF_STAGES].tolist()
    pas = graph.accuracy(accuracy)
    term = total["gain"]
    if program.uses_product:
        term = pas if factor == accuracy else graph.accuracy(factor)
    return Totals(
        objective=(program.alpha * term if program.uses_product else 0.0) + total["value"],
        term=term,
        pas=pas,
        # The largest quantile of a path: Σ means plus the root of Σ squared excesses.
        latency_s=max(
            sum(mean_s[at] for at in path) + sqrt(sum(spread_s2[at] for at in path)) for path in graph.paths
        ),
        cost=total["cost"],
        cost_cores=total["cost_cores"],
        changes=total["changes"],
    )


def tolerance(limit: float) -> float:
    """The rounding by which a sum may exceed a limit: 1e-9, relative above 1."""
    return 1e-9 * max(1.0, limit) if limit < inf else 0.0
