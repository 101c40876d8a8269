"""Routes for plans: what-ifs that are kept under an id, and applying one of them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from pydantic import TypeAdapter

from ipa.api.acting import said
from ipa.api.asking import while_asked
from ipa.api.bodies import ApplyPlanBody, PlanBody
from ipa.api.gate import Admitted, Asker
from ipa.api.limits import JsonRoute, Rationed, client_of
from ipa.api.once import IdempotencyKey, check_key, mark_of, once
from ipa.api.preconditions import IfMatch, IfNoneMatch, check_given, check_match, etag, is_known
from ipa.api.reading import Named, Using, planned, rate_of
from ipa.api.seen import pipeline_named
from ipa.api.services import Services
from ipa.control.canonical import canonical_json, digest, digest_of
from ipa.control.idempotency import IdempotencyClaim, StoredAnswer
from ipa.control.saved_plans import Basis, StoredPlan
from ipa.model.access import Operation
from ipa.model.decision import Decision
from ipa.model.errors import NotFoundError, Problem, StaleError, UnplannedError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan
from ipa.service.history import DECISION

# How far back the change of a request is looked for that an earlier run of the service may have carried out.
LOOK_BACK = 50
making = APIRouter(prefix="/v1", route_class=JsonRoute)
applying = APIRouter(prefix="/v1", route_class=JsonRoute)


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanView(Plan):
    """A plan that is kept: `asked` is the request it answers, `computed_from` what it holds for."""

    plan_id: str
    at: str
    asked: dict[str, Any]
    computed_from: Basis


_VIEW = TypeAdapter(PlanView)


@making.post(
    "/pipelines/{pipeline}/plans",
    tags=["plans"],
    status_code=201,
    dependencies=[Rationed],
    response_model=PlanView,
)
async def make_plan(request: Request, pipeline: Named, services: Using, body: PlanBody) -> Response:
    """What would be best (a what-if; nothing is changed), kept under its `plan_id`.

    Infeasible is a `termination`, not an error. `:apply` carries the plan out while what it was computed from
    still holds; its ETag says what that is.
    """
    basis = basis_of(services, pipeline)
    rate_rps = rate_of(pipeline, services, body)

    async def in_turn() -> Plan:
        async with services.limits.solves.enter(client_of(request.scope)):
            return await planned(pipeline, services, body, rate_rps)

    plan = await while_asked(request, in_turn())
    kept = StoredPlan(
        plan_id=uuid4().hex,
        pipeline=pipeline.name,
        at=services.clock.now().isoformat(),
        asked=body.model_dump_json(exclude_unset=True),
        basis=basis,
        plan=plan,
        record=services.record_of(pipeline.name),
    )
    services.plans.keep(kept)
    headers = {"Location": f"/v1/plans/{kept.plan_id}", "ETag": tag_of(basis)}
    # As text at once: a slider asks for hundreds, and checking the answer would take longer than the plan.
    return Response(_VIEW.dump_json(_view(kept)), 201, headers, "application/json")


@making.get(
    "/plans/{plan_id}",
    tags=["plans"],
    response_model=PlanView,
    responses={304: {"description": "Known already"}},
)
def get_plan(plan_id: str, services: Using, response: Response, if_none_match: IfNoneMatch = None) -> Any:
    """A plan as it was made, with what it was computed from."""
    kept = _seen_plan(services, plan_id)
    tag = tag_of(kept.basis)
    if is_known(if_none_match, tag):
        return Response(status_code=304, headers={"ETag": tag})
    response.headers["ETag"] = tag
    return _view(kept)


@applying.post("/plans/{plan_id}:apply", tags=["plans"], response_model=Decision)
def apply_plan(
    plan_id: str,
    services: Using,
    asker: Asker,
    body: ApplyPlanBody,
    if_match: IfMatch = None,
    idempotency_key: IdempotencyKey = None,
) -> Response:
    """Run the plan, once for the Idempotency-Key, with its ETag as If-Match.

    412 names what moved since the plan was made; 409: it has no configuration. The decision may be a hold
    that says why nothing was changed.
    """
    key = check_key(idempotency_key)
    given = check_given(if_match, "the plan")
    body = asker.signed(body)
    mark = mark_of("apply", plan_id, given, body.model_dump())

    kept = _may_apply(asker, plan_id)

    def act(claim: IdempotencyClaim) -> StoredAnswer:
        if isinstance(kept, NotFoundError):
            raise kept
        pipeline = pipeline_named(services, kept.pipeline)
        decision = _carried_out(services, kept, claim) if claim.is_resumed else None
        if decision is None:
            check_match(given, tag_of(kept.basis), "the plan")
            _check_fresh(kept, basis_of(services, pipeline))
            _check_feasible(kept.plan)
            detail = f"{said('requested', body.by, body.reason)}; plan {plan_id}"
            decision = services.apply(pipeline.name, kept.plan.configs, detail, body.by)
        return StoredAnswer(200, DECISION.dump_json(decision).decode())

    # A key is its sender's own.
    record = kept.key if isinstance(kept, StoredPlan) else ""
    return once(services.answers, services.clock, f"{asker.identity.name}\n{key}", mark, act, record)


def _may_apply(asker: Admitted, plan_id: str) -> StoredPlan | NotFoundError:
    """The plan, which they may apply, or why it is not there: what was answered before is answered again."""
    try:
        kept = _seen_plan(asker.services, plan_id)
    except NotFoundError as error:
        return error
    pipeline = asker.services.pipelines[kept.pipeline]
    asker.must(Operation.APPLY, pipeline.namespace, pipeline)
    return kept


def _seen_plan(services: Services, plan_id: str) -> StoredPlan:
    """That plan; NotFoundError also where its pipeline may not be seen."""
    kept = services.plans.plan(plan_id)
    if not services.sees(kept.pipeline, kept.key):
        raise NotFoundError(
            f"there is no plan {plan_id!r}", hint="POST /v1/pipelines/PIPELINE/plans makes one."
        )
    return kept


def basis_of(services: Services, pipeline: Pipeline) -> Basis:
    """What a plan of the pipeline would be computed from now."""
    profiles = services.profiles(pipeline.name)
    # Profiles are long, and the same objects from one change of theirs to the next.
    return Basis(services.revision(pipeline.name), digest_of(pipeline), digest_of(profiles))


def tag_of(basis: Basis) -> str:
    """The entity tag of plans that were computed from that."""
    return etag(digest(canonical_json(basis))[:32])


def _view(kept: StoredPlan) -> PlanView:
    values = {each.name: getattr(kept.plan, each.name) for each in fields(Plan)}
    asked = _ASKED.validate_json(kept.asked)
    return PlanView(**values, plan_id=kept.plan_id, at=kept.at, asked=asked, computed_from=kept.basis)


_ASKED = TypeAdapter(dict[str, Any])


def _check_fresh(kept: StoredPlan, now: Basis) -> None:
    """StaleError names all of what the plan was computed from that is another now."""
    then, problems = kept.basis, []
    if then.revision != now.revision:
        seen, runs = then.revision or "not seen", now.revision or "not seen"
        message = f"what runs: it was at revision {seen}, and is at {runs}"
        problems.append(Problem(message, pointer="/computed_from/revision"))
    if then.pipeline_digest != now.pipeline_digest:
        message = f"the pipeline {kept.pipeline!r}: its owner changed it"
        problems.append(Problem(message, pointer="/computed_from/pipeline_digest"))
    if then.profiles_digest != now.profiles_digest:
        message = f"the profiles of {kept.pipeline!r}: they were measured anew"
        problems.append(Problem(message, pointer="/computed_from/profiles_digest"))
    if problems:
        raise StaleError(
            f"the plan of {kept.at} is stale, as these moved: {'; '.join(str(it) for it in problems)}",
            hint="Plan again, look at what differs, and apply that.",
            problems=problems,
        )


def _check_feasible(plan: Plan) -> None:
    """UnplannedError says what would make it feasible."""
    if not plan.configs:
        raise UnplannedError(
            f"the plan for {plan.rate_rps:g} rps has no configuration ({plan.termination.value})",
            hint=f"Feasible with {', or '.join(plan.relaxations)}" if plan.relaxations else plan.note,
        )


def _carried_out(services: Services, kept: StoredPlan, claim: IdempotencyClaim) -> Decision | None:
    """The change that an earlier run of the service made for this request before it ended, if it did."""
    done = services.log.decisions(kept.pipeline, limit=LOOK_BACK, applied_only=True)
    return next((it for it in done if f"; plan {kept.plan_id}" in it.detail), None)
