"""Explain the plan of a question: the one way of the command line, the service and its planner processes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan
from ipa.optimize.explain import explain
from ipa.optimize.explanation import Explanation
from ipa.optimize.problem import PlanningProblem
from ipa.policies.planning import PlanQuestion


def explain_plan(question: PlanQuestion, plan: Plan, deadline_s: float = 10.0) -> Explanation:
    """Explain `plan` as the answer to the question, as far as time allows: as `ipa.optimize.explain`.

    Errors: InputError if the plan is not one of the question; those of `PlanQuestion.problem`.
    """
    problem = question.problem()
    return explain(problem, plan, deadline_s, wider=_wider(question, problem))


def _wider(question: PlanQuestion, problem: PlanningProblem) -> Mapping[str, PlanningProblem]:
    """The problem without limits on batch sizes, if it has more operating points."""
    free = replace(question, pipeline=_any_batch_size(question.pipeline, question.objective)).problem()
    has_more = any(
        len(more.points) > len(mine.points) for more, mine in zip(free.stages, problem.stages, strict=True)
    )
    return {"batch_sizes": free} if has_more else {}


def _any_batch_size(pipeline: Pipeline, objective: str | None) -> Pipeline:
    """The pipeline without limits on batch sizes."""
    wanted = replace(pipeline.objective(objective), max_batch_size=None)
    return replace(
        pipeline,
        bounds=replace(pipeline.bounds, batch_sizes=None),
        objectives={**pipeline.objectives, objective or pipeline.default_objective: wanted},
        stages=tuple(
            replace(stage, bounds=replace(stage.bounds, batch_sizes=None)) for stage in pipeline.stages
        ),
    )
