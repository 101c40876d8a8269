"""All candidate configurations of all stages: operating points with numbers of replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import inf

import numpy as np

from ipa.model.errors import InputError
from ipa.model.pipeline import AccuracyRule, Objective
from ipa.optimize.problem import ROWS, Array, Compat, Index, PlanningProblem, StageProblem, TableRow
from ipa.queueing.service import ROUNDING, ceil_up, released_wait_s

PRODUCTS = frozenset({AccuracyRule.PRODUCT, AccuracyRule.RANK_PRODUCT})
RANKS = frozenset({AccuracyRule.RANK_SUM, AccuracyRule.RANK_PRODUCT})


def variant_terms(stage: StageProblem, objective: Objective) -> dict[str, float]:
    """Each variant's term of the objective: its accuracy, or its rank under a rank rule."""
    columns = stage.columns
    accuracies = dict(zip(columns.variants, columns.mean_accuracy, strict=True))
    if objective.accuracy_rule in RANKS:
        return ranks(accuracies, objective.rank_floor)
    return accuracies


def ranks(accuracies: Mapping[str, float], floor: float | None = None) -> dict[str, float]:
    """i/(|M| − 1) by rising accuracy, 1 for a lone variant, the lowest raised to `floor` (IPA, PAS′).

    Equal accuracies rank in the order given.
    """
    rising = sorted(accuracies, key=lambda variant: accuracies[variant])
    if len(rising) == 1:
        return {rising[0]: 1.0}
    terms = {variant: place / (len(rising) - 1) for place, variant in enumerate(rising)}
    if rising and floor is not None:
        terms[rising[0]] = max(terms[rising[0]], floor)
    return terms


def accuracy_of(problem: PlanningProblem, variants: Mapping[str, str]) -> tuple[float, float]:
    """PAS and the accuracy term ACC if each named stage runs that variant; other stages count as 1."""
    accuracies, terms = [], []
    for stage in problem.stages:
        variant = variants.get(stage.name)
        columns = stage.columns
        if variant is None:
            accuracies.append(1.0)
            terms.append(1.0)
        else:
            accuracies.append(columns.variant_accuracy[columns.variants.index(variant)])
            terms.append(variant_terms(stage, problem.objective)[variant])
    return problem.graph.accuracy(accuracies), accuracy_term(problem, terms)


def accuracy_term(problem: PlanningProblem, terms: Sequence[float]) -> float:
    """The accuracy term ACC of the objective, from one term per stage (1 for the pipeline's own router).

    Sums and means weigh each stage by the share of the requests that visit it.
    """
    rule = problem.objective.accuracy_rule
    if rule in PRODUCTS:
        return problem.graph.accuracy(terms)
    shares = problem.shares
    total = sum(share * term for share, term in zip(shares, terms, strict=True))
    return total / sum(shares) if rule is AccuracyRule.MEAN else total


# Stages with more possible numbers of items are not planned.
MOST_LEVELS = 512
SCALARS = (
    *("rate_rps", "items", "fewest", "most", "timeout_s"),
    *("beside_cores", "released_s", "batching", "hop_s"),
)


@dataclass(frozen=True, slots=True)
class ItemCount:
    """A number of items that a request may bring to a stage, and the numbers that its children then get."""

    number: int
    items: float
    # For each child, by the stage's variant.
    onward: tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class CandidateBlock:
    """A stage, by its index, at one number of items."""

    index: int
    level: ItemCount


# The columns of candidates: arrays whose last axis is theirs.
COLUMNS = (
    *("block", "point", "variant", "replicas"),
    *("points", "scalars", "term", "held_cores", "numbers"),
)


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Points with their replicas, one per entry, sorted by block; within a block in the order of names.

    `term` is the share of the accuracy term, `held_cores` the cores of one replica with its overhead.
    `rate_rps` counts items. `numbers` has the rows of an option (`ipa.optimize.options`).
    """

    blocks: list[CandidateBlock]
    block: Index
    point: Index
    variant: Index
    replicas: Index
    points: Array
    scalars: Array
    term: Array
    held_cores: Array
    numbers: Array

    accuracy = TableRow("points", ROWS["accuracy"])
    batch_size = TableRow("points", ROWS["batch_size"])
    cores = TableRow("points", ROWS["cores"])
    rate_rps = TableRow("scalars", SCALARS.index("rate_rps"))
    items = TableRow("scalars", SCALARS.index("items"))
    timeout_s = TableRow("scalars", SCALARS.index("timeout_s"))

    @property
    def stage(self) -> Index:
        """The index of each candidate's stage."""
        return np.array([block.index for block in self.blocks], dtype=np.intp)[self.block]

    @property
    def slices(self) -> list[slice]:
        """The slice of each block's candidates."""
        ends = np.searchsorted(self.block, np.arange(len(self.blocks) + 1)).tolist()
        return [slice(*pair) for pair in pairwise(ends)]

    def take(self, at: Index) -> Candidates:
        """Return only the candidates at these indices, in the same order."""
        return replace(self, **{name: getattr(self, name).take(at, axis=-1) for name in COLUMNS})


def candidates_of(problem: PlanningProblem, blocks: list[CandidateBlock]) -> Candidates:
    """The candidates of the blocks, which are sorted by stage; their `numbers` have no rows yet."""
    stages = [problem.stages[block.index].columns for block in blocks]
    # The points that objective, bounds and pin allow, in the order of names.
    at = [
        stage.order.compress(problem.allowed(problem.stages[block.index]).take(stage.order))
        for stage, block in zip(stages, blocks, strict=True)
    ]
    owner = np.repeat(np.arange(len(blocks)), [len(each) for each in at])
    tables = [stage.table.take(some, axis=1) for stage, some in zip(stages, at, strict=True)]
    points = np.concatenate([np.empty((len(ROWS), 0)), *tables], axis=1)
    scalars = scalars_of(problem, blocks)
    row, replicas = _replicas(problem, points, scalars.take(owner, axis=1))
    none = np.empty(0, dtype=np.intp)
    variant = [stage.variant.take(some) for stage, some in zip(stages, at, strict=True)]
    terms = _terms(problem)
    term = [terms[block.index].take(some) for block, some in zip(blocks, variant, strict=True)]
    owner, points = owner.take(row), points.take(row, axis=1)
    scalars = scalars.take(owner, axis=1)
    return Candidates(
        blocks=blocks,
        block=owner,
        point=np.concatenate([none, *at]).take(row),
        variant=np.concatenate([none, *variant]).take(row),
        replicas=replicas,
        points=points,
        scalars=scalars,
        term=np.concatenate([np.empty(0), *term]).take(row),
        held_cores=points[ROWS["cores"]] + scalars[SCALARS.index("beside_cores")],
        numbers=np.empty((0, len(owner))),
    )


def scalars_of(problem: PlanningProblem, blocks: list[CandidateBlock]) -> Array:
    """The numbers of each block as rows: (`SCALARS` × blocks)."""
    is_released = problem.compat is Compat.IPA_ARTIFACT
    # K, the number of different batch sizes over all stages together.
    sizes = (stage.columns.batch_size[problem.allowed(stage)] for stage in problem.stages)
    batch_sizes = len(np.unique(np.concatenate([*sizes]))) if is_released else 0
    columns = []
    for block in blocks:
        stage = problem.stages[block.index]
        rate_rps = problem.rate_rps * problem.graph.reach[block.index] * block.level.items
        fewest, most = problem.replica_limits(stage)
        columns.append(
            (
                rate_rps,
                block.level.items,
                fewest,
                inf if most is None else most,
                inf if stage.batch_timeout_s is None else stage.batch_timeout_s,
                problem.bounds.overhead.each(stage.name),
                released_wait_s(len(stage.columns.variants), batch_sizes, rate_rps) if is_released else 0.0,
                float(problem.batching(block.index)),
                stage.hop_s,
            )
        )
    return np.array(columns, dtype=np.float64).reshape(-1, len(SCALARS)).T


def _terms(problem: PlanningProblem) -> list[Array]:
    """For each stage, by variant: the factor of a product, or the part of a sum."""
    rule, shares = problem.objective.accuracy_rule, problem.shares
    whole = sum(shares) if rule is AccuracyRule.MEAN else 1.0
    by_stage = []
    for stage, share in zip(problem.stages, shares, strict=True):
        terms = variant_terms(stage, problem.objective)
        term = np.array([terms[name] for name in stage.columns.variants], dtype=np.float64)
        by_stage.append(term if rule in PRODUCTS else share * term / whole)
    return by_stage


def _replicas(problem: PlanningProblem, points: Array, scalars: Array) -> tuple[Index, Index]:
    """Points with each number of replicas that they may run with: (place, replicas) pairs.

    The papers' formulas: the least n that carries the rate, and each larger n that needs one batch less in
    sequence; between those n only the cost changes. Under random arrivals every n above the least shortens
    the wait, until no wait is left by the square-root staffing rule: n ≤ least + 3·√least + 3.
    """
    rate_rps, items, fewest, limit, _, beside_cores, *_ = scalars
    busy = rate_rps / points[ROWS["capacity_rps"]]
    least = ceil_up(np.maximum(busy, 1.0))
    batches = ceil_up(items / points[ROWS["batch_size"]])
    if problem.compat is Compat.TAIL:
        # The queue of a replica busy to the last moment would grow for ever.
        least += busy > least - ROUNDING
    least = np.maximum(least, fewest)
    if problem.bounds.cores is not None and not problem.running:
        room = max(0.0, problem.bounds.cores - problem.fixed_cores)
        limit = np.minimum(limit, room / (points[ROWS["cores"]] + beside_cores) + ROUNDING)
    counts = least[:, None] + _extra_replicas(problem.compat, least, batches)
    fresh = counts <= limit[:, None]
    fresh[:, 1:] &= counts[:, 1:] > counts[:, :-1]
    row, column = fresh.nonzero()
    return row, counts[row, column].astype(np.intp)


def _extra_replicas(compat: Compat, least: Array, batches: Array) -> Array:
    """Replicas to add to the least number: (points × choices), ascending, repeated if there are fewer."""
    if not len(least):
        return np.zeros((0, 1))
    if compat is Compat.TAIL:
        most = np.maximum(np.ceil(3 * np.sqrt(least)) + 3, batches - least)
        counts: Array = np.minimum(np.arange(most.max() + 1)[None, :], most[:, None])
        return counts
    sequence = np.maximum(1, ceil_up(batches / least))
    shorter = np.arange(sequence.max(), 0, -1)[None, :]
    enough = ceil_up(batches[:, None] / np.minimum(shorter, sequence[:, None]))
    extra: Array = np.maximum(enough - least[:, None], 0)
    return extra


def levels_of(problem: PlanningProblem) -> list[list[ItemCount]]:
    """For each stage its possible numbers of items; one if no fan-out depends on a variant."""
    stages, graph = problem.stages, problem.graph
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
                f"stage {stage.name!r} may get more than {MOST_LEVELS} numbers of items from a request",
                hint="Give fewer fan-outs by variant before it, or equal ones to like variants.",
            )
    return [
        [ItemCount(number, value, tuple(onward[at][number])) for number, value in enumerate(items[at])]
        for at in range(len(stages))
    ]


def _key(items: float) -> str:
    """A key that ignores rounding differences between numbers of items."""
    return f"{items:.10g}"
