"""The outer feedback: what is planned for beyond the forecast, from the requests that were late.

A plan is a hypothesis. If the model says that the running configuration carries the load in time, and
requests are late all the same (bursts, waits beyond the formula's, work of others on the machine), plans are
made for a larger load until the requests are in time again, and step by step for less once they have been for
a while. While requests are late, what waits counts as load.

The model may be pessimistic, too: while fewer requests are late than the SLO allows, plans are made for a
smaller margin above the load of the last minutes, step by step, and for the whole margin at once if the SLO
is broken. A load that the running configuration has carried in time needs no more, whatever the model says.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import takewhile
from math import exp, log, sqrt

from ipa.control.engine.guards import GuardSettings, mean_rps
from ipa.model.observation import Attainment, Forecast, LoadHistory, Measured, Missing, Observation, known
from ipa.model.pipeline import Pipeline, Sla
from ipa.policies.base import Predictor

# Plans use the ratio in steps of 5 %, so that they do not jitter with it.
STEP = 1.05
# A window with late requests raises the ratio by this, and by half of their share.
RAISE = 0.1
# Beyond this the cause is not the load, and more replicas do not help.
MOST = 3.0
# The ratio falls by this each tick, after requests were in time for this long.
FALL, HOLD_S = 0.97, 60.0
# If variants change in place, this many times sooner and as many steps at once: a margin that is too small
# is whole again within a second or two.
QUICKER = 4
# The least ratio; the mean rate bounds the load to plan for, too.
LEAST = 0.5
# The highest mean rate over MEAN_S of the last minutes is the least that is planned for; the forecast's point
# if variants change in place.
MEAN_S, LATELY_S = 30.0, 300.0
# The ratio does not fall while more of the requests of the last minutes were late than the SLO allows, and
# below 1 while they are at most this share of that. They are forgotten with this time constant.
SPARE_RATIO, FORGET_S = 0.5, 1200.0
# The load that was carried is a mean over this; it is forgotten with this time constant.
PEAK_S, CARRIED_S = 5.0, 3600.0
# Fewer requests in a window say nothing.
LEAST_COUNT = 10
# A load rises if that of its last step is this many deviations of chance above its mean.
CHANCE = 3.0
# While all are in time, it must be this many above.
FAR = 4.0
# Requests that wait are to be served within this time, beside those that come.
DRAIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Feedback:
    """The load to plan for is `load_ratio` times the forecast; `is_broken`: the SLO is, in the last window.

    A window is judged from `since_s` on: the ratio was raised or the last change ended then. `late_s` is
    when the SLO was broken last, at first when requests were first seen. Of the requests of the last minutes
    until `judged_s` `late_ratio` were late. The running configuration has carried `carried_rps` in time, a
    mean over PEAK_S.
    """

    load_ratio: float = 1.0
    is_broken: bool = False
    since_s: float | None = None
    late_s: float | None = None
    late_ratio: float = 0.0
    judged_s: float | None = None
    carried_rps: float = 0.0

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
    allowed_ratio: float,
    serving_s: float | None = None,
    is_quick: bool = False,
) -> Feedback:
    """The feedback after this tick; `predict` knows how slow variants are, `broken` if the SLO is.

    The ratio is raised above 1 only by windows in which nothing but the running configuration served, and
    only if that should have carried the load: else the plan knows. `allowed_ratio` is the share of requests
    that may be late. `serving_s`: since then the running configuration serves, changed in place. `is_quick`:
    variants change in place.
    """
    running, attainment = observation.running(), observation.attainment
    before = replace(_remembered(before, attainment, now_s), is_broken=broken)
    if broken:
        before = replace(before, late_s=now_s, carried_rps=0.0)
        if before.load_ratio < 1:
            # The whole margin again, which is judged from now on.
            before = replace(before, load_ratio=1.0, since_s=None)
    if running is None or in_flight or not observation.is_whole:
        return replace(before, since_s=None, carried_rps=0.0)
    begun_s = now_s if serving_s is None else serving_s
    after = replace(before, since_s=begun_s if before.since_s is None else before.since_s)
    if not broken or not isinstance(attainment, Measured):
        after = _carrying(after, observation, now_s, allowed_ratio)
        return _eased(after, attainment, now_s, allowed_ratio, QUICKER if is_quick else 1)
    window_s = attainment.value.window_s + attainment.age_s
    assert after.since_s is not None
    if now_s - after.since_s < window_s:
        return after
    load, rate_rps = observation.load, known(observation.arrival_rate_rps) or 0.0
    if isinstance(load, Measured):
        rate_rps = max(rate_rps, mean_rps(load.value, window_s))
    expected = predict(running, rate_rps)
    if expected is None or not expected.feasible:
        return after
    step = 1 + RAISE + (1 - attainment.value.in_time_ratio) / 2
    return replace(after, load_ratio=min(after.load_ratio * step, MOST), since_s=now_s)


def recalled_feedback(before: Feedback, later_s: float) -> Feedback:
    """The feedback of an earlier process, whose clock reads `later_s` less than this one's."""
    late_s = None if before.late_s is None else before.late_s + later_s
    return replace(before, since_s=None, late_s=late_s, judged_s=None, carried_rps=0.0)


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


def loaded(
    forecast: Forecast, feedback: Feedback, observation: Observation, *, is_slow: bool, is_quick: bool = False
) -> Forecast:
    """The forecast to plan for: times the ratio, no less than a load that just rose, and with what waits.

    Both count while the SLO is broken, what waits also if variants are known to be slow. Else why it waits
    may be learned in a moment, and a plan for it alone would be in the way of the right one. A load that rose
    far above the forecast counts at once. `is_quick` as in `regulated`.
    """
    ratio, is_broken = feedback.planned_ratio, feedback.is_broken
    waiting_rps = _waiting_rps(observation) if is_broken or is_slow else 0.0
    risen_rps = (present_rps(observation) or 0.0) if is_broken else _risen_rps(observation, FAR)
    if not is_broken and risen_rps <= forecast.upper_rps:
        risen_rps = 0.0
    if ratio == 1 and not waiting_rps and risen_rps <= forecast.point_rps:
        return forecast
    # The waits of requests that come at random are in the model's latency already, at their mean rate. But a
    # ratio that falls within seconds is of fewer requests than a rise brings, and means show that late.
    lately_rps = None if is_quick else _highest_mean_rps(observation.load, LATELY_S, MEAN_S)
    mean_rps = forecast.point_rps if lately_rps is None else min(lately_rps, forecast.point_rps)
    least_rps = max(mean_rps, risen_rps)
    return replace(
        forecast,
        point_rps=max(forecast.point_rps * ratio, least_rps) + waiting_rps,
        upper_rps=max(forecast.upper_rps * ratio, least_rps) + waiting_rps,
    )


def planned_words(forecast: Forecast, rate_rps: float, feedback: Feedback) -> str:
    """The rate that was planned for and the reason, in words; empty if it is the forecast's upper end."""
    ratio = rate_rps / forecast.upper_rps if forecast.upper_rps > 0 else 1.0
    if abs(ratio - 1) < STEP - 1:
        return ""
    planned, bound = feedback.planned_ratio, "the recent load, the queues, or what a plan can carry"
    why = f"{bound} limits it" if planned == 1 or (planned < 1) != (ratio < 1) else (
        f"hardly any request of the last minutes was late ({100 * feedback.late_ratio:.2g} %)"
        if planned < 1
        else "requests were late although the model expected none"
    )  # fmt: skip
    return f"planned for {rate_rps:.3g} rps: {ratio:.2f} × the forecast, because {why}"


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


def _highest_mean_rps(load: Measured[LoadHistory] | Missing, last_s: float, over_s: float) -> float | None:
    """The highest mean rate over `over_s` in the last `last_s`; None if none was observed."""
    if isinstance(load, Missing):
        return None
    step_s = load.value.step_s
    rates = [rate for rate in load.value.rates_rps[-round(last_s / step_s) :] if rate is not None]
    width = min(max(1, round(over_s / step_s)), len(rates))
    means = [sum(rates[at : at + width]) / width for at in range(len(rates) - width + 1)] if rates else []
    return max(means, default=None)


def _remembered(now: Feedback, attainment: Measured[Attainment] | Missing, now_s: float) -> Feedback:
    """With this window among the late requests of the last minutes."""
    if not isinstance(attainment, Measured) or attainment.value.count < LEAST_COUNT:
        return replace(now, judged_s=None)
    passed_s = 0.0 if now.judged_s is None else now_s - now.judged_s
    late_ratio = 1 - attainment.value.in_time_ratio
    late_ratio += (now.late_ratio - late_ratio) * exp(-passed_s / FORGET_S)
    carried_rps = now.carried_rps * exp(-passed_s / CARRIED_S)
    return replace(now, late_ratio=late_ratio, judged_s=now_s, carried_rps=carried_rps)


def _carrying(now: Feedback, observation: Observation, now_s: float, allowed_ratio: float) -> Feedback:
    """With the load of this window as carried, if only the running configuration served it, and in time."""
    attainment = observation.attainment
    if isinstance(attainment, Missing) or now.since_s is None or attainment.value.count < LEAST_COUNT:
        return now
    is_its_own = now_s - now.since_s >= attainment.value.window_s + attainment.age_s
    if not is_its_own or 1 - attainment.value.in_time_ratio > allowed_ratio:
        return now
    rps = _highest_mean_rps(observation.load, attainment.value.window_s, PEAK_S)
    return replace(now, carried_rps=max(now.carried_rps, rps or 0.0))


def _eased(
    now: Feedback,
    attainment: Measured[Attainment] | Missing,
    now_s: float,
    allowed_ratio: float,
    quicker: int,
) -> Feedback:
    """A step down: to 1 once requests were in time for the hold, below 1 while hardly any are late."""
    if now.late_s is None:
        return replace(now, late_s=now_s)
    late_ratio = allowed_ratio
    if isinstance(attainment, Measured) and attainment.value.count >= LEAST_COUNT:
        late_ratio = max(1 - attainment.value.in_time_ratio, now.late_ratio)
    if late_ratio > allowed_ratio or now_s - now.late_s < HOLD_S / quicker:
        return now
    least = LEAST if late_ratio <= SPARE_RATIO * allowed_ratio else 1.0
    return replace(now, load_ratio=min(now.load_ratio, max(now.load_ratio * FALL**quicker, least)))


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
