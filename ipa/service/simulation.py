"""Simulations of the control loop with the settings of the service."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from typing import Any, Protocol

from ipa.control.engine.guards import GuardSettings
from ipa.files.reading import is_file
from ipa.files.traces import read_rates, trace_file
from ipa.forecast.arrivals import WORKLOADS, workload_rates
from ipa.forecast.base import slo_quantile
from ipa.model.errors import NotFoundError, UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.model.serving import ServingSemantics
from ipa.report.blocks import over_seeds
from ipa.settings import Settings
from ipa.simulate.cluster import ClusterSettings
from ipa.simulate.metrics import MetricsSettings
from ipa.simulate.run import ForecastSettings, SimResult, SimSetup, simulate
from ipa.simulate.world import queue_kind

# A request takes some 100 bytes while it is simulated.
MOST_REQUESTS = 2e7


class SimulatedPlace(Protocol):
    """The properties of a target that the simulator needs."""

    @property
    def name(self) -> str:
        """The name of the target."""

    def shape(self, pipeline: Pipeline, profiles: Mapping[str, StageProfile]) -> Pipeline:
        """The pipeline with its shape on the target."""

    def simulation(self, pipeline: Pipeline) -> tuple[ClusterSettings, MetricsSettings]:
        """The start and the monitoring of replicas on this target."""

    def serving(self, pipeline: Pipeline) -> ServingSemantics:
        """The serving semantics of the pipeline."""


def over_seeds_of(
    setup: SimSetup, repeats: int, step: Callable[[str], None]
) -> tuple[SimResult, dict[str, Any]]:
    """The run of the first seed, and its figures, or the means over all seeds with `intervals`.

    `step` receives the name of each further seed as it starts.
    """

    def another(nth: int) -> dict[str, Any]:
        # One at a time, and after the garbage of the last: each run holds all of its requests.
        gc.collect()
        step(f"seed {setup.seed + nth}")
        return simulate(replace(setup, seed=setup.seed + nth)).summary()

    first = simulate(setup)
    if repeats == 1:
        return first, first.summary()
    return first, over_seeds([first.summary(), *map(another, range(1, repeats))])


def as_served(
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    rates_rps: tuple[float, ...],
    given: Settings,
    target: SimulatedPlace,
) -> SimSetup:
    """A run of the loop on the target with the service's settings."""
    forecast = ForecastSettings(
        given.forecaster,
        window_s=given.window_s,
        horizon_s=given.horizon_s,
        quantile=slo_quantile(given.forecast_quantile, pipeline.sla.percentile),
        smooth_s=given.smooth_s,
    )
    return setup_on(target, pipeline, profiles, rates_rps, forecast, guards_of(given))


def setup_on(
    target: SimulatedPlace,
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    rates_rps: tuple[float, ...],
    forecast: ForecastSettings,
    guards: GuardSettings,
) -> SimSetup:
    """The setup of a run with the target's dropping of late requests, rolling updates and monitoring."""
    cluster, metrics = target.simulation(pipeline)
    shaped = target.shape(pipeline, profiles)
    serving = target.serving(pipeline)
    deadline_s = shaped.deadline_s if serving.drops_late else None
    return SimSetup(
        replace(shaped, drop_after_s=deadline_s),
        profiles,
        rates_rps,
        forecast=forecast,
        guards=guards,
        cluster=cluster,
        metrics=replace(metrics, stale_after_s=guards.stale_after_s),
        queue=queue_kind(serving),
    )


def rates_of(workload: str, minutes: float | None, times: float) -> tuple[float, ...]:
    """The rates, one a second, of a named workload or of a trace file; UsageError if none remain."""
    if workload in WORKLOADS:
        rates = tuple(float(rate) for rate in workload_rates(workload))
    elif is_file(trace_file(workload)):
        rates = read_rates(workload)
    else:
        known = ", ".join(WORKLOADS)
        raise NotFoundError(
            f"there is no workload and no file {workload!r}", hint=f"Give a file, or one of: {known}"
        )
    if minutes is not None:
        rates = rates[: max(round(60 * minutes), 0)]
    if not rates:
        raise UsageError(f"nothing of workload {workload!r} is left to simulate")
    scaled = tuple(times * rate for rate in rates)
    if sum(scaled) > MOST_REQUESTS:
        raise UsageError(
            f"--times {times:g} makes {sum(scaled):.3g} requests of the workload; at most {MOST_REQUESTS:g} "
            "are simulated",
            hint="Take a smaller factor, or fewer --minutes.",
        )
    return scaled


def guards_of(given: Settings) -> GuardSettings:
    """The guards of the loop with the values of the service's settings."""
    return GuardSettings(
        **{it.name: getattr(given, it.name) for it in fields(GuardSettings) if hasattr(given, it.name)}
    )
