"""The control loop's hook that publishes each tick's observation and decision as metrics."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import nan

from ipa.adapters.metrics.catalogue import Catalogue
from ipa.adapters.metrics.track import Ages, Incidents, Scores
from ipa.control.engine.guards import total_cores
from ipa.control.loop.snapshot import Snapshot
from ipa.metering import table
from ipa.metering.metric import Metric
from ipa.model.decision import Action, Decision, Mode
from ipa.model.observation import Measured, Missing, Observation, StageObservation, known
from ipa.model.plan import WHOLE_PERCENT, Plan, StageConfig

RUNG = table.FORECASTS.label("rung")
SOLVER = table.SOLVE.label("solver")
# More than the plans that a loop caches.
MOST_SOLVES = 16


@dataclass(slots=True)
class _Track:
    """The state of one pipeline between ticks."""

    ages: Ages = field(default_factory=Ages)
    incidents: Incidents = field(default_factory=Incidents)
    scores: Scores = field(default_factory=Scores)
    skipped_ticks: int = 0
    early_ticks: int = 0
    # Identifies a solve: no two take equally long to the bit.
    solves: deque[tuple[float, float, str]] = field(default_factory=lambda: deque(maxlen=MOST_SOLVES))

    def is_new(self, plan: Plan) -> bool:
        """True if the plan was solved in this tick; a plan from the cache has the solve time of its first."""
        solve = plan.solve_s, plan.rate_rps, plan.solver
        is_new = solve not in self.solves
        if is_new:
            self.solves.append(solve)
        return is_new


class Publisher:
    """The hook. A gauge of an unobserved value is NaN, never the last value and never zero."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._metrics = catalogue
        self._tracks: dict[str, _Track] = defaultdict(_Track)

    def __call__(self, decision: Decision, snapshot: Snapshot) -> None:
        """Count the decision, and set the gauges from the snapshot."""
        name = decision.pipeline
        track = self._tracks[name]
        self._tick(name, decision, snapshot, track)
        self._decided(name, decision)
        for incident in track.incidents.of(decision, snapshot):
            self._metrics.counter(table.INCIDENTS, name, incident.value).inc()
        if snapshot.observation is not None:
            self._seen(name, snapshot, snapshot.observation, track)
            self._scored(name, decision, snapshot.observation, track)

    def _tick(self, name: str, decision: Decision, snapshot: Snapshot, track: _Track) -> None:
        metrics = self._metrics
        metrics.counter(table.DECISIONS, name, decision.reason.value).inc()
        metrics.histogram(table.TICK, name).observe(snapshot.tick_s)
        # The loop counts from its start.
        metrics.counter(table.SKIPPED_TICKS, name).inc(max(snapshot.skipped_ticks - track.skipped_ticks, 0))
        metrics.counter(table.EARLY_TICKS, name).inc(max(snapshot.early_ticks - track.early_ticks, 0))
        track.skipped_ticks, track.early_ticks = snapshot.skipped_ticks, snapshot.early_ticks
        ended = datetime.fromisoformat(decision.at).timestamp() + snapshot.tick_s
        metrics.gauge(table.LAST_TICK, name).set(ended)
        metrics.desire(name, snapshot.desired)
        metrics.gauge(table.QUARANTINES, name).set(len(snapshot.quarantines))
        for mode in Mode:
            metrics.gauge(table.MODE, name, mode.value).set(mode is snapshot.control.mode)
        until = snapshot.control.paused_until
        at = datetime.fromisoformat(decision.at)
        metrics.gauge(table.PAUSED, name).set(snapshot.control.paused and (until is None or at < until))

    def _decided(self, name: str, decision: Decision) -> None:
        """The forecast, the plan before the guards and the decision after them."""
        metrics, forecast, plan = self._metrics, decision.forecast, decision.plan
        metrics.gauge(table.FORECAST_POINT, name).set(forecast.point_rps if forecast else nan)
        metrics.gauge(table.FORECAST_UPPER, name).set(forecast.upper_rps if forecast else nan)
        if forecast is not None:
            metrics.counter(table.FORECASTS, name, RUNG.known(forecast.rung)).inc()
        pas = plan.pas if plan else None
        metrics.gauge(table.PLAN_PAS, name).set(nan if pas is None else pas)
        planned = plan.configs if plan else ()
        if plan is not None and self._tracks[name].is_new(plan):
            solved = metrics.histogram(table.SOLVE, SOLVER.known(plan.solver), plan.termination.value)
            solved.observe(plan.solve_s)
        if decision.action is Action.APPLY and planned and planned != decision.configs:
            metrics.counter(table.CURTAILED, name).inc()
        for configs, replicas, cores in (
            (planned, table.PLAN_REPLICAS, table.PLAN_CORES),
            (decision.configs, table.DECISION_REPLICAS, table.DECISION_CORES),
        ):
            for stage, of_stage in self._by_stage(name, configs).items():
                metrics.gauge(replicas, name, stage).set(_replicas(of_stage))
                metrics.gauge(cores, name, stage).set(total_cores(of_stage) if of_stage else nan)

    def _seen(self, name: str, snapshot: Snapshot, observation: Observation, track: _Track) -> None:
        self._show(table.ARRIVAL_RATE, observation.arrival_rate_rps, name)
        self._show(table.LATENCY, observation.latency_s, name)
        self._show_or_nan(table.IN_TIME, observation.in_time_ratio, name)
        self._show_or_nan(table.LOAD_RATIO, snapshot.feedback.planned_ratio, name)
        point = snapshot.history[-1] if snapshot.history else None
        self._show_or_nan(table.PREDICTED_LATENCY, point.predicted_latency_s if point else None, name)
        self._show_or_nan(table.PAS, point.pas if point else None, name)
        for given, age_s in track.ages.of(observation).items():
            self._show_or_nan(table.INPUT_AGE, age_s, name, given.value)
        by_stage: dict[str, list[StageObservation]] = {}
        for stage in observation.stages:
            by_stage.setdefault(stage.stage, []).append(stage)
        running = [stage.running.value for stage in observation.stages if isinstance(stage.running, Measured)]
        is_whole = bool(running) and len(running) == len(observation.stages)
        price = self._metrics.usd_per_hour(name, running) if is_whole else None
        self._show_or_nan(table.COST, price, name)
        for stage_name, parts in by_stage.items():
            self._stage(name, stage_name, parts, snapshot)

    def _stage(self, name: str, stage: str, parts: list[StageObservation], snapshot: Snapshot) -> None:
        """The metrics of a stage, over all parts that share its load."""
        metrics = self._metrics
        ready = [part.ready_replicas.value for part in parts if isinstance(part.ready_replicas, Measured)]
        running = [part.running.value for part in parts if isinstance(part.running, Measured)]
        is_seen = len(running) == len(parts)
        metrics.gauge(table.READY_REPLICAS, name, stage).set(sum(ready) if len(ready) == len(parts) else nan)
        metrics.gauge(table.STAGE_CORES, name, stage).set(total_cores(running) if is_seen else nan)
        metrics.gauge(table.REPLICAS, name, stage).set(_replicas(running) if is_seen else nan)
        metrics.gauge(table.BATCH_SIZE, name, stage).set(
            max(it.batch_size for it in running) if is_seen else nan
        )
        for variant in metrics.variants(name, stage):
            percent = sum(it.share_percent for it in running if it.variant == variant)
            metrics.gauge(table.SHARE, name, stage, variant).set(percent / WHOLE_PERCENT if is_seen else nan)
            # NaN if it was never observed, or has expired.
            self._show_or_nan(table.SLOWDOWN, snapshot.correction.ratio(stage, variant), name, stage, variant)

    def _scored(self, name: str, decision: Decision, observation: Observation, track: _Track) -> None:
        metrics = self._metrics
        for score in track.scores.of(decision, observation):
            metrics.gauge(table.FORECAST_ERROR, name).set(score.error_ratio)
            metrics.counter(table.FORECASTS_SCORED, name).inc()
            metrics.counter(table.FORECASTS_EXCEEDED, name).inc(score.is_exceeded)

    def _show(self, metric: Metric, value: Measured[float] | Missing, *labels: str) -> None:
        self._show_or_nan(metric, known(value), *labels)

    def _show_or_nan(self, metric: Metric, value: float | None, *labels: str) -> None:
        self._metrics.gauge(metric, *labels).set(nan if value is None else value)

    def _by_stage(self, name: str, configs: Sequence[StageConfig]) -> dict[str, list[StageConfig]]:
        """The configs by stage, for every known stage."""
        found: dict[str, list[StageConfig]] = {stage: [] for stage in self._metrics.stages(name)}
        for config in configs:
            found.setdefault(config.stage, []).append(config)
        return found


def _replicas(configs: Sequence[StageConfig]) -> float:
    return sum(config.replicas for config in configs) if configs else nan
