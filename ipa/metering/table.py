"""The metrics: code, reference, alert rules and dashboard are all made from these lines."""

from __future__ import annotations

from functools import partial

from ipa.metering import labels as of
from ipa.metering.metric import Metric, MetricsEndpoint

# Steps of 10 to 30 %, fine enough for a p99 between 1 ms and 10 s.
LATENCY_BUCKETS_S = (
    *(0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05, 0.065, 0.08, 0.1, 0.125, 0.15),
    *(0.175, 0.2, 0.225, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0),
)
BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
# A tick is some milliseconds of planning and two reads over HTTP; past the 10 s interval it is late.
TICK_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
# A solve has a deadline of 5 s; most take milliseconds.
SOLVE_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
# An answer from memory takes a millisecond, a what-if plan some tens of them.
HTTP_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

router = partial(Metric, place=MetricsEndpoint.ROUTER)
queue = partial(Metric, place=MetricsEndpoint.QUEUE)
replica = partial(Metric, place=MetricsEndpoint.REPLICA)
# Autoscalers follow these, so that a series without a valid value is absent: NaN would be a number to them.
desired = partial(Metric, when="while the newest decision has a valid plan")

HERE = (of.PIPELINE,)
STAGE = (of.PIPELINE, of.STAGE)
STAGE_PART = (of.PIPELINE, of.STAGE, of.PART)
PART = (of.PIPELINE, of.STAGE, of.VARIANT)

# The service itself.
BUILD = Metric(
    "ipa_build_info", "1, with the running version in its labels.", (of.VERSION, of.PYTHON, of.INSTALL)
)
LEADER = Metric("ipa_leader", "1 if this replica may write, 0 if it stands by.", (of.INSTALL,))

# Ticks and decisions.
TICK_INTERVAL = Metric("ipa_tick_interval_seconds", "Time between ticks, as set (IPA_TICK_S).")
TICK = Metric("ipa_tick_seconds", "Time of one tick.", HERE, buckets=TICK_BUCKETS_S)
LAST_TICK = Metric("ipa_last_tick_timestamp_seconds", "Time at which the last tick ended.", HERE)
SKIPPED_TICKS = Metric(
    "ipa_skipped_ticks_total", "Ticks skipped because the tick before took too long.", HERE
)
EARLY_TICKS = Metric(
    "ipa_early_ticks_total",
    "Ticks started early because the load exceeded the forecast, or the cluster changed.",
    HERE,
)
DECISIONS = Metric("ipa_decisions_total", "Decisions by reason, one a tick.", (of.PIPELINE, of.REASON))
CURTAILED = Metric(
    "ipa_curtailed_plans_total",
    "Plans of which only a first step was written: the step limit, the room, or a mode that only adds.",
    HERE,
)
QUARANTINES = Metric("ipa_active_quarantines", "Failed rollouts that are not retried for now.", HERE)
MODE = Metric("ipa_mode", "1 for the present mode.", (of.PIPELINE, of.MODE))
PAUSED = Metric("ipa_paused", "1 while the pipeline is paused.", HERE)

# Observations, and their age.
INPUT_AGE = Metric(
    "ipa_input_age_seconds",
    "Age of each input of the last tick; grows while it is missing, NaN before its first sample.",
    (of.PIPELINE, of.INPUT),
)
ARRIVAL_RATE = Metric("ipa_observed_arrival_rate_rps", "Observed arrival rate.", HERE)
LATENCY = Metric("ipa_observed_latency_seconds", "Observed latency at the percentile of the SLA.", HERE)
IN_TIME = Metric(
    "ipa_observed_in_time_ratio",
    "Share of the ended requests that were answered within the SLA; below the percentile the SLO is broken.",
    HERE,
)
PREDICTED_LATENCY = Metric(
    "ipa_predicted_latency_seconds",
    "Latency by the profiles at the observed rate; if far below the observed latency, they are wrong.",
    HERE,
)
SLOWDOWN = Metric(
    "ipa_profile_slowdown_ratio",
    "Observed time of batches over that of the profile, as it is believed; plans use it in steps of 5 %.",
    PART,
)
MEASURED_ACCURACY = Metric(
    "ipa_accuracy_measured_ratio",
    "Accuracy of a variant as feedback measured it, with its bounds, and by its profile; NaN without any.",
    (*PART, of.FIGURE),
)
SLA = Metric("ipa_sla_seconds", "Latency the pipeline must meet.", HERE)
SLA_PERCENTILE = Metric(
    "ipa_sla_percentile_ratio", "Share of the requests that must meet it: 0.99 for a p99.", HERE
)
SLA_BUCKET_WEIGHT = Metric(
    "ipa_sla_bucket_weight_ratio",
    "Weights of the router's latency buckets whose sum counts requests within the SLA, interpolated.",
    (of.PIPELINE, of.BOUND),
)
COST = Metric(
    "ipa_running_usd_per_hour",
    "Price of the running configuration, of all its resources; NaN without `prices` in the pipeline's file.",
    HERE,
)
PAS = Metric("ipa_running_pas_ratio", "Product of the accuracies of the running configuration.", HERE)

# The forecast.
FORECAST_POINT = Metric("ipa_forecast_point_rps", "Expected peak arrival rate.", HERE)
FORECAST_UPPER = Metric(
    "ipa_forecast_upper_rps", "Upper quantile of the peak arrival rate, which plans are made for.", HERE
)
FORECASTS = Metric("ipa_forecasts_total", "Forecasts by the rung that made them.", (of.PIPELINE, of.RUNG))

# The plan before the guards, the decision after them, and the running configuration.
SOLVE = Metric(
    "ipa_solve_seconds",
    "Planning time of a tick, all pipelines, by solver and termination; a cached plan counts once.",
    (of.SOLVER, of.TERMINATION),
    buckets=SOLVE_BUCKETS_S,
)
PLAN_PAS = Metric("ipa_plan_pas_ratio", "Product of the accuracies of the plan.", HERE)
PLAN_REPLICAS = Metric("ipa_plan_replicas", "Replicas of the plan, before the guards.", STAGE)
PLAN_CORES = Metric("ipa_plan_cores", "Cores of the plan, before the guards.", STAGE)
DESIRED_REPLICAS = desired("ipa_desired_replicas", "Replicas of the decision, be it written or not.", STAGE)
DESIRED_CORES = desired("ipa_desired_cores", "Cores of all replicas of the decision.", STAGE)
DESIRED_BATCH_SIZE = desired("ipa_desired_batch_size", "Largest batch of the decision.", STAGE)
DESIRED_SHARE = desired("ipa_desired_share_ratio", "Share of the requests for the variant: 1 alone.", PART)
REPLICAS = Metric("ipa_stage_replicas", "Observed desired replicas of the stage.", STAGE)
READY_REPLICAS = Metric("ipa_stage_ready_replicas", "Replicas that answer.", STAGE)
STAGE_CORES = Metric("ipa_stage_cores", "Cores of all replicas.", STAGE)
BATCH_SIZE = Metric("ipa_stage_batch_size", "Largest batch.", STAGE)
SHARE = Metric("ipa_variant_share_ratio", "Share of the requests sent to the variant.", PART)

# The API.
HTTP_REQUESTS = Metric(
    "ipa_http_requests_total",
    "Requests by route template, method and class of status.",
    (of.ROUTE, of.METHOD, of.STATUS),
)
HTTP_SECONDS = Metric(
    "ipa_http_request_seconds", "Time until the response begins.", (of.ROUTE,), buckets=HTTP_BUCKETS_S
)
HTTP_IN_FLIGHT = Metric("ipa_http_requests_in_flight", "Requests in progress.")

# The record, its followers and the log.
RECORD_FAILURES = Metric("ipa_record_failures_total", "Failed writes to the record.")
STORE_DEGRADED = Metric(
    "ipa_store_degraded", "1 while the store cannot be written or its disk is nearly full, else 0."
)
RECORD_BYTES = Metric("ipa_record_bytes", "Approximate size of the period whose decisions are all kept.")
RECORD_BOUNDED = Metric(
    "ipa_record_bounded", "1 while holds are removed early because decisions exceed IPA_KEEP_DECISIONS_MB."
)
STREAMS = Metric("ipa_event_streams", "Clients that follow the event stream.")
STREAMS_DROPPED = Metric(
    "ipa_event_streams_dropped_total", "Clients dropped because they did not read events."
)
LOG_DROPPED = Metric("ipa_log_lines_dropped_total", "Log lines dropped because nobody read them.")

# Kubernetes, and this machine.
KUBE, LOCAL = "target kubernetes", "target local"
KUBE_SKEW = Metric(
    "ipa_kube_clock_skew_seconds", "Lead of the API server's clock over the service's.", when=KUBE
)
KUBE_LISTS = Metric(
    "ipa_kube_watch_lists_total",
    "Lists made to begin a watch; one each in normal operation.",
    (of.NAMESPACE, of.KIND),
    when=KUBE,
)
KUBE_FAILURES = Metric(
    "ipa_kube_watch_failures_total", "Watches that failed.", (of.NAMESPACE, of.KIND), when=KUBE
)
KUBE_EVENTS_DROPPED = Metric("ipa_kube_events_dropped_total", "Events that were not reported.", when=KUBE)
ALLOCATED = Metric(
    "ipa_allocated_core_seconds_total", "Cores of all replicas over the time alive.", HERE, when=LOCAL
)
RESTARTS = Metric("ipa_replica_restarts_total", "Replicas that died and were replaced.", HERE, when=LOCAL)
CORRECTIONS = Metric(
    "ipa_queue_corrections_total", "Queue configurations found changed and restored.", HERE, when=LOCAL
)

# The router counts requests, a stage's queue items.
ROUTER_ARRIVALS = router("ipa_router_arrivals_total", "Requests received.", HERE)
ROUTER_REQUESTS = router(
    "ipa_router_requests_total", "Requests by outcome.", (of.PIPELINE, of.PART, of.OUTCOME)
)
ROUTER_LOSSES = router(
    "ipa_router_losses_total",
    "Requests without an answer, by the stage that had them and by cause.",
    (of.PIPELINE, of.STAGE, of.LOSS_CAUSE),
)
ROUTER_SECONDS = router(
    "ipa_router_request_seconds",
    "Answered requests, end to end.",
    (of.PIPELINE, of.PART),
    buckets=LATENCY_BUCKETS_S,
)
QUEUE_ARRIVALS = queue("ipa_queue_arrivals_total", "Items received.", STAGE_PART)
QUEUE_ITEMS = queue("ipa_queue_items_total", "Items by outcome.", (of.PIPELINE, of.STAGE, of.OUTCOME))
QUEUE_LOSSES = queue(
    "ipa_queue_losses_total", "Items without an answer, by cause.", (of.PIPELINE, of.STAGE, of.LOSS_CAUSE)
)
QUEUE_LENGTH = queue("ipa_queue_length", "Items waiting.", STAGE_PART)
QUEUE_STAGE_SECONDS = queue(
    "ipa_queue_stage_seconds", "Time from arrival to answer.", STAGE_PART, buckets=LATENCY_BUCKETS_S
)
QUEUE_SERVICE_SECONDS = queue(
    "ipa_queue_service_seconds",
    "Time of one batch of the variant that runs in a replica; of a heavier one, as that would have taken.",
    STAGE_PART,
    buckets=LATENCY_BUCKETS_S,
)
QUEUE_BATCH_SIZE = queue(
    "ipa_queue_batch_size", "Items of a batch of the variant that runs.", STAGE_PART, buckets=BATCH_BUCKETS
)
QUEUE_VARIANT_ITEMS = queue(
    "ipa_queue_variant_items_total",
    "Items answered by each variant: the one that runs, or a resident one instead.",
    (*STAGE, of.VARIANT),
    when="from a variant's first answer on, if the queue knows the variants of its replicas",
)
QUEUE_RETRIES = queue("ipa_queue_retries_total", "Batches whose replica was lost.", STAGE)
QUEUE_SUSPECTS = queue(
    "ipa_queue_suspect_replicas",
    "Replicas whose batch takes so long that they seem to hang; they get no other.",
    STAGE,
)

# A stage's model server, by our runtime: what a batch takes and has, its coding included.
REPLICA_BATCHES = replica("ipa_replica_batches_total", "Batches served.", (of.MODEL,))
REPLICA_SERVICE_SECONDS = replica(
    "ipa_replica_service_seconds_total",
    "Time of batches in the model, with the CPU time of coding between them; no time in the queue.",
    (of.MODEL,),
)
REPLICA_ITEMS = replica("ipa_replica_items_total", "Items of batches.", (of.MODEL,))

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))
