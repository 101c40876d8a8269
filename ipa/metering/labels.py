"""The labels that metrics have. A value that a request supplies is none of them."""

from __future__ import annotations

from enum import StrEnum

from ipa.metering.metric import OTHER, Label
from ipa.model.decision import Mode, ReasonCode
from ipa.model.plan import Termination


class Input(StrEnum):
    """What a tick looks at: the load, the latency, what the stages do, and what runs."""

    LOAD = "load"
    LATENCY = "latency"
    STAGES = "stages"
    WORKLOAD = "workload"


class Incident(StrEnum):
    """What went wrong once, rather than tick after tick."""

    ROLLBACK = "rollback"
    ROLLBACK_FAILED = "rollback_failed"
    QUARANTINE = "quarantine"
    DRIFT = "drift"
    CONFLICT = "conflict"
    REFUSED = "refused"
    UNANSWERED = "unanswered"


PIPELINE = Label("pipeline", bound="the pipelines of the service")
STAGE = Label("stage", bound="the stages of the pipeline")
VARIANT = Label("variant", bound="the variants of the stage")
REASON = Label("reason", tuple(reason.value for reason in ReasonCode))
MODE = Label("mode", tuple(mode.value for mode in Mode))
INPUT = Label("input", tuple(each.value for each in Input))
INCIDENT = Label("incident", tuple(each.value for each in Incident))
TERMINATION = Label("termination", tuple(each.value for each in Termination))
# Those of ipa.optimize; a rival's rules are another.
SOLVER = Label("solver", ("gurobi", "highs", "exact", OTHER))
# Those of ipa.forecast, and the fall-back of ipa.control.
RUNG = Label("rung", ("boosted", "learned", "seasonal", "window", "last", "fall-back", OTHER))
# Those of ipa.dataplane.
OUTCOME = Label("outcome", ("answered", "dropped", "failed"))
BOUND = Label("le", bound="the two bounds of the router's latency buckets around the SLA")
INSTALL = Label("install", bound="one, the name of this install")
VERSION = Label("version", bound="one, of the service")
PYTHON = Label("python", bound="one, of the Python that runs it")
NAMESPACE = Label("namespace", bound="the namespaces of the pipelines")
KIND = Label("kind", bound="the two kinds of object that are watched")
ROUTE = Label("route", bound="the route templates of the API, /assets and unmatched")
METHOD = Label("method", ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", OTHER))
STATUS = Label("status", ("1xx", "2xx", "3xx", "4xx", "5xx"))
