"""The planning problem of a command line, and its solutions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ipa.cli.lookup import load
from ipa.cli.options.parsing import choice_of
from ipa.cli.progress import Step
from ipa.model.errors import DeadlineError, InfeasibleError, UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, Termination
from ipa.model.profile import StageProfile
from ipa.settings import Settings

if TYPE_CHECKING:
    from ipa.optimize.problem import PlanningProblem


EXIT_CODES = {
    Termination.INFEASIBLE: InfeasibleError.exit_code,
    Termination.NO_SOLUTION_FOUND: DeadlineError.exit_code,
}


@dataclass(frozen=True, slots=True)
class Question:
    """The planning problem of a command line, without its rates."""

    pipeline: str
    objective: str | None
    compat: str
    allocation: str
    solver: str | None
    pipelines_dir: Path | None
    profiles_dir: Path | None
    # The target of the plan; None: only replicas count.
    at: str | None = None


def plans(
    question: Question, rates: list[float], *, explain: bool, step: Step = lambda _: None
) -> list[Plan]:
    """The best plan for each rate; with `explain`, infeasible ones say what would make them feasible.

    `step` receives each rate that is done.
    """
    from ipa.optimize.solve import solve
    from ipa.policies.planning import check_rate

    for rate in rates:
        check_rate(rate)
    problem, settings = problem_of(question, rates[0])
    solver = question.solver or settings.solver
    found = []
    for rate in rates:
        one = replace(problem, rate_rps=rate)
        found.append(solve(one, solver, settings.solver_deadline_s, explain=explain))
        step(f"{rate:g} rps")
    return found


def unchanged(pipeline: Pipeline) -> Pipeline:
    """The pipeline as its file says."""
    return pipeline


def problem_of(
    question: Question, rate_rps: float, change: Callable[[Pipeline], Pipeline] = unchanged
) -> tuple[PlanningProblem, Settings]:
    """The problem of the question, with the pipeline changed by `change`, and the settings."""
    from ipa.optimize.problem import Compat
    from ipa.policies.planning import planning_problem
    from ipa.profiling.points import Allocation

    compat = choice_of("--compat", question.compat, Compat)
    allocation = choice_of("--allocation", question.allocation, Allocation)
    pipeline, profiles, settings = load(question.pipeline, question.pipelines_dir, question.profiles_dir)
    problem = planning_problem(
        _at(change(pipeline), profiles, question.at),
        profiles,
        rate_rps,
        objective=question.objective,
        compat=compat,
        allocation=allocation,
    )
    return problem, settings


def _at(pipeline: Pipeline, profiles: dict[str, StageProfile], at: str | None) -> Pipeline:
    """The pipeline as it runs on the target.

    UsageError: no such target, or not in the pipeline's file. InputError lists keys without effect.
    """
    if at is None:
        return pipeline
    from ipa.bootstrap.targets import check_honoured, target_named

    target = target_named(at)
    if not target.placed(pipeline):
        raise UsageError(
            f"pipeline {pipeline.name!r} does not say how it runs on {target.title}, so what it takes is not "
            "known",
            hint=f"Give it a `{target.sections.key}:` section, or leave out --at.",
        )
    check_honoured(target, [pipeline])
    return target.shape(pipeline, profiles)


def best_plan(question: Question, rate: float, deadline_s: float) -> tuple[PlanningProblem, Plan]:
    """The problem of the rate and its best plan, for a verb that analyses it within `deadline_s`.

    UsageError if that is not above 0.
    """
    from ipa.optimize.solve import solve

    if not deadline_s > 0:
        raise UsageError(f"--deadline must be above 0 seconds, not {deadline_s:g}")
    problem, settings = problem_of(question, rate)
    plan = solve(problem, question.solver or settings.solver, settings.solver_deadline_s, explain=True)
    return problem, plan
