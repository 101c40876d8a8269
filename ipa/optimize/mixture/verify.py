"""Verification of mixtures by plain arithmetic; each part is also verified as a plan."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf, isclose

from ipa.model.errors import Problem as Fault
from ipa.model.errors import SolverError
from ipa.model.plan import Termination
from ipa.optimize.mixture.plan import Mixture, MixtureLimits, most_cores, part_problem
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.verify import AGREE, verify


def verify_mixture(problem: PlanningProblem, limits: MixtureLimits, mixture: Mixture) -> None:
    """Return if the mixture is valid; SolverError lists its faults, or those of a part."""
    has_parts = mixture.termination in (Termination.OPTIMAL, Termination.FEASIBLE)
    faults = list(_faults_of_parts(problem, limits, mixture)) if has_parts else []
    if not has_parts and (mixture.parts or mixture.objective is not None):
        faults.append(f"termination is {mixture.termination.value}, yet there are parts or an objective")
    if faults:
        raise SolverError(
            f"the mixture for pipeline {problem.pipeline!r} does not hold",
            problems=[Fault(fault) for fault in faults],
        )


def _faults_of_parts(problem: PlanningProblem, limits: MixtureLimits, mixture: Mixture) -> Iterator[str]:
    shares = [part.share_percent for part in mixture.parts]
    if not 1 <= len(shares) <= limits.max_parts or sum(shares) != 100 or min(shares, default=0) < 1:
        yield f"the shares {shares} are not 1 to {limits.max_parts} whole percents that sum to 100"
        return
    if any(share % limits.step_percent for share in shares):
        yield f"the shares {shares} are not multiples of {limits.step_percent}"
    for part in mixture.parts:
        verify(part_problem(problem, part.share_percent), part.plan)
    plans = [part.plan for part in mixture.parts]
    objective = sum(plan.objective or 0.0 for plan in plans)
    cost_cores = sum(plan.cost_cores or 0.0 for plan in plans)
    mean_pas = sum(part.share_percent / 100 * (part.plan.pas or 0.0) for part in mixture.parts)
    single = mixture.single.objective
    gain = None if single is None else objective - single
    for name, given, expected in (
        ("objective", mixture.objective, objective),
        ("cost_cores", mixture.cost_cores, cost_cores),
        ("mean_pas", mixture.mean_pas, mean_pas),
        ("gain", mixture.gain, gain),
    ):
        if given is None or expected is None:
            if given is not expected:
                yield f"{name} is {expected!r} by arithmetic, not {given!r}"
        elif not isclose(given, expected, rel_tol=AGREE, abs_tol=AGREE):
            yield f"{name} is {expected!r} by arithmetic, not {given!r}"
    most = most_cores(problem)
    if most < inf and cost_cores > most + AGREE * max(1.0, most):
        yield f"{cost_cores:g} cores are above the bound of {most:g}"
    if len(plans) > 1 and gain is not None and not gain > limits.min_gain * (1 - AGREE):
        yield f"the mixture gains {gain!r}, not more than {limits.min_gain!r}"
