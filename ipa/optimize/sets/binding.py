"""The binding limits of a set, in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ipa.optimize.program import tolerance
from ipa.optimize.sets.fill import ROUNDING
from ipa.optimize.sets.plan import SetPart
from ipa.optimize.sets.problem import SetProblem


def binding_limits(problem: SetProblem, parts: Sequence[SetPart]) -> Iterator[str]:
    """A sentence for each exhausted limit: the budget, capacities, least cores.

    The budget is exhausted if its rest is too small for any further level of any variant.
    """
    used = {part.variant: part.cores for part in parts}
    cost_cores = sum(used.values())
    steps = [
        level.cores - used.get(variant.name, 0.0)
        for variant in problem.variants
        for level in variant.usable
        if level.cores > used.get(variant.name, 0.0)
    ]
    spare_cores = problem.budget_cores - cost_cores
    if steps and min(steps) > spare_cores + tolerance(problem.budget_cores):
        yield f"budget: {cost_cores:g} of {problem.budget_cores:g} cores used, no variant's next level fits"
    for part in parts:
        variant = problem.variant(part.variant)
        if part.quota_rps >= part.capacity_rps * (1 - ROUNDING):
            yield f"capacity of {part.variant}: {part.capacity_rps:g} rps on {part.cores:g} cores, all used"
        fewer = [
            level.cores
            for level in (variant.levels if variant else ())
            if level.cores < part.cores and level.capacity_rps >= part.quota_rps
        ]
        if variant and fewer and min(fewer) < variant.min_cores:
            yield f"min_cores of {part.variant}: {variant.min_cores:g}, {min(fewer):g} would carry its load"
