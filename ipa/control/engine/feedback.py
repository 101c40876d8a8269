"""The outer feedback: what is planned for beyond the forecast, from the requests that were late.

A plan is a hypothesis. If the model says that the running configuration carries the load in time, and
requests are late all the same (bursts, waits beyond the formula's, work of others on the machine), plans are
made for a larger load until the requests are in time again, and step by step for less once they have been for
a while.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import takewhile
from math import log, sqrt

from ipa.control.engine.guards import STEP, SURE, GuardSettings, mean_rps
from ipa.model.observation import Attainment, Forecast, LoadHistory, Measured, Missing, Observation, known
from ipa.model.pipeline import Pipeline, Sla
from ipa.policies.base import Predictor

# A window with late requests raises the ratio by this, and by half of their share.
RAISE = 0.1
# Beyond this the cause is not the load, and more replicas do not help.
MOST = 3.0
# The ratio falls by this each tick, after requests were in time for this long.
FALL, HOLD_S = 0.97, 60.0
# Fewer requests in a window say nothing.
LEAST_COUNT = 10
# A load rises if that of its last step is this many deviations of chance above its mean; while all are in
# time, SURE ones.
CHANCE = 3.0


@dataclass(frozen=True, slots=True)
class Feedback:
    """The load to plan for is `load_ratio` times the forecast; `is_broken`: the SLO is, in the last window.

    A window is judged from `since_s` on: the ratio was raised or the last change ended then. `late_s` is
    when the SLO was broken last.
    """

    load_ratio: float = 1.0
    is_broken: bool = False
    since_s: float | None = None
    late_s: float | None = None

    @property
    def planned_ratio(self) -> float:
        """The ratio that plans use."""
        return float(STEP ** round(log(self.load_ratio) / log(STEP)))


NO_FEEDBACK = Feedback()


def regulated(
    before: Feedback,
    observation: Observation,
    predict: Predictor,
    now_s: float,
    *,
    in_flight: bool,
    broken: bool,
    serving_s: float | None = None,
) -> Feedback:
    """The feedback after this tick; `predict` knows how slow variants are, `broken` if the SLO is.

    The ratio is raised only by windows in which whatever ran should have carried the load: else the plan
    knows. `serving_s`: since then the running configuration serves, changed in place.
    """
    running, attainment = observation.running(), observation.attainment
    before = replace(before, is_broken=broken, late_s=now_s if broken else before.late_s)
    if not broken and (before.late_s is None or now_s - before.late_s >= HOLD_S):
        before = replace(before, load_ratio=max(before.load_ratio * FALL, 1.0))
    if running is None or not observation.is_whole:
        return replace(before, since_s=None)
    if in_flight:
        return before
    load, rate_rps = observation.load, known(observation.arrival_rate_rps) or 0.0
    window_s = attainment.value.window_s + attainment.age_s if isinstance(attainment, Measured) else 0.0
    if isinstance(load, Measured):
        rate_rps = max(rate_rps, mean_rps(load.value, window_s))
    expected = predict(running, rate_rps)
    if expected is None or not expected.feasible:
        return replace(before, since_s=None)
    begun_s = now_s if serving_s is None else serving_s
    after = replace(before, since_s=begun_s if before.since_s is None else before.since_s)
    assert after.since_s is not None
    if not broken or not isinstance(attainment, Measured) or now_s - after.since_s < window_s:
        return after
    step = 1 + RAISE + (1 - attainment.value.in_time_ratio) / 2
    return replace(after, load_ratio=min(after.load_ratio * step, MOST), since_s=now_s)


def recalled_feedback(before: Feedback, later_s: float) -> Feedback:
    """The feedback of an earlier process, whose clock reads `later_s` less than this one's."""
    late_s = None if before.late_s is None else before.late_s + later_s
    return replace(before, since_s=None, late_s=late_s)


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


def loaded(forecast: Forecast, feedback: Feedback, observation: Observation) -> Forecast:
    """The forecast to plan for: times the ratio, and no less than a load that just rose far above it."""
    ratio = feedback.planned_ratio
    risen_rps = _risen_rps(observation, SURE)
    if not feedback.is_broken and risen_rps <= forecast.upper_rps:
        risen_rps = 0.0
    if ratio == 1 and risen_rps <= forecast.point_rps:
        return forecast
    return replace(
        forecast,
        point_rps=max(forecast.point_rps * ratio, risen_rps),
        upper_rps=max(forecast.upper_rps * ratio, risen_rps),
        rates_rps=tuple(max(rate * ratio, risen_rps) for rate in forecast.rates_rps),
    )


def planned_words(feedback: Feedback) -> str:
    """The ratio of the load that is planned for to the forecast, and why, in words; empty if it is 1."""
    ratio = feedback.planned_ratio
    why = "requests were late although the model expected none"
    return "" if ratio == 1 else f"planned for {ratio:.2f} × the forecast, because {why}"


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
