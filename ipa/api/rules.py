"""The operation that each route needs, one row a route. A route without a row is refused to everyone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ipa.model.access import Operation


class Where(StrEnum):
    """The scope in which the operation must be allowed."""

    # In the namespace of the pipeline that the path names.
    PIPELINE = "the pipeline's namespace"
    # No scope: the answer contains only what the caller may see.
    SEEN = "what is answered"
    EVERYWHERE = "every namespace"


@dataclass(frozen=True, slots=True)
class Rule:
    """The operation of a route, and the scope in which it must be allowed."""

    operation: Operation
    where: Where = Where.PIPELINE


# Open to all: the answer holds nothing of a pipeline; the metrics are bounded by access to the port.
OPEN: None = None
READ = Rule(Operation.READ)
WHAT_IF = Rule(Operation.WHAT_IF)
CONTROL = Rule(Operation.CONTROL)
APPLY = Rule(Operation.APPLY)
SEEN = Rule(Operation.READ, Where.SEEN)
REPLACE = Rule(Operation.REPLACE)
AMEND = Rule(Operation.AMEND)
REMOVE = Rule(Operation.REMOVE)
# For the pipeline of the body, the plan, the decision or the experiment: the use case checks it.
ANY_WHAT_IF = Rule(Operation.WHAT_IF, Where.SEEN)
ANY_APPLY = Rule(Operation.APPLY, Where.SEEN)
ANY_DEFINE = Rule(Operation.DEFINE, Where.SEEN)
METRICS = Rule(Operation.READ, Where.EVERYWHERE)
AUDIT = Rule(Operation.READ, Where.EVERYWHERE)
METRICS_ROUTE = ("GET", "/metrics")

PIPELINE = "/v1/pipelines/{pipeline}"
# HEAD counts as GET.
RULES: Mapping[tuple[str, str], Rule | None] = {
    ("GET", "/healthz"): OPEN,
    ("GET", "/readyz"): OPEN,
    METRICS_ROUTE: OPEN,
    ("GET", "/"): OPEN,
    ("GET", "/docs"): OPEN,
    ("GET", "/openapi.json"): OPEN,
    ("GET", "/problems/{code}"): OPEN,
    ("GET", "/assets"): OPEN,
    ("GET", "/v1/me"): SEEN,
    ("GET", "/v1/pipelines"): SEEN,
    ("GET", PIPELINE): READ,
    ("GET", f"{PIPELINE}/export"): READ,
    ("GET", f"{PIPELINE}/forecast"): READ,
    ("POST", "/v1/pipelines"): ANY_DEFINE,
    ("PUT", PIPELINE): REPLACE,
    ("PATCH", PIPELINE): AMEND,
    ("DELETE", PIPELINE): REMOVE,
    ("PUT", f"{PIPELINE}/profiles/{{stage}}"): REPLACE,
    ("GET", f"{PIPELINE}/status"): READ,
    ("GET", f"{PIPELINE}/profiles"): READ,
    ("GET", f"{PIPELINE}/profiles/{{stage}}"): READ,
    ("GET", f"{PIPELINE}/profiles/{{stage}}/fits"): READ,
    ("GET", f"{PIPELINE}/decisions"): READ,
    ("GET", f"{PIPELINE}/history"): READ,
    ("GET", f"{PIPELINE}/record"): READ,
    ("GET", "/v1/decisions/{decision_id}"): SEEN,
    ("POST", "/v1/decisions/{decision_id}:replay"): ANY_WHAT_IF,
    ("GET", "/v1/events"): SEEN,
    ("GET", "/v1/audit"): AUDIT,
    ("POST", f"{PIPELINE}/plans"): WHAT_IF,
    ("POST", f"{PIPELINE}/explanations"): WHAT_IF,
    ("POST", f"{PIPELINE}/frontiers"): WHAT_IF,
    ("GET", "/v1/plans/{plan_id}"): SEEN,
    ("POST", "/v1/plans/{plan_id}:apply"): ANY_APPLY,
    ("GET", "/v1/fleet"): SEEN,
    ("POST", "/v1/fleet/plans"): ANY_WHAT_IF,
    ("GET", "/v1/experiments"): SEEN,
    ("POST", "/v1/experiments"): ANY_WHAT_IF,
    ("GET", "/v1/experiments/{experiment_id}"): SEEN,
    ("GET", "/v1/experiments/{experiment_id}/report"): SEEN,
    ("POST", "/v1/experiments/{experiment_id}:cancel"): ANY_WHAT_IF,
    ("DELETE", "/v1/experiments/{experiment_id}"): ANY_WHAT_IF,
    ("PUT", f"{PIPELINE}/mode"): CONTROL,
    ("POST", f"{PIPELINE}/pause"): CONTROL,
    ("POST", f"{PIPELINE}/resume"): CONTROL,
    ("PUT", f"{PIPELINE}/pins/{{stage}}"): CONTROL,
    ("DELETE", f"{PIPELINE}/pins/{{stage}}"): CONTROL,
    ("POST", f"{PIPELINE}/freezes"): CONTROL,
    ("DELETE", f"{PIPELINE}/freezes"): CONTROL,
    ("DELETE", f"{PIPELINE}/freezes/{{freeze}}"): CONTROL,
    ("POST", f"{PIPELINE}/apply"): APPLY,
    ("POST", f"{PIPELINE}/rollback"): APPLY,
}
