"""A program's answer by way of a MILP solver."""

from __future__ import annotations

from collections.abc import Callable

from ipa.model.plan import Termination
from ipa.optimize.backends.answer import Answer, Solution
from ipa.optimize.deadline import Deadline
from ipa.optimize.milp import Milp, build_milp, chosen_options
from ipa.optimize.options import Program

Maximise = Callable[[Milp, Deadline], Solution]


def by_milp(maximise: Maximise, program: Program, deadline: Deadline) -> Answer:
    """The best plan that the solver finds in time. Errors: those of the solver."""
    if not all(program.stages):
        return Answer(Termination.INFEASIBLE)
    solution = maximise(build_milp(program), deadline)
    chosen = chosen_options(program, solution.values) if solution.values else ()
    return Answer(solution.termination, chosen, solution.bound)
