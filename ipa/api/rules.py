"""The operation and the kind of work of each route, with its bounds. A route without a row is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ipa.model.access import Operation

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
    """The operation of a route, the scope in which it must be allowed, and its work.

    Without a work it is that of the operation.
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
    ("GET", "/docs"): OPEN,
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
    # Of one pipeline, as its record; the route asks for more where all of them are exported.
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
    ("POST", f"{PIPELINE}/apply"): APPLY,
    ("GET", f"{PIPELINE}/rollback"): READ,
    ("POST", f"{PIPELINE}/rollback"): APPLY,
}


# The bounds of each kind in words; the numbers are those of `limits.ApiLimits` and `Streams`.
BOUNDS: Mapping[Work, str] = {
    Work.NONE: "nothing that can be used up",
    Work.HEALTH: "a thread of its own; what is found of the store is kept for some seconds",
    Work.READ: "IPA_API_READS_RPS of one identity; 16 at once, 8 of one identity",
    Work.LIST: "as a read; 4 at once, 2 of one identity; pages of decisions end at 2 MB",
    Work.VERIFY: "as a read; 1 at once",
    Work.SOLVE: "IPA_API_EXPENSIVE_RPS of one identity; IPA_API_SOLVES at once, in turns",
    Work.WRITE: "IPA_API_CHANGES_RPS of one identity; 8 at once, 4 of one identity",
    Work.STREAM: "as a read; 100 open, 10 of one identity; each reads on only as it is taken",
}


def work_of(route: tuple[str, str]) -> Work:
    """The work of a route: its rule's, else by its operation; none if it is open to all."""
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
