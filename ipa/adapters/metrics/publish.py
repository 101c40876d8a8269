"""Puts what a tick saw and decided into the metrics."""

from __future__ import annotations

from datetime import datetime
from math import nan
from typing import Any

from prometheus_client import Gauge

from ipa.adapters.metrics.catalogue import Catalogue
from ipa.control.correction import Correction
from ipa.control.guards import total_cores
from ipa.control.snapshot import Snapshot
from ipa.model.decision import Decision
from ipa.model.observation import Measured, Missing, StageObservation


class Publisher:
    """A hook of the control loop. A gauge of what is not seen is NaN, never the last value and never zero."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._metrics = catalogue
        # Variants whose slowdown is shown, as (pipeline, stage, variant).
        self._slowed: set[tuple[str, str, str]] = set()

    def __call__(self, decision: Decision, snapshot: Snapshot) -> None:
        """Count the decision and show what the snapshot holds."""
        metrics, name = self._metrics, decision.pipeline
        metrics.decisions.labels(name, decision.reason.value).inc()
        metrics.tick_seconds.labels(name).observe(snapshot.tick_s)
        metrics.skipped.labels(name).set(snapshot.skipped_ticks)
        ended = datetime.fromisoformat(decision.at).timestamp() + snapshot.tick_s
        metrics.last_tick.labels(name).set(ended)
        forecast = decision.forecast
        metrics.forecast_point.labels(name).set(forecast.point_rps if forecast else nan)
        metrics.forecast_upper.labels(name).set(forecast.upper_rps if forecast else nan)
        observation = snapshot.observation
        if observation is None:
            return
        _show(metrics.arrival_rate, observation.arrival_rate_rps, name)
        _show(metrics.latency, observation.latency_s, name)
        point = snapshot.history[-1] if snapshot.history else None
        predicted_s = point.predicted_latency_s if point else None
        metrics.predicted_latency.labels(name).set(nan if predicted_s is None else predicted_s)
        metrics.input_age.labels(name).set(_age_s(observation.load))
        self._slowdowns(name, snapshot.correction)
        by_stage: dict[str, list[StageObservation]] = {}
        for stage in observation.stages:
            by_stage.setdefault(stage.stage, []).append(stage)
        for stage_name, parts in by_stage.items():
            self._stage(name, stage_name, parts)

    def _slowdowns(self, name: str, known: Correction) -> None:
        """How slow each variant was seen to be; NaN for what was forgotten."""
        shown = {(name, each.stage, each.variant): each.ratio for each in known.seen}
        for gone in {labels for labels in self._slowed if labels[0] == name} - shown.keys():
            self._metrics.slowdown.labels(*gone).set(nan)
        for labels, ratio in shown.items():
            self._metrics.slowdown.labels(*labels).set(ratio)
        self._slowed |= shown.keys()

    def _stage(self, name: str, stage: str, parts: list[StageObservation]) -> None:
        """What a stage has in all parts that share the load."""
        metrics = self._metrics
        ready = [part.ready_replicas.value for part in parts if isinstance(part.ready_replicas, Measured)]
        running = [part.running.value for part in parts if isinstance(part.running, Measured)]
        is_seen = len(running) == len(parts)
        metrics.ready_replicas.labels(name, stage).set(sum(ready) if len(ready) == len(parts) else nan)
        metrics.cores.labels(name, stage).set(total_cores(running) if is_seen else nan)
        metrics.replicas.labels(name, stage).set(sum(it.replicas for it in running) if is_seen else nan)
        metrics.batch_size.labels(name, stage).set(max(it.batch_size for it in running) if is_seen else nan)


def _show(gauge: Gauge, value: Measured[float] | Missing, *labels: str) -> None:
    gauge.labels(*labels).set(value.value if isinstance(value, Measured) else nan)


def _age_s(value: Measured[Any] | Missing) -> float:
    return nan if value.age_s is None else value.age_s
