"""Routes to look around with: why a plan, what else there could be, and how well profiles fit."""

from __future__ import annotations

from dataclasses import dataclass, fields

from fastapi import APIRouter, Request

from ipa.api.asking import while_asked
from ipa.api.bodies import PlanBody
from ipa.api.limits import JsonRoute, Rationed, client_of
from ipa.api.reading import Named, Using, get_profile, options_of, planned, rate_of
from ipa.model.plan import StageConfig
from ipa.model.profile import VariantProfile
from ipa.optimize.explanation import Explanation
from ipa.profiling.fit import LatencyFit, fit_variant
from ipa.report.frontier_plot import accuracy_cost

# Seconds that an explanation may take; it mostly takes one.
EXPLANATION_S = 5.0
# Seconds that a frontier may take; of the pipelines that come with us it takes a tenth of one.
FRONTIER_S = 5.0
router = APIRouter(prefix="/v1/pipelines/{pipeline}", route_class=JsonRoute)


@dataclass(frozen=True, slots=True)
class FrontierPointView:
    """A plan that none betters in accuracy and cost."""

    pas: float
    cost_cores: float
    latency_s: float
    objective: float
    configs: tuple[StageConfig, ...]


@dataclass(frozen=True, slots=True)
class FrontierView:
    """The plans within the limits that none betters in accuracy and cost, by rising cost.

    `plans` is how many there are that none betters in accuracy, cost and latency together; the others are
    quicker than one of these.
    """

    pipeline: str
    rate_rps: float
    points: tuple[FrontierPointView, ...]
    plans: int


@dataclass(frozen=True, slots=True)
class LatencyFitView(LatencyFit):
    """l(b) = c₀ + c₁·b + c₂·b² seconds for batches of `batch_min` to `batch_max` on that many cores.

    `r2_ratio` and `max_error_ratio` (the largest relative one) are on the measured points; `loo_error_ratio`
    is the mean relative error on inner points left out, None with fewer than three batches. `latencies_s` is
    the fit at each batch size that was measured, in order.
    """

    batch_sizes: tuple[int, ...]
    latencies_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class VariantFitView:
    """The fits of one variant, one for each number of cores that was measured. Between them there is none."""

    variant: str
    fits: tuple[LatencyFitView, ...]


@dataclass(frozen=True, slots=True)
class StageFits:
    """What is planned with instead of the measured points of a stage: the fits of its variants."""

    pipeline: str
    stage: str
    variants: tuple[VariantFitView, ...]


@router.post("/explanations", tags=["plans"], dependencies=[Rationed])
async def explain_plan(request: Request, pipeline: Named, services: Using, body: PlanBody) -> Explanation:
    """Why that plan: what holds it back, what comes next, where it changes. `unfinished`: not in time."""
    rate_rps = rate_of(pipeline, services, body)

    async def why() -> Explanation:
        async with services.limits.solves.enter(client_of(request.scope)):
            plan = await planned(pipeline, services, body, rate_rps)
            asked, options = body.pipeline(pipeline), options_of(pipeline, body)
            found: Explanation = await services.survey.explain(
                asked, rate_rps, plan, deadline_s=EXPLANATION_S, **options
            )
            return found

    return await while_asked(request, why())


@router.post("/frontiers", tags=["plans"], dependencies=[Rationed])
async def find_frontier(request: Request, pipeline: Named, services: Using, body: PlanBody) -> FrontierView:
    """Every accuracy that can be had and the least it costs, within the limits that the body says. Exact.

    Empty: nothing is feasible. 504: not all were found in time. Nothing is kept or changed.
    """
    rate_rps = rate_of(pipeline, services, body)

    async def every() -> FrontierView:
        async with services.limits.solves.enter(client_of(request.scope)):
            asked, options = body.pipeline(pipeline), options_of(pipeline, body)
            found = await services.survey.frontier(asked, rate_rps, deadline_s=FRONTIER_S, **options)
        points = tuple(
            FrontierPointView(each.pas, each.cost_cores, each.latency_s, each.objective, each.configs)
            for each in accuracy_cost(found)
        )
        return FrontierView(pipeline.name, rate_rps, points, len(found))

    return await while_asked(request, every())


@router.get("/profiles/{stage}/fits", tags=["profiles"])
def get_fits(pipeline: Named, stage: str, services: Using) -> StageFits:
    """How latency depends on the batch size, as planned with: one fit for each number of cores measured."""
    profile = get_profile(pipeline, stage, services)
    return StageFits(
        pipeline.name,
        stage,
        tuple(
            VariantFitView(each.variant, tuple(_fit_view(fit, sizes) for fit, sizes in _fits_of(each)))
            for each in profile.variants
        ),
    )


def _fits_of(profile: VariantProfile) -> list[tuple[LatencyFit, tuple[int, ...]]]:
    """Each fit with the batch sizes that were measured on its cores."""
    found = fit_variant(profile)
    return [
        (fit, tuple(sorted(batch for on, batch in found.points if on == cores)))
        for cores, fit in found.fits.items()
    ]


def _fit_view(fit: LatencyFit, sizes: tuple[int, ...]) -> LatencyFitView:
    return LatencyFitView(
        **{each.name: getattr(fit, each.name) for each in fields(fit)},
        batch_sizes=sizes,
        latencies_s=tuple(fit.latency_s(size) for size in sizes),
    )
