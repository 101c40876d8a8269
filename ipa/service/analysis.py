"""Analysis around a plan: why it is best, the frontier of alternatives, and the fits of the profiles."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from ipa.model.errors import NotFoundError
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.optimize.explanation import Explanation
from ipa.optimize.frontier import FrontierPoint, accuracy_cost
from ipa.profiling.findings import doubts, remedy_of_doubt
from ipa.profiling.fit import LatencyFit, fit_variant
from ipa.service.plans import PlanRequest, plan_for, what_if
from ipa.service.service import Service

# The time limit of an explanation, in seconds; most take one.
EXPLANATION_S = 5.0
# The time limit of a frontier, in seconds; those of the included pipelines take 0.1 s.
FRONTIER_S = 5.0


@dataclass(frozen=True, slots=True)
class FrontierView:
    """The Pareto frontier of accuracy and cost within the limits, by rising cost.

    `plans` is the size of the frontier of accuracy, cost and latency; its other plans have a lower latency
    than one of these.
    """

    pipeline: str
    rate_rps: float
    points: tuple[FrontierPoint, ...]
    plans: int


@dataclass(frozen=True, slots=True)
class VariantFitView:
    """The fits of one variant, one for each number of cores that was measured. Between them there is none."""

    variant: str
    fits: tuple[LatencyFit, ...]


@dataclass(frozen=True, slots=True)
class StageFits:
    """The fits of a stage's variants, which plans use instead of the measured points.

    `doubts` are the reasons for which they cannot be believed, with figures. If there are some, `remedy` says
    how to measure again, and ends with the command.
    """

    pipeline: str
    stage: str
    variants: tuple[VariantFitView, ...]
    doubts: tuple[str, ...] = ()
    remedy: str = ""


async def explain(
    service: Service, pipeline: Pipeline, request: PlanRequest, place: AbstractAsyncContextManager[None]
) -> Explanation:
    """Return why the plan of the request is best, as far as time allows; computed in the `place`."""
    question = what_if(service, pipeline, request)
    async with place:
        plan = await plan_for(service, question, request.solver)
        return await service.planner.explain(question, plan, EXPLANATION_S)


async def find_frontier(
    service: Service, pipeline: Pipeline, request: PlanRequest, place: AbstractAsyncContextManager[None]
) -> FrontierView:
    """The frontier within the limits of the request; computed in the `place`.

    DeadlineError if not all of it was found in time.
    """
    question = what_if(service, pipeline, request)
    async with place:
        found = await service.planner.frontier(question, FRONTIER_S)
    return FrontierView(pipeline.name, question.rate_rps, tuple(accuracy_cost(found)), len(found))


def stage_profile(service: Service, pipeline: Pipeline, stage: str) -> StageProfile:
    """The newest profile of a stage; NotFoundError if there is no such stage, or no profile of it."""
    pipeline.stage(stage)
    profiles = service.profiles(pipeline.name)
    if stage not in profiles:
        raise NotFoundError(
            f"stage {stage!r} of {pipeline.name!r} has no profile", hint="`ipa profile` makes one."
        )
    return profiles[stage]


def stage_fits(service: Service, pipeline: Pipeline, stage: str) -> StageFits:
    """The fits of a stage's profile: latency over batch size, one fit for each number of cores measured."""
    profile = stage_profile(service, pipeline, stage)
    reasons = [
        reason for doubt in doubts([pipeline.stage(stage)], {stage: profile}) for reason in doubt.reasons
    ]
    return StageFits(
        pipeline.name,
        stage,
        tuple(
            VariantFitView(each.variant, tuple(fit_variant(each).fits.values())) for each in profile.variants
        ),
        tuple(reasons),
        remedy_of_doubt(pipeline.name, stage, planned_only=not pipeline.runnable) if reasons else "",
    )
