"""The operation and the kind of work of each route (every route needs a row), and a request's caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

from anyio import to_thread
from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.routing import Match, Mount, Router
from starlette.types import Scope

from ipa.api.context import ApiContext
from ipa.api.limits import client_address
from ipa.model.access import EVERYWHERE, LOCAL, NOBODY, Identity, Operation
from ipa.model.errors import ForbiddenError, IpaError, UnauthenticatedError
from ipa.service.visibility import Caller, visible_to

# Open to all: the answer holds nothing of a pipeline; the metrics are bounded by access to the port.
OPEN: None = None
METRICS_ROUTE = ("GET", "/metrics")
PIPELINE = "/v1/pipelines/{pipeline}"


class Where(StrEnum):
    """The scope in which the operation must be allowed."""

    # In the namespace of the pipeline that the path names.
    PIPELINE = "the pipeline's namespace"
    # No scope: the answer contains only what the caller may see.
    SEEN = "what is answered"
    EVERYWHERE = "every namespace"


class Work(StrEnum):
    """The kind of work of a request."""

    # From memory, on the event loop: no thread, no store; the same answer for everybody.
    NONE = "none"
    HEALTH = "health"
    READ = "a read"
    LIST = "a large answer"
    VERIFY = "a whole record"
    SOLVE = "a computation"
    WRITE = "a change"
    STREAM = "a stream"


@dataclass(frozen=True, slots=True)
class Rule:
    """The operation of a route, the scope in which it must be allowed, and its kind of work.

    Without a kind of work, the operation's default applies.
    """

    operation: Operation
    where: Where = Where.PIPELINE
    work: Work | None = None


READ = Rule(Operation.READ)
LIST = Rule(Operation.READ, work=Work.LIST)
WHAT_IF = Rule(Operation.WHAT_IF)
CONTROL = Rule(Operation.CONTROL)
APPLY = Rule(Operation.APPLY)
SEEN = Rule(Operation.READ, Where.SEEN)
SEEN_LIST = Rule(Operation.READ, Where.SEEN, Work.LIST)
SEEN_STREAM = Rule(Operation.READ, Where.SEEN, Work.STREAM)
REPLACE = Rule(Operation.REPLACE)
REMOVE = Rule(Operation.REMOVE)
# For the pipeline of the body, the plan or the decision: the use case checks it.
ANY_WHAT_IF = Rule(Operation.WHAT_IF, Where.SEEN)
ANY_APPLY = Rule(Operation.APPLY, Where.SEEN)
ANY_DEFINE = Rule(Operation.DEFINE, Where.SEEN)
METRICS = Rule(Operation.READ, Where.EVERYWHERE)
OPERATE = Rule(Operation.OPERATE, Where.EVERYWHERE, Work.READ)

# The work of open routes that use something up.
OPEN_WORK = {("GET", "/readyz"): Work.HEALTH, METRICS_ROUTE: Work.LIST}
# Changes that count as expensive requests too: reading a file is the most of them.
EXPENSIVE = frozenset({("POST", "/v1/pipelines"), ("PUT", PIPELINE)})
# HEAD counts as GET.
RULES: Mapping[tuple[str, str], Rule | None] = {
    ("GET", "/healthz"): OPEN,
    ("GET", "/readyz"): OPEN,
    METRICS_ROUTE: OPEN,
    ("GET", "/"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("GET", "/problems/{code}"): OPEN,
    ("GET", "/assets"): OPEN,
    ("GET", "/v1/me"): SEEN_LIST,
    ("GET", "/v1/pipelines"): SEEN_LIST,
    ("GET", PIPELINE): READ,
    ("POST", "/v1/pipelines"): ANY_DEFINE,
    ("PUT", PIPELINE): REPLACE,
    ("DELETE", PIPELINE): REMOVE,
    ("PUT", f"{PIPELINE}/profiles/{{stage}}"): REPLACE,
    ("GET", f"{PIPELINE}/status"): READ,
    ("GET", f"{PIPELINE}/profiles"): LIST,
    ("GET", f"{PIPELINE}/profiles/{{stage}}"): READ,
    ("GET", f"{PIPELINE}/profiles/{{stage}}/fits"): READ,
    ("GET", f"{PIPELINE}/decisions"): LIST,
    ("GET", f"{PIPELINE}/history"): LIST,
    ("GET", f"{PIPELINE}/record"): Rule(Operation.READ, work=Work.VERIFY),
    ("GET", "/v1/decisions/{decision_id}"): SEEN,
    ("POST", "/v1/decisions/{decision_id}:replay"): ANY_WHAT_IF,
    ("GET", "/v1/events"): SEEN_STREAM,
    # Of one pipeline, as its record; the route asks for more if all of them are exported.
    ("GET", "/v1/audit"): SEEN_STREAM,
    ("GET", "/v1/configuration"): OPERATE,
    ("POST", f"{PIPELINE}/plans"): WHAT_IF,
    ("POST", f"{PIPELINE}/explanations"): WHAT_IF,
    ("POST", f"{PIPELINE}/frontiers"): WHAT_IF,
    ("GET", "/v1/plans/{plan_id}"): SEEN,
    ("POST", "/v1/plans/{plan_id}:apply"): ANY_APPLY,
    ("GET", "/v1/fleet"): SEEN_LIST,
    ("PUT", f"{PIPELINE}/mode"): CONTROL,
    ("POST", f"{PIPELINE}/pause"): CONTROL,
    ("POST", f"{PIPELINE}/resume"): CONTROL,
    ("PUT", f"{PIPELINE}/pins/{{stage}}"): CONTROL,
    ("DELETE", f"{PIPELINE}/pins/{{stage}}"): CONTROL,
    ("POST", f"{PIPELINE}/freezes"): CONTROL,
    ("DELETE", f"{PIPELINE}/freezes"): CONTROL,
    ("DELETE", f"{PIPELINE}/freezes/{{freeze}}"): CONTROL,
    ("POST", f"{PIPELINE}/feedback"): CONTROL,
    ("POST", f"{PIPELINE}/apply"): APPLY,
    ("GET", f"{PIPELINE}/rollback"): READ,
    ("POST", f"{PIPELINE}/rollback"): APPLY,
}


def work_of(route: tuple[str, str]) -> Work:
    """The kind of work of a route: its rule's, else its operation's; none if it is open to all."""
    if route in OPEN_WORK:
        return OPEN_WORK[route]
    rule = RULES.get(route, READ)
    if rule is OPEN:
        return Work.NONE
    if rule.work is not None:
        return rule.work
    if rule.operation is Operation.READ:
        return Work.READ
    return Work.SOLVE if rule.operation is Operation.WHAT_IF else Work.WRITE


# Streams check the identity of their client again: by an answer of the cluster that is at most this old.
RECHECK_S = 1.0
CHALLENGE = 'Bearer realm="ipa"'
HINT = "Send `Authorization: Bearer TOKEN`; ipa itself takes it from IPA_TOKEN."


@dataclass(frozen=True, slots=True)
class AdmittedCaller(Caller):
    """The caller of a request."""

    # Checks the caller again; raises if the token is no longer valid or no longer allowed.
    again: Callable[[], AdmittedCaller] | None = field(default=None, repr=False)


async def admitted(request: Request) -> AdmittedCaller:
    """The caller that the gate admitted. Asynchronous, since a thread would cost more than the lookup."""
    caller = request.scope["state"]["admitted"]
    assert isinstance(caller, AdmittedCaller)
    return caller


async def get_context(request: Request) -> ApiContext:
    """The context of the application."""
    context = request.app.state.context
    assert isinstance(context, ApiContext)
    return context


CurrentCaller = Annotated[AdmittedCaller, Depends(admitted)]
Context = Annotated[ApiContext, Depends(get_context)]


@dataclass(frozen=True, slots=True)
class RoutePlace:
    """The route of a request: its method and path as in RULES, and the names in the path."""

    method: str
    path: str
    names: Mapping[str, Any]

    @property
    def route(self) -> tuple[str, str]:
        """The key of the route in RULES."""
        return self.method, self.path


async def identify_caller(scope: Scope, place: RoutePlace, work: Work) -> AdmittedCaller:
    """The caller of the request. Errors: UnauthenticatedError, ForbiddenError, NotFoundError, BusyError.

    Stores and clusters are asked in threads of their own pool, since that may take long.
    """
    context: ApiContext = scope["app"].state.context
    token = _token(Headers(scope=scope))
    if not context.authenticators or token is None or work is Work.NONE:
        # Neither the store nor the cluster is asked, so health needs no thread.
        return _admit(context, place, None if work is Work.NONE else token)

    async with context.limits.identifying.enter(client_address(scope)):
        caller = await to_thread.run_sync(
            _admit, context, place, token, limiter=context.limits.identifying_threads
        )
    return replace(caller, again=partial(_admit, context, place, token, within_s=RECHECK_S))


def document_in(schema: dict[str, Any]) -> None:
    """Add the bearer token to the OpenAPI document."""
    scheme = {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or a token of a cluster",
    }
    schema.setdefault("components", {})["securitySchemes"] = {"bearer": scheme}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            if RULES.get((method.upper(), path)) is not None:
                # Or none, if authentication is off.
                operation["security"] = [{"bearer": []}, {}]


def find_place(router: Router, scope: Scope) -> RoutePlace | None:
    """The place of the request; None if it has no route, although its path may fit a template.

    Metrics count a request by the template, even if it is refused before its route is called.
    """
    for route in router.routes:
        match, child_scope = route.matches(scope)
        if match is not Match.NONE:
            scope["state"].setdefault("template", getattr(route, "path", ""))
        if match is Match.FULL:
            scope["route"], scope["state"]["template"] = route, getattr(route, "path", "")
            # Mounted applications check methods themselves, and only read.
            is_read = scope["method"] == "HEAD" or isinstance(route, Mount)
            method = "GET" if is_read else str(scope["method"])
            return RoutePlace(method, str(getattr(route, "path", "")), child_scope["path_params"])
    return None


def _token(headers: Headers) -> str | None:
    """The bearer token; empty for another kind of credential, None without credentials."""
    sent = headers.getlist("authorization")
    if not sent:
        return None
    scheme, _, token = sent[0].partition(" ")
    return token.strip() if len(sent) == 1 and scheme.lower() == "bearer" else ""


def challenge_of(scope: Scope) -> str:
    """The WWW-Authenticate challenge for a caller that is not authenticated."""
    return CHALLENGE if _token(Headers(scope=scope)) is None else f'{CHALLENGE}, error="invalid_token"'


def _admit(
    context: ApiContext, place: RoutePlace, token: str | None, within_s: float | None = None
) -> AdmittedCaller:
    """The caller of the token at that route; errors tell why it is refused.

    `within_s` bounds the age of cached answers about the identity.
    """
    if place.route not in RULES:
        raise ForbiddenError(f"no rule says who may {place.method} {place.path}")
    rule = RULES[place.route]
    if place.route == METRICS_ROUTE and not context.metrics_open:
        rule = METRICS
    if not context.authenticators:
        return _allowed(AdmittedCaller(LOCAL, context.service), rule, place)
    try:
        writes = rule is not None and rule.operation.writes
        identity = _identify(context, token, fresh=writes, within_s=within_s)
    except IpaError:
        if rule is not None:
            raise
        # Open to all: the answer shows more with a token, and requires none.
        identity = NOBODY
    return _allowed(AdmittedCaller(identity, visible_to(identity, context.service)), rule, place)


def _identify(
    context: ApiContext, token: str | None, *, fresh: bool, within_s: float | None = None
) -> Identity:
    """The identity of the token. UnauthenticatedError has the same message for every invalid token."""
    if token is None:
        raise UnauthenticatedError("the request has no token", hint=HINT)
    chosen = next((each for each in context.authenticators if each.takes(token)), None)
    freshness = {} if within_s is None else {"within_s": within_s}
    identity = chosen.identify(token, fresh=fresh, **freshness) if chosen else None
    if identity is None:
        raise UnauthenticatedError("the token is not accepted", hint=HINT)
    return identity


def _allowed(caller: AdmittedCaller, rule: Rule | None, place: RoutePlace) -> AdmittedCaller:
    """The caller itself; ForbiddenError without the right, NotFoundError for what it may not see."""
    if rule is None or rule.where is Where.SEEN:
        return caller
    if rule.where is Where.PIPELINE:
        pipeline = caller.service.pipeline(str(place.names["pipeline"]).partition("@")[0])
        caller.must(rule.operation, pipeline.namespace, pipeline)
    else:
        caller.must(rule.operation, EVERYWHERE)
    return caller
