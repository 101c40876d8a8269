"""The solvers by name; light to import."""

from __future__ import annotations

from ipa.plugins import Registry

AUTO, EXACT = "auto", "exact"
# A solver is named by its function of a `Milp` and a `Deadline` that returns a `MilpSolution`
# (`ipa.optimize.milp`). The first and the last solve the program itself, without a linear one.
SOLVERS = Registry(
    "ipa.solvers",
    "solver",
    {
        AUTO: "ipa.optimize.solver_selection:answer",
        "gurobi": "ipa.optimize.backends.gurobi:maximise",
        "highs": "ipa.optimize.backends.highs:maximise",
        EXACT: "ipa.optimize.backends.label_setting:solve",
    },
)
