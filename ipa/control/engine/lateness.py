"""Late requests, those that wait, and a load that has just risen: what is known before the forecast is."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from math import sqrt

from ipa.control.engine.guards import GuardSettings
from ipa.model.observation import Attainment, Forecast, LoadHistory, Measured, Missing, Observation
from ipa.model.pipeline import Pipeline, Sla

# Fewer requests in a window say nothing.
LEAST_COUNT = 10
# A load rises if that of its last step is this many deviations of chance above its mean.
CHANCE = 3.0
# While all are in time, it must be this many above.
FAR = 4.0


def lateness(observation: Observation, pipeline: Pipeline) -> str:
    """The requests in time and the SLO, in words; the latency if they were not observed, else empty."""
    attainment, latency = observation.attainment, observation.latency_s
    if isinstance(attainment, Missing):
        if isinstance(latency, Missing):
            return ""
        return f"p{pipeline.sla.percentile:g} is {latency.value:.3g} s, the SLA {pipeline.sla.latency_s:g} s"
    percent, window_s = 100 * attainment.value.in_time_ratio, attainment.value.window_s
    return (
        f"{percent:.1f} % of the requests of the last {window_s:g} s were in time, "
        f"the SLO is {pipeline.sla.percentile:g} % within {pipeline.sla.latency_s:g} s"
    )


def loaded(forecast: Forecast, observation: Observation, *, is_late: bool) -> Forecast:
    """The forecast to plan for, no less than a load that just rose far above it; if late, above its mean."""
    risen_rps = _risen_rps(observation, FAR)
    if risen_rps <= (forecast.point_rps if is_late else forecast.upper_rps):
        return forecast
    return replace(
        forecast,
        point_rps=max(forecast.point_rps, risen_rps),
        upper_rps=max(forecast.upper_rps, risen_rps),
        rates_rps=tuple(max(rate, risen_rps) for rate in forecast.rates_rps),
    )


def present_rps(observation: Observation) -> float | None:
    """The present rate; of a load that rises, that of its last step. None if it is unknown."""
    rate = observation.arrival_rate_rps
    return max(rate.value, _risen_rps(observation, CHANCE)) if isinstance(rate, Measured) else None


def _risen_rps(observation: Observation, deviations: float) -> float:
    """As `risen_rps`; 0 if the load is missing."""
    load = observation.load
    return risen_rps(load.value, deviations, observation.bridged_s) if isinstance(load, Measured) else 0.0


def risen_rps(load: LoadHistory, deviations: float, bridged_s: float = 0.0) -> float:
    """The rate since the last scrape if it is `deviations` above the mean, which shows a rise late.

    0 if it is not, or if steps are means over no more than a step. 0 also if a rate of the last mean's time
    is missing or bridged: while the window of a mean fills, as at the first scrapes of a server or of the
    successor of what counted the load, the mean rises by itself.
    """
    if bridged_s:
        return 0.0
    rates, width = load.rates_rps, round(load.averaged_s / load.step_s)
    lately = [rate for rate in rates[-width:] if rate is not None]
    if width < 2 or len(lately) < width:
        return 0.0
    *earlier, newest = lately
    # A mean rises by what came since the last scrape, less what came in the time that its window left. One of
    # which scrapes are lost falls and rises by itself.
    rise_rps = newest - max(earlier)
    # The steps since that scrape: as often as the rate before the last one repeats.
    steps = 1 + sum(1 for _ in takewhile(lambda rate: rate == rates[-2], rates[-3::-1]))
    last_rps = earlier[0] + rise_rps * width / steps
    by_chance_rps = deviations * sqrt(newest / (steps * load.step_s))
    return last_rps if last_rps > newest + by_chance_rps else 0.0


def breaks_slo(observation: Observation, sla: Sla, settings: GuardSettings) -> bool:
    """True if the SLO is broken: by the requests that ended, or by the latency if they are not known."""
    if isinstance(observation.attainment, Measured):
        return is_broken(observation.attainment, sla.percentile / 100, settings)
    latency = observation.latency_s
    is_fresh = isinstance(latency, Measured) and latency.age_s <= settings.stale_after_s
    return is_fresh and isinstance(latency, Measured) and latency.value > sla.latency_s


def is_broken(
    attainment: Measured[Attainment] | Missing, target_ratio: float, settings: GuardSettings
) -> bool:
    """True if more requests were late than chance explains at the target."""
    if not isinstance(attainment, Measured) or attainment.age_s > settings.stale_after_s:
        return False
    late = attainment.value.count * (1 - attainment.value.in_time_ratio)
    return attainment.value.count >= LEAST_COUNT and late > most_late(attainment.value.count, target_ratio)


def most_late(count: float, target_ratio: float, deviations: float = 2.0) -> float:
    """The late requests that `deviations` of chance allow."""
    mean = count * (1 - target_ratio)
    return mean + deviations * sqrt(mean * target_ratio) + 1


def waiting_requests(observation: Observation) -> float:
    """The requests that wait at the stage with most of them, beyond those of a batch for each replica."""
    rate = observation.arrival_rate_rps
    if not isinstance(rate, Measured) or rate.value <= 0:
        return 0.0
    longest = 0.0
    for stage in observation.stages:
        length, arrivals, config = stage.queue_length, stage.arrival_rate_rps, stage.running
        if not (isinstance(length, Measured) and isinstance(config, Measured)):
            continue
        # Items of a stage, in requests of the pipeline.
        items = arrivals.value / rate.value if isinstance(arrivals, Measured) and arrivals.value > 0 else 1.0
        beyond = length.value - config.value.batch_size * config.value.replicas
        longest = max(longest, beyond / max(items, 1e-9))
    return longest
