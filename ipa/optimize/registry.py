"""The solvers by name; imports no solver."""

from __future__ import annotations

from ipa.model.errors import UsageError

AUTO, EXACT = "auto", "exact"
# Ours, each by itself: two MILP solvers, modules of `ipa.optimize.backends`, and label setting.
BACKENDS = ("gurobi", "highs", EXACT)
SOLVERS = (AUTO, *BACKENDS)


def check_solver(name: str) -> str:
    """Return the name of a solver. UsageError: no solver has that name."""
    if name not in SOLVERS:
        raise UsageError(f"there is no solver {name!r}", hint=f"There are: {', '.join(SOLVERS)}")
    return name
