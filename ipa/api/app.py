"""The application: routes, health, metrics, documents and the page."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, FastAPI, Query
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

import ipa
from ipa.api import auth, commands, events, pipelines, plans, problems, queries
from ipa.api.auth import Context, CurrentCaller
from ipa.api.bodies import BODIES
from ipa.api.context import ApiContext
from ipa.api.gate import LOOPBACK, Gate
from ipa.api.queries import REQUIRED, Using
from ipa.files.forms import KINDS, schema_text
from ipa.model.access import NOBODY
from ipa.model.errors import Problem, UnavailableError
from ipa.service.service import DependencyCheck

PAGE = Path(__file__).parent / "page"
router = APIRouter()
# An entity tag, or several.
TAG = r'^(W/)?"[^"]*"'
# The groups of operations in the OpenAPI document.
GROUPS = {
    "pipelines": "Pipelines and their state: the running configuration, its latency, and the reasons",
    "decisions": "What was decided, with the inputs of each decision, and the record that proves it",
    "events": "What happens, as it happens",
    "plans": "What-ifs: the best plan for a load, why it is best, and its alternatives; apply one",
    "fleet": "All pipelines together",
    "control": "Mode, pauses, freezes, pins, and changes by hand",
    "profiles": "Measurements of the variants, and the fits that plans use",
    "health": "The service itself",
}


def create_app(context: ApiContext, *, hosts: tuple[str, ...] = LOOPBACK) -> FastAPI:
    """The ASGI application of the context; it answers to those host names (empty: to any)."""
    app = _application(hosts)
    app.state.context = context
    if context.http is not None:
        # A mounted folder of files has a path but no methods.
        routes = [each for each in app.routes if isinstance(each, Route | Mount)]
        context.http.start((each.path, getattr(each, "methods", None) or {"GET"}) for each in routes)
    return app


def openapi_document() -> dict[str, Any]:
    """The OpenAPI document of the API, which depends on no service."""
    return _application(()).openapi()


def _application(hosts: tuple[str, ...]) -> FastAPI:
    app = FastAPI(
        title="ipa",
        version=ipa.__version__,
        summary="Keeps inference pipelines inside their latency SLA at the best accuracy for the least cost.",
        openapi_tags=[{"name": name, "description": text} for name, text in GROUPS.items()],
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
    )
    # Added directly: including a router would build each route a second time, 0.14 s in all.
    for part in (queries, events, pipelines, plans, commands):
        app.router.routes.extend(part.router.routes)
    app.router.routes.extend(router.routes)
    app.mount("/assets", StaticFiles(directory=PAGE), name="assets")
    problems.install(app)
    plain = app.openapi

    def documented() -> dict[str, Any]:
        if not app.openapi_schema:
            complete(plain())
            auth.document_in(plain())
        assert app.openapi_schema
        return app.openapi_schema

    app.openapi = documented  # type: ignore[method-assign]
    app.add_middleware(Gate, hosts=hosts)
    return app


@router.get("/healthz", tags=["health"])
async def healthz() -> dict[str, str]:
    """Report that the process answers; a standby does too: losing the lease is no reason to restart it."""
    return {"status": "ok"}


@dataclass(frozen=True, slots=True)
class Readiness:
    """The readiness of the API; `degraded` if a dependency fails that is not required."""

    ready: bool
    degraded: bool
    checks: tuple[DependencyCheck, ...] = ()
    version: str = ipa.__version__


@router.get("/readyz", tags=["health"])
async def readyz(
    service: Using, caller: CurrentCaller, context: Context, verbose: Annotated[str | None, Query()] = None
) -> Readiness:
    """Report that the API can serve; 503 if it cannot. `?verbose` lists the checks to known callers."""
    # In a separate thread: the pool's threads may all be busy.
    checks = await to_thread.run_sync(service.health, limiter=context.limits.health_threads)
    failed = [check for check in checks if check.required and not check.ok]
    is_known = caller.identity != NOBODY
    if failed:
        named = [Problem(f"{check.name}: {check.detail or 'failed'}") for check in failed]
        raise UnavailableError(
            "the service is not ready",
            problems=named if is_known else (),
            hint="" if is_known else "Send a token to see why.",
        )
    degraded = not all(check.ok for check in checks)
    return Readiness(ready=True, degraded=degraded, checks=checks if verbose is not None and is_known else ())


@router.get("/metrics", tags=["health"], response_class=Response)
async def metrics(context: Context) -> Response:
    """Return the metrics of the service, for Prometheus."""
    text = await to_thread.run_sync(generate_latest, context.registry, limiter=context.limits.metrics_threads)
    return Response(text, headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/", include_in_schema=False)
async def page() -> Response:
    """Return the HTML page."""
    return FileResponse(PAGE / "index.html")


@router.get("/problems/{code}", include_in_schema=False)
async def problem(code: str) -> Response:
    """The page that the `type` of a problem resolves to."""
    titles = problems.known_codes()
    if code not in titles:
        raise HTTPException(404)
    rows = "".join(
        f"<tr{' class=here' if known == code else ''}><td><code>{html.escape(known)}</code></td>"
        f"<td>{html.escape(title)}</td></tr>"
        for known, title in sorted(titles.items())
    )
    return HTMLResponse(
        (PAGE / "problem.html").read_text().replace("{{code}}", html.escape(code)).replace("{{rows}}", rows)
    )


def complete(schema: dict[str, Any]) -> None:
    """Add the problems that any operation may answer with, and the required headers."""
    problems.document_in(schema)
    for kind in KINDS:
        schema["components"]["schemas"] |= file_schemas(kind)
    for name, body in BODIES.items():
        schema["components"]["schemas"][name]["examples"] = [body]
    for methods in schema["paths"].values():
        for operation in methods.values():
            for parameter in operation.get("parameters", []):
                name = parameter["name"].lower()
                if parameter["in"] == "header" and name in REQUIRED:
                    # Routes declare the header as optional, since its absence has its own status.
                    parameter["required"] = True
                    words = parameter["schema"].get("title", "")
                    parameter["schema"] = {"type": "string", "minLength": 1, "title": words}
                    if name == "if-match":
                        # `*` matches anything, so it names no version.
                        parameter["schema"]["pattern"] = TAG


def file_schemas(kind: str) -> dict[str, Any]:
    """The published schema of that kind of file as components: itself and each of its definitions."""
    name = f"{kind.capitalize()}File"
    text = schema_text(kind).replace('"#/$defs/', f'"#/components/schemas/{name}.')
    whole: dict[str, Any] = json.loads(text)
    parts = whole.pop("$defs", {})
    for key in ("$schema", "$id"):
        whole.pop(key, None)
    return {name: whole, **{f"{name}.{part}": each for part, each in parts.items()}}
