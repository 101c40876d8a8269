"""The load while its counter is replaced: until the window of the new counter is full, rates are too low.

On some targets each write restarts the process that counts requests, so its counters begin at 0. With scrapes
every ten seconds and rates over thirty the load reads half for twenty seconds, and then seems to rise.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ipa.control.engine.feedback import risen_rps
from ipa.control.engine.guards import SURE
from ipa.model.observation import LoadHistory, Measured, Missing, MissingReason, Observation

# The first sample of what counts from now on may be this much later.
SCRAPED_S = 15.0
# What is not ready for longer is not waited for: the load is then what it reads.
LONGEST_S = 300.0


@dataclass(frozen=True, slots=True)
class Replacement:
    """The Unix times of a counter's last reading and of its successor's first, and the rate before."""

    since_s: float
    ready_s: float
    rate_rps: float | None

    def until_s(self, averaged_s: float) -> float:
        """The time from which rates, means over `averaged_s`, are those of the successor alone."""
        return self.ready_s + averaged_s + SCRAPED_S


class Recounts:
    """The replacements of the load's counter, by `WorkloadState.counter` of each reading."""

    def __init__(self) -> None:
        self._counter = ""
        # When it was read last, and since when it is being replaced; the newest rate.
        self._read_s: float | None = None
        self._rate_rps: float | None = None
        self._since_s: float | None = None
        self._replaced: tuple[Replacement, ...] = ()

    def see(self, counter: str | None, at_s: float) -> None:
        """Record the counter of the load at that Unix time."""
        if counter is None:
            return
        if not counter:
            if self._since_s is None:
                self._since_s = at_s if self._read_s is None else self._read_s
            return
        since_s = self._since_s
        if since_s is None and self._counter and counter != self._counter:
            since_s = self._read_s
        if since_s is not None:
            ready_s = min(at_s, since_s + LONGEST_S)
            self._replaced = (*self._replaced, Replacement(since_s, ready_s, self._rate_rps))
        self._counter, self._read_s, self._since_s = counter, at_s, None

    def bridged(self, observation: Observation, at_s: float) -> Observation:
        """The observation whose load is at least the rate before each replacement while that lasts."""
        load = observation.load
        if not isinstance(load, Measured):
            return observation
        end_s = at_s if load.value.end_s is None else load.value.end_s
        start_s = end_s - load.value.step_s * (len(load.value.rates_rps) - 1)
        averaged_s = load.value.averaged_s
        self._replaced = tuple(it for it in self._replaced if it.until_s(averaged_s) > start_s)
        replacements = self._replaced
        if self._since_s is not None:
            replacements = (
                *replacements,
                Replacement(self._since_s, self._since_s + LONGEST_S, self._rate_rps),
            )
        rates = _bridged(load.value, end_s, replacements)
        lasting = (end_s - it.since_s for it in replacements if it.since_s < end_s <= it.until_s(averaged_s))
        bridged_s = round(max(lasting, default=0.0), 3)
        value = replace(load.value, rates_rps=rates)
        if rates[-1] is not None:
            self._rate_rps = max(rates[-1], risen_rps(value, SURE, bridged_s))
        observation = replace(observation, load=replace(load, value=value), bridged_s=bridged_s)
        rate, least_rps = observation.arrival_rate_rps, rates[-1]
        if not bridged_s or least_rps is None:
            return observation
        is_absent = isinstance(rate, Missing) and rate.reason is MissingReason.ABSENT
        if is_absent or (isinstance(rate, Measured) and rate.value < least_rps):
            return replace(observation, arrival_rate_rps=Measured(least_rps, load.age_s))
        return observation


def _bridged(
    load: LoadHistory, end_s: float, replacements: tuple[Replacement, ...]
) -> tuple[float | None, ...]:
    """The rates, during each replacement at least the last one before it.

    During a replacement that is the present rate, which may have risen; later the mean that was read then.
    """
    rates = list(load.rates_rps)
    for each in sorted(replacements, key=lambda it: it.since_s):
        until_s, before_rps = each.until_s(load.averaged_s), each.rate_rps
        for at, rate in enumerate(rates):
            time_s = end_s - load.step_s * (len(rates) - 1 - at)
            if time_s <= each.since_s:
                is_past = before_rps is None or end_s > until_s
                before_rps = rate if is_past and rate is not None else before_rps
            elif time_s <= until_s and before_rps is not None:
                rates[at] = before_rps if rate is None else max(before_rps, rate)
    return tuple(rates)
