"""The predictions of plans: the formula's, and the simulator's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import isfinite

import numpy as np

from experiments.scorecard.figures import Figures
from ipa.forecast.arrivals import request_times, steps
from ipa.model.observation import Measured
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.profile import Slowdowns, StageProfile
from ipa.policies.profiled import PlannerInputs, Profiled
from ipa.simulate.cluster import ClusterSettings
from ipa.simulate.ground_truth import GroundTruth
from ipa.simulate.metrics import MetricsSettings
from ipa.simulate.world import SimWorld, queue_kind
from ipa.targets.base import Target

# Of the simulated requests; the first are not counted.
SIMULATED_S, SETTLE_S = 60.0, 5.0


class Predictions:
    """What is predicted of a pipeline's configurations on a target, by its profiles."""

    def __init__(self, pipeline: Pipeline, profiles: Mapping[str, StageProfile], target: Target) -> None:
        self._pipeline, self._profiles, self._target = pipeline, profiles, target
        self._profiled: dict[float, Profiled] = {}

    def profiled(self, percentile: float) -> Profiled:
        """Plans and predictions for an SLA at that percentile."""
        if percentile not in self._profiled:
            sla = replace(self._pipeline.sla, percentile=percentile)
            self._profiled[percentile] = Profiled(
                PlannerInputs(replace(self._pipeline, sla=sla), self._profiles, solver="exact", explain=False)
            )
        return self._profiled[percentile]

    def of(
        self,
        configs: Sequence[StageConfig],
        before: Sequence[StageConfig],
        rate_rps: float,
        percentile: float,
        slowdowns: Slowdowns,
    ) -> Figures:
        """The figures of the configuration after a change from `before`, its tail at that percentile."""
        made = self.profiled(percentile)
        plan, prediction = made.describe(configs, rate_rps, slowdowns), made.predict(configs, rate_rps)
        if plan is None or prediction is None:
            raise ValueError(f"{self._pipeline.name}: {configs} was not profiled")
        added = [
            ready_s
            for old, new, ready_s in zip(before, configs, prediction.readiness_s, strict=False)
            if new.replicas > old.replicas
        ]
        mean_s = sum(stage.mean_s for stage in plan.stages)
        times_s, busy_ratio = self._simulated(configs, rate_rps, slowdowns)
        has_answers = len(times_s) > 0
        return Figures(
            mean_s=mean_s if isfinite(mean_s) else None,
            p50_s=float(np.median(times_s)) if has_answers else None,
            tail_s=plan.latency_s if plan.latency_s is not None and isfinite(plan.latency_s) else None,
            simulated_tail_s=float(np.quantile(times_s, percentile / 100)) if has_answers else None,
            capacity_rps=rate_rps / max(stage.utilisation_ratio for stage in plan.stages),
            busy_ratio=busy_ratio,
            accuracy=plan.pas,
            change_s=max(added, default=None),
        )

    def busiest(self, configs: Sequence[StageConfig], rate_rps: float) -> StageConfig:
        """The stage that the profiles expect to have the least capacity to spare."""
        plan = self.profiled(self._pipeline.sla.percentile).describe(configs, rate_rps)
        if plan is None:
            raise ValueError(f"{self._pipeline.name}: {configs} was not profiled")
        return max(plan.stages, key=lambda stage: stage.utilisation_ratio).config

    def _simulated(
        self, configs: Sequence[StageConfig], rate_rps: float, slowdowns: Slowdowns
    ) -> tuple[np.ndarray, float | None]:
        """Latencies of answered requests, and the busy share of the busiest stage's replicas."""
        profiles = {name: profile.slowed(slowdowns) for name, profile in self._profiles.items()}
        times_s = request_times(steps((rate_rps, int(SIMULATED_S))), seed=1)
        pipeline = replace(self._pipeline, drop_after_s=self._pipeline.deadline_s)
        world = SimWorld(
            pipeline,
            GroundTruth(pipeline, profiles),
            configs,
            times_s,
            cluster=ClusterSettings(),
            metrics=MetricsSettings(batches_window_s=SIMULATED_S - SETTLE_S),
            queue=queue_kind(self._target.serving(pipeline)),
        )
        world.clock.wait(SIMULATED_S)
        busiest = self.busiest(configs, rate_rps)
        batches = world.metrics.read(pipeline, 1.0).stages[busiest.stage].batches
        world.finish()
        took_s = (world.done_s - times_s)[times_s >= SETTLE_S]
        is_seen = isinstance(batches, Measured)
        return took_s[~np.isnan(took_s)], batches.value.busy_replicas / busiest.replicas if is_seen else None
