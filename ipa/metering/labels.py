"""The labels of metrics. No label takes its values from requests."""

from __future__ import annotations

from enum import StrEnum

from ipa.metering.metric import OTHER, Label
from ipa.model.decision import Mode, ReasonCode
from ipa.model.plan import Termination


class Input(StrEnum):
    """The inputs of a tick: the load, the latency, the stages' state, and the running configuration."""

    LOAD = "load"
    LATENCY = "latency"
    STAGES = "stages"
    WORKLOAD = "workload"


PIPELINE = Label("pipeline", bound="the pipelines of the service")
STAGE = Label("stage", bound="the stages of the pipeline")
MODEL = Label("model_name", bound="the models of the server: one on a cluster")
PART = Label("part", bound="the configurations side by side, by number: 1 if one runs alone")
VARIANT = Label("variant", bound="the variants of the stage")
REASON = Label("reason", tuple(reason.value for reason in ReasonCode))
MODE = Label("mode", tuple(mode.value for mode in Mode))
INPUT = Label("input", tuple(each.value for each in Input))
TERMINATION = Label("termination", tuple(each.value for each in Termination))
# Solvers of ipa.optimize; the rivals' rules count as other.
SOLVER = Label("solver", ("gurobi", "highs", "exact", OTHER))
# Rungs of ipa.forecast, and the fallback of ipa.control.
RUNG = Label("rung", ("boosted", "level", "window", "last", "fall-back", OTHER))
# Outcomes in ipa.dataplane.
OUTCOME = Label("outcome", ("answered", "dropped", "failed", "refused"))
# Causes in ipa.dataplane.
LOSS_CAUSE = Label(
    "cause",
    (
        *("overload", "queue_full", "no_time_left", "no_replicas", "batch_late", "lost_replicas"),
        *("model_error", "queue_unreachable", "invalid_request"),
    ),
)
# Of a measurement: `profile` is what the file says.
FIGURE = Label("figure", ("profile", "mean", "lower", "upper"))
BOUND = Label("le", bound="the two bounds of the router's latency buckets around the SLA")
INSTALL = Label("install", bound="one, the name of this install")
VERSION = Label("version", bound="one, of the service")
PYTHON = Label("python", bound="one, of the Python that runs it")
NAMESPACE = Label("namespace", bound="the namespaces of the pipelines")
KIND = Label("kind", bound="the two kinds of object that are watched")
ROUTE = Label("route", bound="the route templates of the API, /assets and unmatched")
METHOD = Label("method", ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", OTHER))
STATUS = Label("status", ("1xx", "2xx", "3xx", "4xx", "5xx"))
