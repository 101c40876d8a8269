"""The load of a cell: steps up and down, then more than any plan carries."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ipa.forecast.arrivals import request_times, steps

# The highest step, of the measured capacity: the rest is room for random arrivals.
PEAK_RATIO = 0.75
OVERLOAD_RATIO = 1.6
# The load is settled this long after a step.
SETTLED_S = 5
SEED = 7
# Rates as multiples of the least one, and seconds: up by 2, 5 and 8, down by 8, 5 and 2.
LEVELS = ((1.0, 3), (2.0, 6), (10.0, 7), (1.25, 3), (10.0, 7), (2.0, 3), (1.0, 2))
OVERLOAD_S = 8
PEAK_LEVEL = max(level for level, _ in LEVELS)
QUICK_LEVELS = ((1.0, 3), (10.0, 7), (1.25, 3))


@dataclass(frozen=True, slots=True)
class Phase:
    """Seconds at one rate. The last phase of a programme is the overload."""

    start_s: int
    duration_s: int
    rate_rps: float
    is_overload: bool

    @property
    def end_s(self) -> int:
        """Its end, in seconds of the programme."""
        return self.start_s + self.duration_s

    def holds(self, at_s: float) -> bool:
        """True if the time is in the phase."""
        return self.start_s <= at_s < self.end_s

    def settled(self, at_s: float) -> bool:
        """True if the time is in the phase, SETTLED_S after its start or later."""
        return self.start_s + SETTLED_S <= at_s < self.end_s


@dataclass(frozen=True, slots=True)
class Programme:
    """Phases after one another, for a pipeline whose largest plan carries `capacity_rps`."""

    capacity_rps: float
    phases: tuple[Phase, ...]

    @property
    def duration_s(self) -> int:
        """All phases together."""
        return self.phases[-1].end_s

    @property
    def least_rps(self) -> float:
        """The rate that pipelines are first planned for."""
        return self.phases[0].rate_rps

    def times_s(self) -> list[float]:
        """Seconds at which requests are sent: Poisson arrivals, the same for the same programme."""
        rates = steps(*((it.rate_rps, it.duration_s) for it in self.phases))
        return [float(at_s) for at_s in np.asarray(request_times(rates, seed=SEED))]


def programme_of(
    capacity_rps: float, levels: Sequence[tuple[float, int]] = LEVELS, times: int = 1
) -> Programme:
    """The programme whose highest step is PEAK_RATIO of the capacity, each phase `times` as long."""
    unit_rps = PEAK_RATIO * capacity_rps / PEAK_LEVEL
    rates = [(unit_rps * level, seconds * times, False) for level, seconds in levels]
    rates.append((OVERLOAD_RATIO * capacity_rps, OVERLOAD_S * times, True))
    starts = itertools.accumulate((seconds for _, seconds, _ in rates), initial=0)
    return Programme(
        capacity_rps,
        tuple(
            Phase(start, seconds, rate, over)
            for start, (rate, seconds, over) in zip(starts, rates, strict=False)
        ),
    )
