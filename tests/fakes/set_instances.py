"""Random sets and set problems, and every split of the cores tried in turn, apart from the solvers."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from math import floor, inf
from random import Random

from hypothesis import strategies as st

from ipa.model.parts import Configs, in_order, with_share
from ipa.model.plan import StageConfig
from ipa.model.resources import Prices, Resources
from ipa.optimize.backends import highs
from ipa.optimize.deadline import Deadline
from ipa.optimize.linear_program import Milp
from ipa.optimize.set_solve import CoreLevel, SetProblem, SetVariant, SetWeights

SLACK = 1e-9
GPU = "nvidia.com/gpu"


def random_set(random: Random, variants: int = 5, most_cores: int = 6) -> SetProblem:
    """A task from easy to impossible, with ties, and with gaps and kinks in its capacities."""
    sizes = [0.5, 1.0, 1.5, 2.0, 3.0] if random.random() < 0.3 else list(range(1, most_cores + 1))
    made = tuple(
        random_variant(random, f"v{rank}", rank, sizes) for rank in range(random.randint(1, variants))
    )
    largest = sum(max((level.capacity_rps for level in v.levels), default=0.0) for v in made)
    rate_rps = random.choice(
        [
            float(max(1, round(largest * random.uniform(0.05, 1.1)))),
            max(0.1, largest * random.uniform(0.02, 0.9)),
            random.choice(
                [level.capacity_rps for v in made for level in v.levels if level.capacity_rps > 0] or [1.0]
            ),
        ]
    )
    weights = SetWeights(
        alpha=random.choice([1.0, 1.0, 100.0, 0.0]),
        beta=random.choice([0.0, 0.0025, 0.0125, 0.05, 0.2]),
        gamma=random.choice([0.0, 0.001, 0.05]),
    )
    budget = random.choice([2.0, 4.0, 7.0, 7.5, 10.0, 30.0])
    return SetProblem("random", rate_rps, budget, weights, made)


def bounded_set(random: Random) -> SetProblem:
    """A task whose variants hold memory and accelerators that are limited, with or without prices."""
    problem = random_set(random, variants=4)
    variants = tuple(
        replace(
            variant,
            beside=Resources(
                memory_gib=random.choice([0.5, 1.0, 2.0, 3.0]),
                accelerators={GPU: random.choice([0.0, 0.0, 1.0, 2.0])},
            ),
        )
        for variant in problem.variants
    )
    limits = {"memory": random.choice([2.5, 3.0, 4.0, 6.5]), GPU: random.choice([0.0, 1.0, 2.0, 3.0])}
    if random.random() < 0.3:
        del limits[GPU]
    # Cores without a price cost nothing.
    of_cores = random.choice([{}, {"cores": 0.5}, {"cores": 1.0}])
    money = Prices({**of_cores, "memory": 0.2, GPU: 3.0}, is_money=True)
    return replace(problem, variants=variants, limits=limits, prices=random.choice([problem.prices, money]))


def random_variant(random: Random, name: str, rank: int, sizes: list[float]) -> SetVariant:
    """Later ranks are slower, and mostly more accurate."""
    slope = random.uniform(0.6, 1.4) * 30 / (1 + rank) ** 1.2
    start = random.choice([0.0, random.uniform(-0.5, 0.2) * slope])
    noise = random.choice([0.0, 0.0, 0.3])
    levels = tuple(
        CoreLevel(cores, max(0.0, (slope * cores + start) * random.uniform(1 - noise, 1 + noise)))
        for cores in sizes
        if random.random() < 0.9
    )
    if random.random() < 0.3:
        levels = tuple(CoreLevel(level.cores, float(round(level.capacity_rps))) for level in levels)
    accuracy = random.choice([0.7, 0.6 + 0.05 * rank, 0.6 + 0.05 * rank + 0.04 * random.random()])
    readiness_s = random.choice([0.0, 6.0, random.uniform(3, 9)])
    return SetVariant(
        name, accuracy, levels, readiness_s, random.random() < 0.4, random.choice([0.0, 0.0, 2.0])
    )


def splits(problem: SetProblem) -> Iterator[list[tuple[SetVariant, CoreLevel]]]:
    """Every way to switch variants on at allowed cores within the budget."""
    choices = [
        [None, *(level for level in variant.levels if level.cores >= variant.min_cores)]
        for variant in problem.variants
    ]
    for split in itertools.product(*choices):
        on = [(v, level) for v, level in zip(problem.variants, split, strict=True) if level is not None]
        if on and sum(level.cores for _, level in on) <= problem.budget_cores + SLACK:
            held = {name: sum(v.beside.amount(name) for v, _ in on) for name in problem.limits}
            if all(held[name] <= most + SLACK for name, most in problem.limits.items()):
                yield on


def worth(problem: SetProblem, on: list[tuple[SetVariant, CoreLevel]], percents: bool) -> float | None:
    """The objective of a split, the most accurate filled first; None where it cannot carry the load."""
    left, mean = 1.0, 0.0
    for variant, level in sorted(on, key=lambda pair: -pair[0].accuracy):
        part = level.capacity_rps / problem.rate_rps
        if percents:
            part = floor(100 * part + 1e-7) / 100
        part = min(part, left)
        left -= part
        mean += part * variant.accuracy
    if left > SLACK:
        return None
    loading_s = max(0.0 if variant.loaded else variant.readiness_s for variant, _ in on)
    prices = problem.prices.each
    cost = sum(
        prices.get("cores", 0.0) * level.cores
        + prices.get("memory", 0.0) * variant.beside.memory_gib
        + prices.get(GPU, 0.0) * variant.beside.accelerators.get(GPU, 0.0)
        for variant, level in on
    )
    weights = problem.weights
    return weights.alpha * mean - weights.beta * cost - weights.gamma * loading_s


def enumerate_sets(problem: SetProblem, percents: bool = False) -> tuple[float | None, float]:
    """The best objective of all splits (None: infeasible), and the rate that no split carries."""
    best, most_rps = None, 0.0
    for on in splits(problem):
        most_rps = max(most_rps, sum(level.capacity_rps for _, level in on))
        value = worth(problem, on, percents)
        if value is not None:
            best = value if best is None else max(best, value)
    return best, max(0.0, problem.rate_rps - most_rps)


def best_by_milp(problem: SetProblem) -> float | None:
    """The best objective by HiGHS: columns are a binary a level, the part of each variant, the loading."""
    levels = [(v, level) for v in problem.variants for level in v.levels if level.cores >= v.min_cores]
    last = len(levels) + len(problem.variants)
    weights = problem.weights
    milp = Milp(
        binaries=len(levels),
        costs=[-weights.beta * level.cores for _, level in levels]
        + [weights.alpha * variant.accuracy for variant in problem.variants]
        + [-weights.gamma],
        uppers=[1.0] * last + [inf],
    )
    for at, variant in enumerate(problem.variants, len(levels)):
        mine = [(column, level) for column, (owner, level) in enumerate(levels) if owner is variant]
        if not mine:
            milp.add_row([(at, 1.0)], 0.0, 0.0)
            continue
        milp.add_row([(column, 1.0) for column, _ in mine], -inf, 1.0)
        carried = [(column, -min(1.0, level.capacity_rps / problem.rate_rps)) for column, level in mine]
        milp.add_row([(at, 1.0), *carried], -inf, 0.0)
        milp.add_row([(last, -1.0), *((column, variant.loading_s) for column, _ in mine)], -inf, 0.0)
    milp.add_row([(at, 1.0) for at in range(len(levels), last)], 1.0, 1.0)
    milp.add_row([(at, level.cores) for at, (_, level) in enumerate(levels)], -inf, problem.budget_cores)
    values = highs.maximise(milp, Deadline(60.0)).values
    on = [pair for pair, value in zip(levels, values, strict=False) if value > 0.5]
    return worth(problem, on, False) if on else None


@st.composite
def sets(draw: st.DrawFn) -> Configs:
    names = draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=4, unique=True))
    cuts = sorted(draw(st.lists(st.integers(1, 99), min_size=len(names) - 1, max_size=len(names) - 1)))
    shares = [high - low for low, high in zip([0, *cuts], [*cuts, 100], strict=True)]
    cores = [draw(st.sampled_from([1.0, 2.0, 4.0, 8.0])) for _ in names]
    return in_order(
        [
            with_share((StageConfig("classify", name, 1, each, 1),), share)
            for name, each, share in zip(names, cores, shares, strict=True)
        ]
    )


@st.composite
def parts_of_two_stages(draw: st.DrawFn) -> Configs:
    """One to three configurations of two stages side by side; two may be of the same variants."""
    count = draw(st.integers(1, 3))
    cuts = sorted(draw(st.lists(st.integers(1, 99), min_size=count - 1, max_size=count - 1, unique=True)))
    shares = [high - low for low, high in zip([0, *cuts], [*cuts, 100], strict=True)]
    parts = [
        tuple(
            StageConfig(
                stage,
                draw(st.sampled_from(["small", "large"])),
                draw(st.sampled_from([1, 4])),
                draw(st.sampled_from([1.0, 2.0])),
                draw(st.integers(1, 5)),
            )
            for stage in ("detect", "classify")
        )
        for _ in range(count)
    ]
    return in_order([with_share(part, share) for part, share in zip(parts, shares, strict=True)])
