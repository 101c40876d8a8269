"""Remove options that no plan as good as a known one can have.

For the MILP solvers, whose time grows with the options: a quick plan of label setting's first pass, and the
bound on all plans with each option, rule most of them out before the solver begins.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf

import numpy as np

from ipa.optimize.backends.label_setting import LabelSearch
from ipa.optimize.columns import Index
from ipa.optimize.deadline import Deadline
from ipa.optimize.program import EQUAL, Program, evaluate

# With fewer options a solver is done before they are counted.
FROM = 60
# Labels of the pass that finds a plan.
WIDTH = 32


def sharpen(program: Program, deadline: Deadline) -> tuple[Program, tuple[Index, ...]]:
    """The smaller program, and for each stage the options of the given one that are left.

    No best plan is lost. The same program if accuracies neither add up nor multiply, if no plan is found, or
    if there are few options anyway. DeadlineError if the time is up.
    """
    left = tuple(np.arange(len(stage)) for stage in program.stages)
    if sum(len(stage) for stage in program.stages) < FROM or not program.is_plain:
        return program, left
    search = LabelSearch(program, deadline)
    known = -inf
    guessed = search.guess()
    if guessed:
        known = evaluate(program, guessed).objective
    found, _ = search.run(known, WIDTH)
    if found:
        known = max(known, evaluate(program, found).objective)
    if known == -inf:
        return program, left
    least = known - 10 * EQUAL * max(1.0, abs(known))
    kept = [np.flatnonzero(search.bounding.option_bounds(at) >= least) for at in range(len(program.stages))]
    stages = tuple(stage.take(each) for stage, each in zip(program.stages, kept, strict=True))
    return replace(program, stages=stages), tuple(kept)
