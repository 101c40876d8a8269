"""Random tasks of any size: more accurate variants are slower, capacities near a line with some noise."""

from __future__ import annotations

from random import Random

from ipa.optimize.set_solve import CoreLevel, SetProblem, SetVariant, SetWeights


def synthetic_problem(random: Random, variants: int, cores: int) -> SetProblem:
    """A task that its fastest variant carries within `cores` cores, its most accurate mostly not."""
    noise = random.choice([0.0, 0.1, 0.3])
    made = tuple(_variant(random, rank, variants, cores, noise) for rank in range(variants))
    largest_rps = max(level.capacity_rps for level in made[0].levels)
    weights = SetWeights(
        beta=random.choice([0.0, 0.01, 0.05, 0.2]) / cores, gamma=random.choice([0.0, 0.0001, 0.001])
    )
    return SetProblem("synthetic", random.uniform(0.05, 0.6) * largest_rps, float(cores), weights, made)


def _variant(random: Random, rank: int, variants: int, cores: int, noise: float) -> SetVariant:
    slope = 30 / (1 + rank) ** random.uniform(0.8, 1.3)
    start = -random.uniform(0, 0.4) * slope
    levels = tuple(
        CoreLevel(count, (slope * count + start) * random.uniform(1 - noise, 1 + noise))
        for count in range(1, cores + 1)
    )
    accuracy = 0.6 + 0.3 * (rank + random.random()) / variants
    return SetVariant(f"v{rank}", accuracy, levels, random.uniform(4, 10), random.random() < 0.4)
