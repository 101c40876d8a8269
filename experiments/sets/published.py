"""InfAdapter's published task as set problems, and every split of its cores tried at once."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import trunc
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ipa.optimize.set_solve import CoreLevel, SetProblem, SetVariant, SetWeights
from ipa.policies.infadapter import COEFFICIENT

Array = NDArray[np.float64]

# What a weight is for a core and a second: as the formula is written, with accuracies as fractions or in
# percent, or as in the released program, which divides cores by the budget and readiness by the longest.
SCALES = ("fractions", "points", "released")
SOURCES = ("line", "measured")


def line_levels(
    slope: float,
    intercept: float,
    cores: Iterable[float],
    *,
    coefficient: float = COEFFICIENT,
    whole_intercept: bool = False,
) -> tuple[CoreLevel, ...]:
    """The levels by the line th(c) = slope·c + intercept, times the coefficient, if that is above 0.

    `whole_intercept` cuts the intercept to a whole number towards 0, as InfAdapter did.
    """
    start = trunc(intercept) if whole_intercept else intercept
    levels = (CoreLevel(count, coefficient * (slope * count + start)) for count in cores)
    return tuple(level for level in levels if level.capacity_rps > 0)


def table_levels(
    measured: Mapping[float, float],
    latency_s: Mapping[float, float | None],
    slo_s: float,
    *,
    coefficient: float = COEFFICIENT,
) -> tuple[CoreLevel, ...]:
    """The measured levels times the coefficient, if a p99 was measured and meets the SLO."""
    levels = []
    for cores, capacity_rps in sorted(measured.items()):
        tail_s = latency_s.get(cores)
        if capacity_rps > 0 and tail_s is not None and tail_s <= slo_s:
            levels.append(CoreLevel(cores, coefficient * capacity_rps))
    return tuple(levels)


@dataclass(frozen=True, slots=True)
class Published:
    """The figures of infadapter.json that the program needs."""

    budget_cores: int
    min_cores: int
    coefficient: float
    slo_ms: int
    betas: tuple[float, ...]
    gamma: float
    variants: dict[str, tuple[float, float]]
    lines: dict[str, tuple[float, float]]
    measured: dict[str, dict[float, tuple[float, float | None]]]

    def levels(self, variant: str, source: str) -> tuple[CoreLevel, ...]:
        """Capacities on 1 to 20 cores: by the authors' line, or as they measured them."""
        if source == "line":
            slope, intercept = self.lines[variant]
            cores = range(1, self.budget_cores + 1)
            return line_levels(slope, intercept, cores, coefficient=self.coefficient, whole_intercept=True)
        rows = self.measured[variant]
        capacity_rps = {cores: capacity for cores, (capacity, _) in rows.items()}
        latency_s = {cores: None if p99 is None else p99 / 1000 for cores, (_, p99) in rows.items()}
        return table_levels(capacity_rps, latency_s, self.slo_ms / 1000, coefficient=self.coefficient)

    def weights(self, beta: float, scale: str) -> SetWeights:
        """α, β for a core and γ for a second, on one of the scales."""
        if scale == "released":
            longest_s = max(readiness_s for _, readiness_s in self.variants.values())
            return SetWeights(1.0, beta / self.budget_cores, self.gamma / longest_s)
        return SetWeights(100.0 if scale == "points" else 1.0, beta, self.gamma)

    def problem(
        self, rate_rps: float, beta: float, scale: str, source: str = "line", loaded: tuple[str, ...] = ()
    ) -> SetProblem:
        """The task at a rate."""
        variants = tuple(
            SetVariant(name, accuracy, self.levels(name, source), ready_s, name in loaded, self.min_cores)
            for name, (accuracy, ready_s) in self.variants.items()
        )
        return SetProblem("resnet", rate_rps, self.budget_cores, self.weights(beta, scale), variants)


def read_published(path: Path) -> Published:
    """The figures of the file."""
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    parameters = data["parameters"]
    slo_ms = parameters["LATENCY_SLO_MS"]
    lines = data["capacity_regression_used"][str(slo_ms)]
    measured: dict[str, dict[float, tuple[float, float | None]]] = {name: {} for name in data["variants"]}
    for sla_ms, arch, cores, capacity_rps, p99_ms, _ in data["capacity_profile"]:
        if sla_ms == slo_ms:
            measured[f"resnet{arch}"][float(cores)] = (capacity_rps, p99_ms)
    return Published(
        budget_cores=parameters["MAX_CPU"],
        min_cores=parameters["min_cpu_per_variant"],
        coefficient=parameters["CAPACITY_COEF"],
        slo_ms=slo_ms,
        betas=tuple(parameters["beta_values_of_the_paper"]),
        gamma=parameters["BETA_code_is_paper_gamma"],
        variants={name: (row["accuracy_top1"], row["load_time_s"]) for name, row in data["variants"].items()},
        lines={name: (row["slope"], row["used_intercept"]) for name, row in lines.items()},
        measured=measured,
    )


class Splits:
    """All splits of the cores among the variants: the brute force that the solvers are checked by."""

    def __init__(self, problem: SetProblem) -> None:
        """For problems with these variants and this budget; rate, weights and what is loaded may change."""
        self._names = [v.name for v in sorted(problem.variants, key=lambda v: -v.accuracy)]
        rows = np.zeros((1, 0, 2))
        for name in self._names:
            variant = problem.variant(name)
            levels = variant.levels if variant else ()
            allowed = [level for level in levels if variant and level.cores >= variant.min_cores]
            own = np.array([(0.0, 0.0), *((level.cores, level.capacity_rps) for level in allowed)])
            # The rows so far, each with every level of this variant, as long as they are within the budget.
            rows = np.concatenate(
                [np.repeat(rows, len(own), axis=0), np.tile(own, (len(rows), 1))[:, None]], axis=1
            )
            rows = rows[rows[:, :, 0].sum(axis=1) <= problem.budget_cores + 1e-9]
        self._cores, self._capacity_rps = rows[:, :, 0], rows[:, :, 1]

    @property
    def count(self) -> int:
        """The number of them."""
        return len(self._cores)

    def best(self, problem: SetProblem) -> tuple[float | None, float]:
        """The best objective (None: infeasible), and the rate that no split carries."""
        on = self._cores > 0
        left = np.full(len(on), problem.rate_rps)
        mean, loading_s = np.zeros(len(on)), np.zeros(len(on))
        for at, name in enumerate(self._names):
            variant = problem.variant(name)
            if variant is None:
                raise KeyError(name)
            quota = np.minimum(self._capacity_rps[:, at], left)
            left = left - quota
            mean += quota / problem.rate_rps * variant.accuracy
            loading_s = np.maximum(loading_s, on[:, at] * (0.0 if variant.loaded else variant.readiness_s))
        weights = problem.weights
        worth = weights.alpha * mean - weights.beta * self._cores.sum(axis=1) - weights.gamma * loading_s
        carries = left <= 1e-9 * problem.rate_rps
        missing_rps = max(0.0, problem.rate_rps - float(self._capacity_rps.sum(axis=1).max()))
        return (float(worth[carries].max()) if carries.any() else None), missing_rps
