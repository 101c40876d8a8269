"""Examples of request bodies for the OpenAPI document; the tests send each of them."""

from __future__ import annotations

from typing import Any

PIPELINE: dict[str, Any] = {
    "apiVersion": "ipa/v1",
    "kind": "Pipeline",
    "name": "captions",
    "description": "A caption for each picture",
    "sla": {"latency": "800ms", "percentile": 99},
    "graph": ["describe"],
    "bounds": {"cores": 16, "max_replicas": 8, "batch_sizes": [1, 2, 4, 8]},
    "objectives": {"default": {"alpha": 1, "beta": 0.1, "delta": 1e-6}},
    "stages": [{"name": "describe", "variants": [{"name": "small"}, {"name": "large"}]}],
}
PIPELINE_PATCH: dict[str, Any] = {"sla": {"latency": "600ms"}, "bounds": {"cores": 24}}
PROFILE: dict[str, Any] = {
    "apiVersion": "ipa/v1",
    "kind": "Profile",
    "pipeline": "captions",
    "stage": "describe",
    "hardware": "4 cores of a c6i.xlarge",
    "measured_on": "2026-11-24",
    "method": "ipa profile",
    "variants": [
        {
            "variant": name,
            "accuracy": accuracy,
            "points": [
                {"cores": 1, "batch": batch, "latency": f"{base_ms * batch}ms"} for batch in (1, 2, 4, 8)
            ],
        }
        for name, accuracy, base_ms in (("small", 0.61, 20), ("large", 0.74, 55))
    ],
}
_DETECT: dict[str, Any] = {
    "stage": "detect",
    "variant": "v4-480",
    "batch_size": 2,
    "cores": 0.5,
    "replicas": 1,
}
_READ = {**_DETECT, "stage": "recognise", "variant": "v6-240", "batch_size": 4}
_WHO = {"by": "kim", "reason": "the campaign begins"}
# By the name of the schema.
BODIES: dict[str, dict[str, Any]] = {
    "PlanBody": {"rate_rps": 20, "sla_s": 0.8, "bounds": {"cores": 4}},
    "ReplayBody": {"policy": "hpa"},
    "ApplyPlanBody": _WHO,
    "ApplyBody": {"configs": [_DETECT, _READ], **_WHO},
    "RollbackBody": _WHO,
    "PauseBody": {"for_s": 1800, **_WHO},
    "ModeBody": {"mode": "guarded", **_WHO},
    "PinBody": {"variant": "v4-480", "replicas": 2, **_WHO},
    "FreezeBody": {"end": "2100-01-01T06:00:00Z", **_WHO},
    "FleetPlanBody": {
        "budget_cores": 12,
        "memory_gib": 24,
        "accelerators": {"nvidia.com/gpu": 2},
        "pipelines": [{"pipeline": "ocr", "rate_rps": 1, "weight": 2, "class": 1}],
    },
    "ExperimentBody": {
        "pipeline": "ocr",
        "workload": "steady_low",
        "minutes": 2,
        "times": 0.2,
        "seed": 1,
        "repeats": 5,
    },
}
