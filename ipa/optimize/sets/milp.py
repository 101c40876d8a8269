"""InfAdapter's program as a mixed-integer linear one.

z[m,c] ∈ {0,1}: variant m runs on c cores; y[m] ∈ [0,1]: its part of the load; t: loading time as a part of
the longest.

    Σ_c z[m,c] ≤ 1     y[m] ≤ Σ_c min(1, th_m(c)/λ)·z[m,c]     Σ_m y[m] = 1     Σ c·z[m,c] ≤ budget
    t ≥ readiness_m · Σ_c z[m,c]   for every m that must be loaded
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from ipa.optimize.milp import Milp
from ipa.optimize.sets.problem import SetProblem
from ipa.optimize.sets.tables import variant_arrays


def build_set_milp(problem: SetProblem) -> Milp:
    """The linear program; columns are the z of each variant by falling accuracy, their y, then t."""
    variants, weights = variant_arrays(problem), problem.weights
    levels = [(variant, at) for variant in variants for at in range(len(variant.cores))]
    longest_s = max((variant.loading_s for variant in variants), default=0.0) or 1.0
    milp = Milp(
        binaries=len(levels),
        costs=[-weights.beta * float(variant.cores[at]) for variant, at in levels]
        + [weights.alpha * variant.accuracy for variant in variants]
        + [-weights.gamma * longest_s],
        uppers=[1.0] * (len(levels) + len(variants) + 1),
    )
    first = 0
    for index, variant in enumerate(variants):
        mine = range(first, first + len(variant.cores))
        first, part, loading = mine.stop, len(levels) + index, len(levels) + len(variants)
        milp.add_row([(column, 1.0) for column in mine], -inf, 1.0)
        carried = [
            (column, -min(1.0, float(carries))) for column, carries in zip(mine, variant.carries, strict=True)
        ]
        milp.add_row([(part, 1.0), *carried], -inf, 0.0)
        if variant.loading_s > 0 and weights.gamma > 0:
            share = variant.loading_s / longest_s
            milp.add_row([(loading, -1.0), *((column, share) for column in mine)], -inf, 0.0)
    milp.add_row([(len(levels) + index, 1.0) for index in range(len(variants))], 1.0, 1.0)
    budget = problem.budget_cores
    milp.add_row([(at, float(v.cores[c]) / budget) for at, (v, c) in enumerate(levels)], -inf, 1.0)
    return milp


def chosen_cores(problem: SetProblem, values: Sequence[float]) -> dict[str, float]:
    """The cores of each variant that is on in a solution of the program; off if z is nearer 0 than 1."""
    chosen: dict[str, float] = {}
    first = 0
    for variant in variant_arrays(problem):
        for at, cores in enumerate(variant.cores):
            if values[first + at] > 0.5:
                chosen[variant.name] = float(cores)
        first += len(variant.cores)
    return chosen
