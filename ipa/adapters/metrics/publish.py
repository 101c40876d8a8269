"""Puts what a tick saw and decided into the metrics."""

from __future__ import annotations

from datetime import datetime
from math import nan
from typing import Any

from prometheus_client import Gauge

from ipa.adapters.metrics.catalogue import Catalogue
from ipa.control.snapshot import Snapshot
from ipa.model.decision import Decision
from ipa.model.observation import Measured, Missing, StageObservation


class Publisher:
    """A hook of the control loop. A gauge of what is not seen is NaN, never the last value and never zero."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._metrics = catalogue

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
        for stage in observation.stages:
            self._stage(name, stage)

    def _stage(self, name: str, stage: StageObservation) -> None:
        metrics = self._metrics
        _show(metrics.ready_replicas, stage.ready_replicas, name, stage.stage)
        running = stage.running.value if isinstance(stage.running, Measured) else None
        metrics.cores.labels(name, stage.stage).set(running.total_cores if running else nan)
        metrics.replicas.labels(name, stage.stage).set(running.replicas if running else nan)
        metrics.batch_size.labels(name, stage.stage).set(running.batch_size if running else nan)


def _show(gauge: Gauge, value: Measured[float] | Measured[int] | Missing, *labels: str) -> None:
    gauge.labels(*labels).set(value.value if isinstance(value, Measured) else nan)


def _age_s(value: Measured[Any] | Missing) -> float:
    return nan if value.age_s is None else value.age_s
