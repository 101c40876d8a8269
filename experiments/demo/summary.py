"""The results of the demo's runs, from what the sender saw and the service decided."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

Decision = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RunRecord:
    """One run as it was: every request, every decision (oldest first), the live samples, the cores paid."""

    name: str
    duration_s: float
    requests: Sequence[Mapping[str, Any]]
    decisions: Sequence[Decision]
    samples: Sequence[Mapping[str, Any]]
    core_seconds: float
    replica_restarts: int


def read_requests(path: Path) -> list[dict[str, Any]]:
    """The records that the load generator wrote, in the order of sending."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def changes(decisions: Sequence[Decision]) -> dict[str, int]:
    """The number of times that a stage got another variant, other replicas or cores, another batch size."""
    counts = Counter({"variant_switches": 0, "replica_or_core_changes": 0, "batch_changes": 0})
    for decision in decisions:
        if decision["action"] != "apply":
            continue
        for before, after in zip(decision["previous"], decision["configs"], strict=True):
            counts["variant_switches"] += before["variant"] != after["variant"]
            counts["replica_or_core_changes"] += (before["replicas"], before["cores"]) != (
                after["replicas"],
                after["cores"],
            )
            counts["batch_changes"] += before["batch_size"] != after["batch_size"]
    return dict(counts)


def quantile_s(latencies: Sequence[float], ratio: float) -> float | None:
    """That quantile, or None where nothing was answered."""
    return float(np.quantile(latencies, ratio)) if latencies else None


def summarise(run: RunRecord, sla_s: float, accuracies: Sequence[float]) -> dict[str, Any]:
    """The figures of one run; `accuracies` are those of the answered requests."""
    outcomes = Counter(request["outcome"] for request in run.requests)
    latencies = [request["latency_s"] for request in run.requests if request["outcome"] == "answered"]
    sent = len(run.requests)
    return {
        "duration_s": run.duration_s,
        "sent": sent,
        "answered": outcomes["answered"],
        "dropped": outcomes["dropped"],
        "failed": outcomes["failed"],
        "latency_p50_s": quantile_s(latencies, 0.5),
        "latency_p99_s": quantile_s(latencies, 0.99),
        "within_sla_ratio": sum(latency <= sla_s for latency in latencies) / sent if sent else None,
        "accuracy": fmean(accuracies) if accuracies else None,
        "core_seconds": run.core_seconds,
        "cores_mean": run.core_seconds / run.duration_s,
        "decisions_by_reason": dict(Counter(decision["reason"] for decision in run.decisions)),
        **changes(run.decisions),
        "replica_restarts": run.replica_restarts,
        "configs_first": configs_text(run.decisions[:1]),
        "configs_used": sorted({text for d in run.decisions for text in configs_text([d])}),
    }


def configs_text(decisions: Sequence[Decision]) -> list[str]:
    """The configurations of decisions as one line each."""
    return [
        ", ".join(
            f"{c['stage']}={c['variant']} b{c['batch_size']} {c['replicas']}x{c['cores']:g}"
            for c in decision["configs"]
        )
        for decision in decisions
    ]


def compare(runs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """By how much the adaptive run is above the static ones, in the figures it should be above in."""
    adaptive, smallest, largest = (runs[name] for name in ("adaptive", "static-smallest", "static-largest"))
    above = {
        "accuracy_above_smallest": difference(adaptive["accuracy"], smallest["accuracy"]),
        "within_sla_above_largest": difference(adaptive["within_sla_ratio"], largest["within_sla_ratio"]),
        "cores_mean_above_smallest": difference(adaptive["cores_mean"], smallest["cores_mean"]),
        "cores_mean_above_largest": difference(adaptive["cores_mean"], largest["cores_mean"]),
    }
    return {
        **above,
        "adaptive_beats_smallest_on_accuracy": (above["accuracy_above_smallest"] or 0) > 0,
        "adaptive_beats_largest_on_sla": (above["within_sla_above_largest"] or 0) > 0,
    }


def difference(left: float | None, right: float | None) -> float | None:
    """left − right, None where one is missing."""
    return None if left is None or right is None else left - right


def rate_seen(
    requests: Sequence[Mapping[str, Any]], duration_s: float, window_s: float = 5.0
) -> list[tuple[float, float]]:
    """(second, requests a second) over windows, from what the sender sent."""
    edges = np.arange(0.0, duration_s + window_s, window_s)
    counts, _ = np.histogram([request["at_s"] for request in requests], bins=edges)
    return [
        ((a + b) / 2, float(n) / window_s)
        for (a, b), n in zip(itertools.pairwise(edges), counts, strict=True)
    ]
