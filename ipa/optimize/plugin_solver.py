"""A MILP solver of another package: its exceptions become PluginErrors, and its solutions are checked."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import numpy as np

from ipa.model.plan import Termination
from ipa.optimize.deadline import Deadline
from ipa.optimize.milp import Milp, MilpSolution
from ipa.plugins import Plugin

# MILP solvers accept a row or a 0-1 column that is broken by this much (the default of most).
TOLERANCE = 1e-5


class PluginSolver:
    """The plug-in's solver (a `Maximise`).

    PluginError for whatever it raises that is no IpaError, and for a solution that breaks a row. The planner
    also refuses plans that its own bound contradicts.
    """

    def __init__(self, plugin: Plugin, maximise: object) -> None:
        if not callable(maximise):
            raise plugin.fault(f"does not fit: a {type(maximise).__name__} cannot be called with a Milp")
        self._plugin, self._maximise = plugin, maximise

    def __call__(self, milp: Milp, deadline: Deadline) -> MilpSolution:
        """The best columns that the solver finds in time."""
        with self._plugin.guarded():
            solution = self._maximise(milp, deadline)
            faults = list(solution_faults(milp, solution))
        if faults:
            raise self._plugin.fault(f"gave an invalid solution: {'; '.join(faults)}")
        return MilpSolution(solution.termination, tuple(map(float, solution.values)), solution.bound)


def solution_faults(milp: Milp, solution: object) -> Iterator[str]:
    """Every way in which the object is no solution of the program, in words."""
    if not isinstance(solution, MilpSolution):
        yield f"a {type(solution).__name__} instead of a MilpSolution"
        return
    has_values = len(solution.values) > 0
    if not isinstance(solution.termination, Termination):
        yield f"its termination is {solution.termination!r}"
    elif has_values != (solution.termination in (Termination.OPTIMAL, Termination.FEASIBLE)):
        yield f"it is {solution.termination.value} and has {len(solution.values)} values"
    # An infinite bound says nothing, and is true.
    if solution.bound is not None and not solution.bound > -inf:
        yield f"its bound is {solution.bound!r}"
    if not has_values:
        return
    if len(solution.values) != len(milp.costs):
        yield f"{len(solution.values)} values for {len(milp.costs)} columns"
        return
    values = np.asarray(solution.values, dtype=float)
    if not np.isfinite(values).all():
        yield "a value is not finite"
        return
    binary = values[milp.is_binary]
    if np.abs(binary - np.round(np.clip(binary, 0.0, 1.0))).max(initial=0.0) > TOLERANCE:
        yield "a 0-1 column is neither 0 nor 1"
    if (values < -TOLERANCE).any() or (values > np.asarray(milp.uppers) + TOLERANCE).any():
        yield "a value is below 0 or above its column's bound"
    broken = sum(_is_broken(milp, values, at) for at in range(len(milp.rows)))
    if broken:
        yield f"{broken} of {len(milp.rows)} rows are broken"


def _is_broken(milp: Milp, values: np.ndarray[tuple[int], np.dtype[np.float64]], at: int) -> bool:
    row = milp.rows[at]
    terms = np.asarray(row.coefficients) * values[list(row.columns)]
    total, slack = float(terms.sum()), TOLERANCE * max(1.0, float(np.abs(terms).sum()))
    return not row.lower - slack <= total <= row.upper + slack
