"""Who asks, and whether they may: before any route is reached, and for every one of them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any

from anyio import to_thread
from fastapi import Depends, Request
from starlette.datastructures import Headers
from starlette.routing import Match, Mount, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from ipa.api.context import ApiContext
from ipa.api.limits import address_of
from ipa.api.problems import ipa_problem
from ipa.api.rules import METRICS, METRICS_ROUTE, RULES, Rule, Where
from ipa.api.work import Work, count, work_of
from ipa.model.access import EVERYWHERE, LOCAL, NOBODY, Identity
from ipa.model.errors import ForbiddenError, IpaError, UnauthenticatedError
from ipa.service.visibility import Caller, visible_to

LOG = logging.getLogger(__name__)
# Streams look again who follows them: by what the cluster said at most so long ago.
RECHECK_S = 1.0
CHALLENGE = 'Bearer realm="ipa"'
HINT = "Send `Authorization: Bearer TOKEN`; ipa itself takes it from IPA_TOKEN."


@dataclass(frozen=True, slots=True)
class Admitted(Caller):
    """The caller of a request."""

    # The same caller as it is now; raises if the identity is none any more, or may not do this any more.
    again: Callable[[], Admitted] | None = field(default=None, repr=False)


async def admitted(request: Request) -> Admitted:
    """Whom the gate let in. What does not wait is no work for a thread: each way there and back costs."""
    found = request.scope["state"]["admitted"]
    assert isinstance(found, Admitted)
    return found


async def context_of(request: Request) -> ApiContext:
    """The context of the application."""
    found = request.app.state.context
    assert isinstance(found, ApiContext)
    return found


Asker = Annotated[Admitted, Depends(admitted)]
Context = Annotated[ApiContext, Depends(context_of)]


@dataclass(frozen=True, slots=True)
class _Place:
    """The route of a request: its method and path as in RULES, and what the path names."""

    method: str
    path: str
    names: Mapping[str, Any]


class Gate:
    """Wraps the application, inside of what limits requests."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        place = _place(scope["app"].router, scope) if scope["type"] == "http" else None
        if place is None:
            # No route: what answers says that there is nothing there, or which methods there are.
            await self._app(scope, receive, send)
            return
        state, context = scope.setdefault("state", {}), scope["app"].state.context
        work = work_of((place.method, place.path))
        token = _token(Headers(scope=scope))
        try:
            if not context.authenticators or token is None or work is Work.NONE:
                # Neither store nor issuer is asked, so health needs no thread.
                state["admitted"] = _admit(context, place, None if work is Work.NONE else token)
            else:
                state["admitted"] = await _identified(context, place, token, scope)
            count(context.limits, work, scope)
        except IpaError as error:
            LOG.info("%s %s refused: %s", place.method, place.path, error.message)
            headers = {"WWW-Authenticate": _challenge(token)} if error.status == 401 else {}
            answer = ipa_problem(str(state.get("request_id", "")), error, headers)
            await answer(scope, receive, send)
            return
        state["work"] = work
        await self._app(scope, receive, send)


async def _identified(context: ApiContext, place: _Place, token: str, scope: Scope) -> Admitted:
    """Admit in a thread, since stores, issuers and clusters are asked; not one of those that answer."""

    def once_more() -> Admitted:
        return _admit(context, place, token, within_s=RECHECK_S)

    async with context.limits.identifying.enter(address_of(scope)):
        found = await to_thread.run_sync(
            _admit, context, place, token, limiter=context.limits.identifying_threads
        )
    return replace(found, again=once_more)


def document_in(schema: dict[str, Any]) -> None:
    """Say in the OpenAPI document how a request says who asks, where the service wants to know."""
    scheme = {
        "type": "http",
        "scheme": "bearer",
        "description": "An API key, or a token of an issuer or cluster",
    }
    schema.setdefault("components", {})["securitySchemes"] = {"bearer": scheme}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            if RULES.get((method.upper(), path)) is not None:
                # Or nothing: where nobody has to say who they are.
                operation["security"] = [{"bearer": []}, {}]


def _place(router: Router, scope: Scope) -> _Place | None:
    for route in router.routes:
        match, found = route.matches(scope)
        if match is Match.FULL:
            # For who counts requests: one that is refused before its route is called has no other trace of
            # it.
            scope["route"] = route
            # What is mounted decides on methods itself, and only reads.
            is_read = scope["method"] == "HEAD" or isinstance(route, Mount)
            method = "GET" if is_read else str(scope["method"])
            return _Place(method, str(getattr(route, "path", "")), found["path_params"])
    return None


def _token(headers: Headers) -> str | None:
    """The bearer token, empty where something else is sent; None for nothing."""
    sent = headers.getlist("authorization")
    if not sent:
        return None
    scheme, _, token = sent[0].partition(" ")
    return token.strip() if len(sent) == 1 and scheme.lower() == "bearer" else ""


def _challenge(token: str | None) -> str:
    return CHALLENGE if token is None else f'{CHALLENGE}, error="invalid_token"'


def _admit(context: ApiContext, place: _Place, token: str | None, within_s: float | None = None) -> Admitted:
    """Whom that token lets in there; an error of ours says why nobody.

    By answers that are at most `within_s` old, where that is given.
    """
    route = (place.method, place.path)
    if route not in RULES:
        raise ForbiddenError(f"no rule says who may {place.method} {place.path}")
    rule = RULES[route]
    if route == METRICS_ROUTE and not context.metrics_open:
        rule = METRICS
    if not context.authenticators:
        return _allowed(Admitted(LOCAL, context.service), rule, place)
    if rule is None:
        return _open(context, token)
    identity = _identify(context, token, fresh=rule.operation.writes, within_s=within_s)
    return _allowed(Admitted(identity, visible_to(identity, context.service)), rule, place)


def _open(context: ApiContext, token: str | None) -> Admitted:
    """What is open to all shows more to who says who they are, and never asks for it."""
    try:
        identity = NOBODY if token is None else _identify(context, token, fresh=False)
        return Admitted(identity, visible_to(identity, context.service))
    except IpaError:
        return Admitted(NOBODY, visible_to(NOBODY, context.service))


def _identify(
    context: ApiContext, token: str | None, *, fresh: bool, within_s: float | None = None
) -> Identity:
    """Whose the token is. UnauthenticatedError says the same of every token that does not hold."""
    if token is None:
        raise UnauthenticatedError("it is not said who asks", hint=HINT)
    chosen = next((each for each in context.authenticators if each.takes(token)), None)
    asked = {} if within_s is None else {"within_s": within_s}
    identity = chosen.identify(token, fresh=fresh, **asked) if chosen else None
    if identity is None:
        raise UnauthenticatedError("the token is not accepted", hint=HINT)
    return identity


def _allowed(asker: Admitted, rule: Rule | None, place: _Place) -> Admitted:
    """The same again; ForbiddenError where the rule is not met, NotFoundError for what they may not see."""
    if rule is None or rule.where is Where.SEEN:
        return asker
    if rule.where is Where.PIPELINE:
        pipeline = asker.service.pipeline(str(place.names["pipeline"]).partition("@")[0])
        asker.must(rule.operation, pipeline.namespace, pipeline)
    else:
        asker.must(rule.operation, EVERYWHERE)
    return asker
