"""The linear program in HiGHS."""

from __future__ import annotations

import highspy
import numpy as np

from ipa.model.errors import DeadlineError, SolverError
from ipa.model.plan import Termination
from ipa.optimize.deadline import Deadline
from ipa.optimize.linear_program import Milp, MilpSolution
from ipa.optimize.problem import Array

# Silent, repeatable, and exact: the batch term δ = 1e-6 is as small as HiGHS's usual absolute gap.
OPTIONS = {
    "output_flag": False,
    "parallel": "off",
    "random_seed": 0,
    "mip_rel_gap": 0.0,
    "mip_abs_gap": 0.0,
    # Tighter than this HiGHS 1.16 calls some worse solutions optimal (about one set in a hundred at 1e-9).
    "mip_feasibility_tolerance": 1e-7,
    "primal_feasibility_tolerance": 1e-9,
    "dual_feasibility_tolerance": 1e-9,
}


class _Quiet(highspy.Highs):  # type: ignore[misc]
    """HiGHS, silenced before its constructor can print a banner."""

    def enableCallbacks(self) -> None:  # noqa: N802 - the library's name
        self.silent()
        super().enableCallbacks()


def maximise(milp: Milp, deadline: Deadline) -> MilpSolution:
    """The best columns that HiGHS finds in time; SolverError if it fails."""
    return _solution(_run(_model(milp), deadline))


def relaxed(milp: Milp, deadline: Deadline) -> tuple[Array, Array]:
    """The columns of the linear relaxation and the multiplier of each row. DeadlineError: not in time."""
    model = _model(milp)
    model.integrality_ = [highspy.HighsVarType.kContinuous] * len(milp.costs)
    highs = _run(model, deadline)
    if highs.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise DeadlineError("the linear relaxation was not solved in time")
    solution = highs.getSolution()
    return np.array(solution.col_value), np.abs(solution.row_dual)


def _run(model: highspy.HighsLp, deadline: Deadline) -> _Quiet:
    highs = _Quiet()
    for name, value in OPTIONS.items():
        highs.setOptionValue(name, value)
    highs.setOptionValue("time_limit", deadline.remaining_s)
    if highs.passModel(model) == highspy.HighsStatus.kError:
        raise SolverError("HiGHS refused the model")
    highs.run()
    return highs


def _model(milp: Milp) -> highspy.HighsLp:
    model = highspy.HighsLp()
    model.num_col_ = len(milp.costs)
    model.num_row_ = len(milp.rows)
    model.sense_ = highspy.ObjSense.kMaximize
    model.col_cost_ = np.array(milp.costs)
    model.col_lower_ = np.zeros(len(milp.costs))
    model.col_upper_ = np.array(milp.uppers)
    model.integrality_ = [
        highspy.HighsVarType.kInteger if is_binary else highspy.HighsVarType.kContinuous
        for is_binary in milp.is_binary
    ]
    model.row_lower_ = np.array([row.lower for row in milp.rows])
    model.row_upper_ = np.array([row.upper for row in milp.rows])
    model.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    model.a_matrix_.start_ = np.cumsum([0, *(len(row.columns) for row in milp.rows)])
    model.a_matrix_.index_ = np.concatenate([row.columns for row in milp.rows])
    model.a_matrix_.value_ = np.concatenate([row.coefficients for row in milp.rows])
    return model


def _solution(highs: highspy.Highs) -> MilpSolution:
    status, info = highs.getModelStatus(), highs.getInfo()
    has_solution = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    match status:
        case highspy.HighsModelStatus.kOptimal:
            termination = Termination.OPTIMAL
        # Every column is bounded, so the program is not unbounded: it is infeasible.
        case highspy.HighsModelStatus.kInfeasible | highspy.HighsModelStatus.kUnboundedOrInfeasible:
            return MilpSolution(Termination.INFEASIBLE)
        case highspy.HighsModelStatus.kTimeLimit:
            termination = Termination.FEASIBLE if has_solution else Termination.NO_SOLUTION_FOUND
        case _:
            raise SolverError(f"HiGHS ended with status {highs.modelStatusToString(status)}")
    bound = float(info.mip_dual_bound)
    if not has_solution:
        return MilpSolution(termination, bound=bound)
    return MilpSolution(termination, tuple(highs.getSolution().col_value), bound)
