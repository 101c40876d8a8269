"""What-if plans: requests and answers, explanations, frontiers, and plans that are stored and applied."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from anyio import to_thread

from ipa.control.canonical import canonical_json, digest, digest_of
from ipa.control.engine.state import ChangeRequest
from ipa.control.ports import Clock
from ipa.control.saved_plans import AnswerStore, Basis, IdempotencyClaim, StoredAnswer, StoredPlan
from ipa.model.access import Operation
from ipa.model.errors import (
    InProgressError,
    InputError,
    IpaError,
    NotFoundError,
    Problem,
    StaleError,
    UnplannedError,
)
from ipa.model.pipeline import Pipeline
from ipa.model.plan import cores_of
from ipa.model.profile import StageProfile
from ipa.optimize.explain import Explanation
from ipa.optimize.frontier import FrontierPoint, accuracy_cost
from ipa.optimize.problem import Compat
from ipa.policies.planning import PlanQuestion
from ipa.profiling.findings import doubts, remedy_of_doubt
from ipa.profiling.fit import LatencyFit, fit_variant
from ipa.profiling.points import Allocation
from ipa.service.commands import check_confirmed
from ipa.service.history import DECISION
from ipa.service.service import ChangeOrder, Service
from ipa.service.status import live_of, loop_of, revision_of
from ipa.service.visibility import Caller

LOG = logging.getLogger(__name__)
# This run of the service: what another one left unfinished is not waited for.
_HOLDER = uuid.uuid4().hex
# The number of changes searched for one that an earlier run of the service made for the same request.
LOOK_BACK = 50


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """A what-if. Without `rate_rps` it is for the forecast's upper quantile, else for the observed rate.

    `bounds` and `weights` (α, β and δ of the objective) replace the pipeline's of the same name.
    """

    rate_rps: float | None = None
    objective: str | None = None
    compat: Compat = Compat.TAIL
    allocation: Allocation = Allocation.FREE
    solver: str = "auto"
    sla_s: float | None = None
    bounds: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, Any] = field(default_factory=dict)

    def varied(self, pipeline: Pipeline) -> Pipeline:
        """The pipeline with the replaced SLA, bounds and weights.

        NotFoundError for an unknown objective; InputError for a contradiction.
        """
        name = self.objective or pipeline.default_objective
        objective = pipeline.objective(name)
        if self.sla_s is not None:
            objective = replace(objective, sla_s=self.sla_s)
        # Unreplaced parts stay the same objects, which planner processes have cached.
        if self.weights:
            objective = replace(objective, **self.weights)
        bounds = pipeline.bounds
        if self.bounds:
            bounds = replace(bounds, **self.bounds)
            most, rest = bounds.transition_cores, bounds.cores or 0.0
            if most is not None and most < rest:
                message = f"{cores_of(most)} during a change: below the {rest:g} at rest"
                problem = Problem(message, pointer="/bounds/transition_cores")
                raise InputError("the bounds contradict each other", problems=[problem])
        return replace(pipeline, bounds=bounds, objectives={**pipeline.objectives, name: objective})


def what_if(service: Service, pipeline: Pipeline, request: PlanRequest) -> PlanQuestion:
    """The question to the planner. InputError if no rate is known; others as `PlanRequest.varied`."""
    rate_rps = request.rate_rps
    if not rate_rps:
        live = live_of(service, pipeline.name)
        rate_rps = live.forecast.upper_rps if live.forecast else live.rate_rps
    if not rate_rps:
        problem = Problem("no load was observed yet, so a rate must be given", pointer="/rate_rps")
        raise InputError("there is no rate to plan for", problems=[problem])
    objective = request.objective or pipeline.default_objective
    varied, profiles = request.varied(pipeline), service.profiles(pipeline.name)
    return PlanQuestion(varied, profiles, rate_rps, objective, request.compat, request.allocation)


@dataclass(frozen=True, slots=True)
class IdempotentAnswer:
    """The answer to a request; `is_replayed` if it was stored by an earlier request with the same key."""

    answer: StoredAnswer
    is_replayed: bool


def once(
    answers: AnswerStore,
    clock: Clock,
    key: str,
    request_digest: str,
    act: Callable[[IdempotencyClaim], StoredAnswer],
    record: str = "",
) -> IdempotentAnswer:
    """Return the answer of `act`, which is called once per key, or the answer stored under the key.

    InputError (422): the key was used for another request. InProgressError (409): its request is under way.
    If `act` raises, nothing was done, and the key may be used again. `act` receives the claim, which tells if
    an earlier process may have carried out the request already. The answer is deleted with the `record`.
    """
    claim = answers.claim(key, request_digest, _HOLDER, clock.now().timestamp(), record)
    if claim.request_digest != request_digest:
        problem = Problem("it was used for another request; use a new one")
        raise InputError("the Idempotency-Key belongs to another request", problems=[problem])
    if claim.answer is not None:
        return IdempotentAnswer(claim.answer, is_replayed=True)
    if not claim.mine:
        raise InProgressError("the request with this Idempotency-Key is still running")
    try:
        answer = act(claim)
    except BaseException:
        _tried(lambda: answers.release(key))
        raise
    _tried(lambda: answers.settle(key, answer))
    return IdempotentAnswer(answer, is_replayed=False)


def _tried(write: Callable[[], None]) -> None:
    """Write, or log why not: the answer stands, and a retry finds the key unfinished and looks into it."""
    try:
        write()
    except IpaError as error:
        LOG.warning("the answer to a request is not kept under its key: %s", error.message)


async def make_plan(
    service: Service,
    pipeline: Pipeline,
    request: PlanRequest,
    request_json: str,
    place: AbstractAsyncContextManager[None],
) -> StoredPlan:
    """Make the plan of a what-if, and store it under a new id; nothing else is changed.

    `request_json` is the request as its sender wrote it, in JSON. The plan is computed while holding `place`.
    """
    basis = basis_of(service, pipeline)
    question = what_if(service, pipeline, request)
    async with place:
        deadline_s = service.settings.solver_deadline_s
        plan = await service.planner.plan(question, request.solver, deadline_s)
    stored = StoredPlan(
        plan_id=uuid.uuid4().hex,
        pipeline=pipeline.name,
        at=service.clock.now().isoformat(),
        asked=request_json,
        basis=basis,
        plan=plan,
        record=service.record_of(pipeline.name),
    )
    await to_thread.run_sync(service.plans.keep, stored)
    return stored


def stored_plan(service: Service, plan_id: str) -> StoredPlan:
    """Return the plan of that id; NotFoundError also if the caller may not see its pipeline."""
    stored = service.plans.plan(plan_id)
    if not service.sees(stored.pipeline, stored.key):
        raise NotFoundError(
            f"there is no plan {plan_id!r}", hint="POST /v1/pipelines/PIPELINE/plans makes one."
        )
    return stored


def apply_plan(caller: Caller, plan_id: str, key: str, order: ChangeOrder) -> IdempotentAnswer:
    """Apply the plan, once per idempotency key; the answer is the decision as JSON.

    The decision may be a hold with the cause. Errors: PreconditionError (it is not the expected plan),
    StaleError (names the inputs that changed since it was made), UnplannedError (it has no configuration),
    ForbiddenError, NotFoundError, ConflictError (removing capacity while requests are late is not
    `confirmed`).
    """
    service = caller.service
    expected, mine = order.expected, {"reason": order.reason, "by": order.by}
    mark = digest(canonical_json(("apply", plan_id, expected.text, mine)))
    stored = _may_apply(caller, plan_id)

    def act(claim: IdempotencyClaim) -> StoredAnswer:
        if isinstance(stored, NotFoundError):
            raise stored
        pipeline = service.pipeline(stored.pipeline)
        decision = None
        if claim.is_resumed:
            # The service may have recorded the change for this plan before it restarted.
            done = service.log.decisions(stored.pipeline, limit=LOOK_BACK, applied_only=True)
            decision = next((each for each in done if each.plan_id == stored.plan_id), None)
        if decision is None:
            expected.check(version_of(stored.basis), "the plan")
            _check_fresh(stored, basis_of(service, pipeline))
            plan = stored.plan
            if not plan.configs:
                raise UnplannedError(
                    f"the plan for {plan.rate_rps:g} rps has no configuration ({plan.termination.value})",
                    hint=f"Feasible with {', or '.join(plan.relaxations)}" if plan.relaxations else plan.note,
                )
            configs, detail = stored.plan.configs, f"{order.words('requested')}; plan {plan_id}"
            check_confirmed(service, pipeline, configs, confirmed=order.confirmed)
            wanted = ChangeRequest(configs, detail, by=order.by, plan_id=plan_id)
            decision = loop_of(service, pipeline.name).tick_once(wanted)
        return StoredAnswer(200, DECISION.dump_json(decision).decode())

    # Keys of different callers are different.
    own_key = f"{caller.identity.name}\n{key}"
    record = stored.key if isinstance(stored, StoredPlan) else ""
    return once(service.answers, service.clock, own_key, mark, act, record)


def basis_of(service: Service, pipeline: Pipeline) -> Basis:
    """Return the inputs from which a plan of the pipeline would be computed now."""
    profiles = service.profiles(pipeline.name)
    # Profiles are long, and the same objects from one change of theirs to the next.
    return Basis(revision_of(service, pipeline.name), digest_of(pipeline), digest_of(profiles))


def version_of(basis: Basis) -> str:
    """Return the version of plans with this basis."""
    return digest(canonical_json(basis))[:32]


def _may_apply(caller: Caller, plan_id: str) -> StoredPlan | NotFoundError:
    """The plan, if the caller may apply it; the error if it is deleted: a stored answer is still given."""
    try:
        stored = stored_plan(caller.service, plan_id)
    except NotFoundError as error:
        return error
    pipeline = caller.service.pipelines[stored.pipeline]
    caller.must(Operation.APPLY, pipeline.namespace, pipeline)
    return stored


def _check_fresh(stored: StoredPlan, now: Basis) -> None:
    """StaleError names every part of the plan's basis that has changed."""
    then, problems = stored.basis, []
    if then.revision != now.revision:
        before, runs = then.revision or "unknown", now.revision or "unknown"
        message = f"the running configuration: its revision was {before}, and is {runs}"
        problems.append(Problem(message, pointer="/computed_from/revision"))
    if then.pipeline_digest != now.pipeline_digest:
        message = f"the pipeline {stored.pipeline!r}: its owner changed it"
        problems.append(Problem(message, pointer="/computed_from/pipeline_digest"))
    if then.profiles_digest != now.profiles_digest:
        message = f"the profiles of {stored.pipeline!r}: they were measured again"
        problems.append(Problem(message, pointer="/computed_from/profiles_digest"))
    if problems:
        changes = "; ".join(map(str, problems))
        raise StaleError(
            f"the plan of {stored.at} is stale, because these changed: {changes}",
            hint="Plan again, compare the two plans, and apply the new one.",
            problems=problems,
        )


# The time limit of an explanation, in seconds; most take one.
EXPLANATION_S = 5.0
# The time limit of a frontier, in seconds; those of the included pipelines take 0.1 s.
FRONTIER_S = 5.0


@dataclass(frozen=True, slots=True)
class FrontierView:
    """The Pareto frontier of accuracy and cost within the limits, by rising cost.

    `plans` is the size of the frontier of accuracy, cost and latency; its other plans have a lower latency
    than a plan listed here.
    """

    pipeline: str
    rate_rps: float
    points: tuple[FrontierPoint, ...]
    plans: int


@dataclass(frozen=True, slots=True)
class VariantFitView:
    """The fits of one variant, one for each measured number of cores; none lies between them."""

    variant: str
    fits: tuple[LatencyFit, ...]


@dataclass(frozen=True, slots=True)
class StageFits:
    """The fits of a stage's variants, which plans use instead of the measured points.

    `doubts` are the reasons why they are not credible, with figures. If there are any, `remedy` tells how to
    measure again, with the command at its end.
    """

    pipeline: str
    stage: str
    variants: tuple[VariantFitView, ...]
    doubts: tuple[str, ...] = ()
    remedy: str = ""


async def explain(
    service: Service, pipeline: Pipeline, request: PlanRequest, place: AbstractAsyncContextManager[None]
) -> Explanation:
    """Return why the plan of the request is best, as far as time allows; computed while holding `place`."""
    question = what_if(service, pipeline, request)
    async with place:
        deadline_s = service.settings.solver_deadline_s
        plan = await service.planner.plan(question, request.solver, deadline_s)
        return await service.planner.explain(question, plan, EXPLANATION_S)


async def find_frontier(
    service: Service, pipeline: Pipeline, request: PlanRequest, place: AbstractAsyncContextManager[None]
) -> FrontierView:
    """The frontier within the limits of the request; computed while holding `place`.

    DeadlineError if not all of it was found in time.
    """
    question = what_if(service, pipeline, request)
    async with place:
        frontier = await service.planner.frontier(question, FRONTIER_S)
    return FrontierView(pipeline.name, question.rate_rps, tuple(accuracy_cost(frontier)), len(frontier))


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
