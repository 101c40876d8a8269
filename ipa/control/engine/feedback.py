"""The outer feedback: what is planned for beyond the forecast, from the requests that were late.

A plan is a hypothesis. If the model says that the running configuration carries the load in time, and
requests are late all the same (bursts, waits beyond the formula's, work of others on the machine), plans are
made for a larger load until the requests are in time again, and step by step for less once they have been for
a while. While requests are late, what waits counts as load.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import log, sqrt

from ipa.control.engine.guards import GuardSettings, mean_rps
from ipa.model.forecast import Forecast
from ipa.model.observation import Attainment, Measured, Observation
from ipa.model.pipeline import Pipeline
from ipa.policies.base import Predictor

# Plans use the ratio in steps of 5 %, so that they do not jitter with it.
STEP = 1.05
# One window with late requests raises the ratio by the first, one in which most were late by the second.
RAISE, RAISE_FAR = 1.2, 1.5
MOSTLY_LATE_RATIO = 0.5
# Beyond this the cause is not the load, and more replicas do not help.
MOST = 3.0
# The ratio falls by this each tick, after requests were in time for this long.
FALL, HOLD_S = 0.97, 60.0
# If requests are late again within this multiple of the hold, the hold doubles, up to so many times.
SOON, MOST_HOLDS = 2.0, 16
# Fewer requests in a window say nothing.
LEAST_COUNT = 10
# Requests that wait are to be served within this time, beside those that come.
DRAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Feedback:
    """The load to plan for is `load_ratio` times the forecast; `is_broken`: the SLO is, in the last window.

    A window is judged from `since_s` on: the ratio was raised or the last change ended then. The ratio was
    raised last at `raised_s`, and falls after `hold_s` without lateness (`is_falling`); `late_s` is when
    requests were late last.
    """

    load_ratio: float = 1.0
    is_broken: bool = False
    since_s: float | None = None
    raised_s: float | None = None
    late_s: float | None = None
    hold_s: float = HOLD_S
    is_falling: bool = False

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
) -> Feedback:
    """The feedback after this tick; `predict` knows how slow variants are, `broken` if the SLO is.

    The ratio is raised only by windows in which nothing but the running configuration served, and only if
    that should have carried the load: else the plan knows.
    """
    running = observation.running()
    if running is None or in_flight or not observation.settled:
        return replace(before, is_broken=broken, since_s=None)
    after = replace(before, is_broken=broken, since_s=now_s if before.since_s is None else before.since_s)
    seen = observation.attainment
    if not broken or not isinstance(seen, Measured):
        return _eased(after, now_s)
    after = replace(after, late_s=now_s)
    window_s = seen.value.window_s + seen.age_s
    assert after.since_s is not None
    if now_s - after.since_s < window_s:
        return after
    expected = predict(running, _rate_rps(observation, window_s))
    if expected is None or not expected.feasible:
        return after
    step = RAISE_FAR if seen.value.in_time_ratio < MOSTLY_LATE_RATIO else RAISE
    is_soon = before.raised_s is not None and now_s - before.raised_s < SOON * before.hold_s
    # It was needed then. Windows of one row of raises are no recurrence.
    hold_s = before.hold_s * (1 + before.is_falling) if is_soon else HOLD_S
    return replace(
        after,
        load_ratio=min(after.load_ratio * step, MOST),
        since_s=now_s,
        raised_s=now_s,
        hold_s=min(hold_s, MOST_HOLDS * HOLD_S),
        is_falling=False,
    )


def recalled_feedback(before: Feedback, later_s: float) -> Feedback:
    """The feedback of an earlier process, whose clock reads `later_s` less than this one's."""

    def later(at_s: float | None) -> float | None:
        return None if at_s is None else at_s + later_s

    return replace(before, since_s=None, raised_s=later(before.raised_s), late_s=later(before.late_s))


def lateness(observation: Observation, pipeline: Pipeline) -> str:
    """The requests in time and the SLO, in words; empty if they were not observed."""
    seen = observation.attainment
    if not isinstance(seen, Measured):
        return ""
    return (
        f"{seen.value.in_time_ratio:.1%} of the requests of the last {seen.value.window_s:g} s were in time, "
        f"the SLO is {pipeline.sla.percentile:g} % within {pipeline.sla.latency_s:g} s"
    )


def loaded(forecast: Forecast, feedback: Feedback, observation: Observation, *, is_slow: bool) -> Forecast:
    """The forecast to plan for: times the ratio, and with what waits.

    What waits counts while the SLO is broken, and if variants are known to be slow. Else why it waits may be
    learned in a moment, and a plan for it alone would be in the way of the right one.
    """
    ratio = feedback.planned_ratio
    waiting_rps = _waiting_rps(observation) if feedback.is_broken or is_slow else 0.0
    if ratio == 1 and not waiting_rps:
        return forecast
    return replace(
        forecast,
        point_rps=forecast.point_rps * ratio + waiting_rps,
        upper_rps=forecast.upper_rps * ratio + waiting_rps,
    )


def _eased(now: Feedback, now_s: float) -> Feedback:
    if now.load_ratio <= 1 or now.late_s is None or now_s - now.late_s < now.hold_s:
        return now
    return replace(now, load_ratio=max(now.load_ratio * FALL, 1.0), is_falling=True)


def is_broken(observation: Observation, target_ratio: float, settings: GuardSettings) -> bool:
    """True if more requests were late than chance explains at the target."""
    seen = observation.attainment
    if not isinstance(seen, Measured) or seen.age_s > settings.stale_after_s:
        return False
    return seen.value.count >= LEAST_COUNT and _late(seen.value) > _most_late(seen.value.count, target_ratio)


def _late(seen: Attainment) -> float:
    return seen.count * (1 - seen.in_time_ratio)


def _most_late(count: float, target_ratio: float) -> float:
    """The late requests that two deviations of chance allow."""
    mean = count * (1 - target_ratio)
    return mean + 2 * sqrt(mean * target_ratio) + 1


def _rate_rps(observation: Observation, window_s: float) -> float:
    """The present rate, or the mean over the window if that is higher."""
    now, load = observation.arrival_rate_rps, observation.load
    return max(
        now.value if isinstance(now, Measured) else 0.0,
        mean_rps(load.value, window_s) if isinstance(load, Measured) else 0.0,
    )


def _waiting_rps(observation: Observation) -> float:
    """The rate at which the waiting requests are to be served; 0 if they are those of a batch or two."""
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
    return longest / DRAIN_S
