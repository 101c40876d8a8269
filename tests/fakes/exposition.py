"""Texts that Seldon's executor and MLServer serve to Prometheus, in their own words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

# The executor's bounds (executor/api/metric/constants.go), and the cumulative share of requests in each.
SHARES = {
    **{"0.005": 0.0, "0.01": 0.0, "0.025": 0.0, "0.05": 0.0, "0.075": 0.1, "0.1": 0.5, "0.25": 0.95},
    **{"0.5": 1.0, "0.75": 1.0, "1": 1.0, "2.5": 1.0, "5": 1.0, "7.5": 1.0, "10": 1.0, "+Inf": 1.0},
}
SERVER, CLIENT = "seldon_api_executor_server_requests_seconds", "seldon_api_executor_client_requests_seconds"
INFER = "/inference.GRPCInferenceService/ModelInfer"

# Requests by service, method and code.
Served = Mapping[tuple[str, str, str], float]


def rest_call(model: str) -> str:
    """The `service` of the executor's call of a model over REST."""
    return f"/v2/models/{model}/infer"


def executor(
    deployment: str, predictor: str, served: Served, called: Mapping[str, Served], mean_s: float = 0.1
) -> str:
    """The page of an executor: the requests that it served, and those to each model that it called."""
    lines = ["# HELP go_goroutines Number of goroutines that currently exist.", "# TYPE go_goroutines gauge"]
    lines += ["go_goroutines 12"]
    whole = {"deployment_name": deployment, "predictor_name": predictor, "predictor_version": ""}
    # A histogram has no series before its first request, and then not even its head.
    if called:
        lines += _head(CLIENT, "A histogram of latencies for client calls from executor", "histogram")
    for model, calls in called.items():
        image = {"model_image": f"registry.example/{model}", "model_name": model, "model_version": "1"}
        for (service, method, code), count in calls.items():
            labels = {**whole, **image, "service": service, "method": method, "code": code}
            lines += _histogram(CLIENT, labels, count, mean_s)
    if served:
        lines += _head(SERVER, "A histogram of latencies for executor server", "histogram")
    for (service, method, code), count in served.items():
        labels = {**whole, "service": service, "method": method, "code": code}
        lines += _histogram(SERVER, labels, count, mean_s)
        # Beside each histogram there is a summary of the same.
        lines += [f"{SERVER}_summary_count{_braced(labels)} {_number(count)}"]
    return "\n".join(lines) + "\n"


def mlserver(model: str, requests: float, held_s: float, batches: tuple[float, float, float] | None) -> str:
    """The page of an MLServer: requests with their seconds there; batches, their seconds and their items.

    Without batches their runtime is not ours.
    """
    labels = {"model": model, "version": "None"}
    lines = _head("model_infer_request_success_total", "Model infer request success count", "counter")
    lines += [f"model_infer_request_success_total{_braced(labels)} {requests!r}"]
    lines += _head("model_infer_request_duration", "Model infer request duration", "summary")
    lines += [f"model_infer_request_duration_count{_braced(labels)} {requests!r}"]
    lines += [f"model_infer_request_duration_sum{_braced(labels)} {held_s!r}"]
    names = ("ipa_replica_batches_total", "ipa_replica_service_seconds_total", "ipa_replica_items_total")
    for name, value in zip(names, batches or (), strict=False):
        lines += [*_head(name, "Of batches.", "counter"), f"{name}{_braced({'model_name': model})} {value!r}"]
    return "\n".join(lines) + "\n"


def _head(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _histogram(name: str, labels: Mapping[str, str], count: float, mean_s: float) -> Iterator[str]:
    for bound, share in SHARES.items():
        yield f'{name}_bucket{_braced(labels)[:-1]},le="{bound}"}} {_number(share * count)}'
    yield f"{name}_sum{_braced(labels)} {_number(mean_s * count)}"
    yield f"{name}_count{_braced(labels)} {_number(count)}"


def _braced(labels: Mapping[str, str]) -> str:
    """The labels in their order, as Go's client has it; `le` comes last."""
    return "{" + ",".join(f'{name}="{value}"' for name, value in sorted(labels.items())) + "}"


def _number(value: float) -> str:
    """As Go's client writes a number."""
    return f"{value:g}" if value < 1e5 else f"{value:.6e}"
