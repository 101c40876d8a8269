"""KEDA's external scaler over gRPC: the replicas of `ipa_desired_replicas`, without Prometheus between."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

from prometheus_client import CollectorRegistry

from ipa.metering import table
from ipa.model.errors import InputError, IpaError, NotFoundError, UnavailableError, UsageError
from ipa.settings import Settings

# KEDA's externalscaler.proto, compiled.
PROTOCOL = "externalscaler.json"
KEYS = ("pipeline", "stage")
# After so many intervals without a tick its replicas are those of a loop that hangs.
STALE_TICKS = 6
# KEDA asks every few seconds for each object: one call at a time would do.
WORKERS, MOST_CALLS, GRACE_S = 4, 100, 1.0
# A connection that says nothing ends soon, one that asks nothing for long too.
OPTIONS = {
    "max_receive_message_length": 65_536,
    "server_handshake_timeout_ms": 5_000,
    "max_connection_idle_ms": 300_000,
    "so_reuseport": 0,
}


def desired_replicas(
    registry: CollectorRegistry, pipelines: Collection[str], metadata: Mapping[str, str], now_s: float
) -> float:
    """The replicas of the stage that a trigger's metadata names.

    Errors: InputError (a key is missing), NotFoundError (no such pipeline or stage), UnavailableError (there
    is no valid plan, or the loop hangs: KEDA then leaves what runs, as the object's `fallback` says).
    """
    missing = [key for key in KEYS if not metadata.get(key)]
    if missing:
        hint = "Write `pipeline` and `stage` there, by the names of the pipeline's file."
        raise InputError(f"the trigger's metadata has no {' and no '.join(missing)}", hint=hint)
    name, stage = (metadata[key] for key in KEYS)
    asked = (table.DESIRED_REPLICAS, table.STAGE_CORES, table.LAST_TICK, table.TICK_INTERVAL)
    found: dict[tuple[str, ...], float] = {}
    for family in registry.restricted_registry([each.name for each in asked]).collect():
        for each in family.samples:
            found[each.name, *(each.labels[key] for key in KEYS if key in each.labels)] = each.value
    if name not in pipelines or (table.STAGE_CORES.name, name, stage) not in found:
        hint = "`ipa status` lists the pipelines of the service, `ipa status PIPELINE` the stages of one."
        raise NotFoundError(f"the service has no stage {stage!r} of a pipeline {name!r}", hint=hint)
    desired = found.get((table.DESIRED_REPLICAS.name, name, stage))
    if desired is None:
        raise UnavailableError(f"{name} has no valid plan", hint=f"`ipa why {name}` says why.")
    idle_s = now_s - found[table.LAST_TICK.name, name]
    if idle_s > STALE_TICKS * found[table.TICK_INTERVAL.name,]:
        raise UnavailableError(f"{name} was planned {idle_s:.0f} s ago, and not again")
    return desired


@contextmanager
def external_scaler(
    settings: Settings, registry: CollectorRegistry, pipelines: Collection[str]
) -> Iterator[None]:
    """Answer KEDA meanwhile, if the settings name a port for it.

    Errors: UsageError (the extra is missing, or metrics need a token), UnavailableError (the port is in use).
    """
    host, port = settings.host, settings.keda_port
    if port == 0:
        yield
        return
    if settings.metrics_access != "open":
        hint = "Unset IPA_KEDA_PORT, or set IPA_METRICS_ACCESS=open."
        raise UsageError("KEDA has no token, and IPA_METRICS_ACCESS=token asks for one", hint=hint)
    try:
        import grpc
        from google.protobuf import descriptor_pb2, json_format, message_factory
    except ImportError as error:
        remedy = "Install ipa with its extra `keda`, or unset IPA_KEDA_PORT."
        raise UsageError(f"IPA_KEDA_PORT is set, and the extra is missing: {error}", hint=remedy) from error
    text = files(__package__).joinpath(PROTOCOL).read_text(encoding="utf-8")
    protocol = json_format.Parse(text, descriptor_pb2.FileDescriptorProto())
    messages: dict[str, Any] = message_factory.GetMessages([protocol])
    statuses = {
        InputError: grpc.StatusCode.INVALID_ARGUMENT,
        NotFoundError: grpc.StatusCode.NOT_FOUND,
        UnavailableError: grpc.StatusCode.UNAVAILABLE,
    }
    metric = table.DESIRED_REPLICAS.name

    def value(of: Any) -> float:
        return desired_replicas(registry, pipelines, of.scalerMetadata, time.time())

    def is_active(of: Any) -> dict[str, Any]:
        return {"result": value(of) > 0}

    def specified(of: Any) -> dict[str, Any]:
        # Of the metric each replica is worth 1. Older KEDA reads the whole number.
        return {"metricSpecs": [{"metricName": metric, "targetSize": 1, "targetSizeFloat": 1.0}]}

    def measured(asked: Any) -> dict[str, Any]:
        replicas = value(asked.scaledObjectRef)
        each = {"metricName": metric, "metricValue": round(replicas), "metricValueFloat": replicas}
        return {"metricValues": [each]}

    def handler(method: Any, answer: Callable[[Any], dict[str, Any]]) -> Any:
        asked, answered = (messages[name.lstrip(".")] for name in (method.input_type, method.output_type))

        def call(request: Any, context: Any) -> Any:
            try:
                return answered(**answer(request))
            except IpaError as error:
                context.abort(statuses[type(error)], ". ".join(filter(None, (error.message, error.hint))))

        return grpc.unary_unary_rpc_method_handler(call, asked.FromString, answered.SerializeToString)

    (service,) = protocol.service
    answers = {"IsActive": is_active, "GetMetricSpec": specified, "GetMetrics": measured}
    methods = {
        each.name: handler(each, answers[each.name]) for each in service.method if each.name in answers
    }
    server = grpc.server(
        ThreadPoolExecutor(WORKERS, "keda"),
        maximum_concurrent_rpcs=MOST_CALLS,
        options=[(f"grpc.{name}", value) for name, value in OPTIONS.items()],
    )
    path = f"{protocol.package}.{service.name}"
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(path, methods)])
    try:
        server.add_insecure_port(f"{f'[{host}]' if ':' in host else host}:{port}")
    except RuntimeError as error:
        hint = "Choose another IPA_KEDA_PORT."
        raise UnavailableError(f"cannot listen on {host}:{port}: {error}", hint=hint) from error
    server.start()
    try:
        yield
    finally:
        server.stop(GRACE_S).wait()
