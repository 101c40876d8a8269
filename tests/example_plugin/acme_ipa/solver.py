"""SciPy's own copy of HiGHS as a solver."""

from __future__ import annotations

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from ipa.library import Deadline, Milp, MilpSolution, SolverError, Termination

# SciPy's status numbers.
OPTIMAL, LIMIT, INFEASIBLE = 0, 1, 2


def maximise(program: Milp, deadline: Deadline) -> MilpSolution:
    """The best columns that SciPy finds in time. Errors: SolverError."""
    starts = np.cumsum([0, *(len(row.columns) for row in program.rows)])
    columns = np.concatenate([row.columns for row in program.rows])
    coefficients = np.concatenate([row.coefficients for row in program.rows])
    shape = (len(program.rows), len(program.costs))
    found = milp(
        -np.asarray(program.costs),
        integrality=np.asarray(program.is_binary, dtype=int),
        bounds=Bounds(0.0, np.asarray(program.uppers)),
        constraints=LinearConstraint(
            csr_array((coefficients, columns, starts), shape=shape),
            [row.lower for row in program.rows],
            [row.upper for row in program.rows],
        ),
        options={"time_limit": deadline.remaining_s, "mip_rel_gap": 0.0},
    )
    if found.status == INFEASIBLE:
        return MilpSolution(Termination.INFEASIBLE)
    if found.status not in (OPTIMAL, LIMIT):
        raise SolverError(f"SciPy: {found.message}")
    bound = None if found.mip_dual_bound is None else -float(found.mip_dual_bound)
    if found.x is None:
        return MilpSolution(Termination.NO_SOLUTION_FOUND, bound=bound)
    termination = Termination.OPTIMAL if found.status == OPTIMAL else Termination.FEASIBLE
    return MilpSolution(termination, tuple(map(float, found.x)), bound)
