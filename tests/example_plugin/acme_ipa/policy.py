"""A policy that plans for the forecast and a tenth more, and keeps capacity for a minute after a peak."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ipa.library import Forecast, Measured, Observation, Plan, Policy, PolicyInputs, PolicyState, make_policy

HEADROOM_RATIO = 1.1
KEPT_S = 60.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A rate in requests a second, and when it was seen."""

    at_s: float
    rate_rps: float


@dataclass(frozen=True, slots=True)
class Memory:
    """The rates of the last minute, oldest first."""

    seen: tuple[Seen, ...] = ()


class Headroom:
    """Our planner with headroom: it asks `ours` for a plan, which knows bounds, pins and quarantine."""

    name = "acme"
    memory_kind = Memory

    def __init__(self, inputs: PolicyInputs) -> None:
        self._ours: Policy = make_policy("ours", inputs)

    def remember(self, observation: Observation, state: PolicyState) -> Memory:
        """The memory after this tick."""
        before = state.memory if isinstance(state.memory, Memory) else Memory()
        kept = tuple(each for each in before.seen if state.now_s - each.at_s <= KEPT_S)
        rate = observation.arrival_rate_rps
        if not isinstance(rate, Measured) or not 0 <= rate.value < 1e6:
            return Memory(kept)
        return Memory((*kept, Seen(state.now_s, rate.value)))

    def decide(self, observation: Observation, forecast: Forecast, state: PolicyState) -> Plan:
        """The plan of `ours` for the larger of the forecast with headroom and the last minute's peak."""
        memory = state.memory if isinstance(state.memory, Memory) else Memory()
        peak_rps = max((each.rate_rps for each in memory.seen), default=0.0)
        upper_rps = max(min(HEADROOM_RATIO * forecast.upper_rps, 1e9), peak_rps)
        return self._ours.decide(observation, replace(forecast, upper_rps=upper_rps), state)
