"""The requests that were late or wait: whether the SLO is broken, in words and by chance."""

from __future__ import annotations

from math import sqrt

from ipa.control.engine.guards import GuardSettings
from ipa.model.observation import Attainment, Measured, Missing, Observation
from ipa.model.pipeline import Pipeline, Sla

# Fewer requests in a window say nothing.
LEAST_COUNT = 10


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
