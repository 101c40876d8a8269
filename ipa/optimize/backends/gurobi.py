"""The linear program in Gurobi."""

from __future__ import annotations

from math import inf

import gurobipy as gp
from gurobipy import GRB

from ipa.model.errors import LicenceError, SolverError
from ipa.model.plan import Termination
from ipa.optimize.deadline import Deadline
from ipa.optimize.linear_program import Milp, MilpSolution

# Silent, repeatable, and exact: the batch term δ = 1e-6 lies below Gurobi's usual gap of 1e-4.
PARAMETERS = {
    "Threads": 1,
    "Seed": 0,
    "MIPGap": 0.0,
    "MIPGapAbs": 0.0,
    "IntFeasTol": 1e-9,
    "FeasibilityTol": 1e-9,
    "OptimalityTol": 1e-9,
}
# No licence, one that is too small, and a licence server that is unreachable or has no free seat.
LICENCE_ERRORS = frozenset(
    {
        GRB.Error.NO_LICENSE,
        GRB.Error.SIZE_LIMIT_EXCEEDED,
        GRB.Error.NETWORK,
        GRB.Error.JOB_REJECTED,
        GRB.Error.CLOUD,
        GRB.Error.CSWORKER,
    }
)
TERMINATIONS = {
    GRB.OPTIMAL: Termination.OPTIMAL,
    GRB.INFEASIBLE: Termination.INFEASIBLE,
    # Every column is bounded, so the program is not unbounded: it is infeasible.
    GRB.INF_OR_UNBD: Termination.INFEASIBLE,
}


def maximise(milp: Milp, deadline: Deadline) -> MilpSolution:
    """The best columns that Gurobi finds in time.

    LicenceError if the licence is missing, out of date or too small for this model; SolverError otherwise.
    """
    try:
        with _environment() as environment, _load(milp, environment) as model:
            model.Params.TimeLimit = deadline.remaining_s
            model.optimize()
            return _solution(model)
    except gp.GurobiError as error:
        if error.errno in LICENCE_ERRORS:
            size = f"{len(milp.costs)} variables and {len(milp.rows)} constraints"
            raise LicenceError(f"Gurobi's licence does not cover {size}: {error}") from error
        raise SolverError(f"Gurobi failed: {error}") from error


def _environment() -> gp.Env:
    """A silent environment, one for each solve since threads must not share one; creating it takes 0.3 ms."""
    environment = gp.Env(empty=True)
    environment.setParam("OutputFlag", 0)
    environment.start()
    for name, value in PARAMETERS.items():
        environment.setParam(name, value)
    return environment


def _load(milp: Milp, environment: gp.Env) -> gp.Model:
    model = gp.Model(env=environment)
    kinds = [GRB.BINARY if is_binary else GRB.CONTINUOUS for is_binary in milp.is_binary]
    columns = model.addVars(range(len(milp.costs)), ub=milp.uppers, obj=milp.costs, vtype=kinds)
    model.ModelSense = GRB.MAXIMIZE
    for row in milp.rows:
        terms = gp.LinExpr(row.coefficients, [columns[at] for at in row.columns])
        if row.lower == row.upper:
            model.addLConstr(terms, GRB.EQUAL, row.upper)
            continue
        # Not addRange: it adds a column, and the licence counts columns.
        if row.upper < inf:
            model.addLConstr(terms, GRB.LESS_EQUAL, row.upper)
        if row.lower > -inf:
            model.addLConstr(terms, GRB.GREATER_EQUAL, row.lower)
    return model


def _solution(model: gp.Model) -> MilpSolution:
    termination = TERMINATIONS.get(model.Status)
    if termination is Termination.INFEASIBLE:
        return MilpSolution(termination)
    if termination is None:
        if model.Status != GRB.TIME_LIMIT:
            raise SolverError(f"Gurobi ended with status {model.Status}")
        termination = Termination.FEASIBLE if model.SolCount else Termination.NO_SOLUTION_FOUND
    bound = float(model.ObjBound)
    if not model.SolCount:
        return MilpSolution(termination, bound=bound)
    return MilpSolution(termination, tuple(model.getAttr("X", model.getVars())), bound)
