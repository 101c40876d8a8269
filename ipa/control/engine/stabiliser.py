"""Up at once, down slowly: what is not needed now must have been better for some ticks in a row.

A plan that is much better waits for a few ticks, one that is a little better for minutes: a load that only
scatters makes small plans small, and each would be taken back at its next peak.
"""

from __future__ import annotations

from math import ceil

from ipa.model.plan import Plan

# A gain of this share of the objective is taken after the fewest ticks; a tenth of it after ten times as
# many, but no more than this time.
LARGE_GAIN_RATIO = 0.05
LONGEST_S = 300.0


def remember(window: tuple[Plan, ...], plan: Plan, ticks: int) -> tuple[Plan, ...]:
    """The window with the newest plan, no longer than `ticks`."""
    return (*window, plan)[-max(ticks, 1) :]


def more_careful(before: Plan | None, plan: Plan) -> Plan:
    """The one of the higher rate; the newer one of equals."""
    return plan if before is None or plan.rate_rps >= before.rate_rps else before


def ripe(window: tuple[Plan, ...], ticks: int) -> Plan | None:
    """The most careful of the lower plans, that of the highest rate, once the window is `ticks` long."""
    if len(window) < ticks:
        return None
    return max(reversed(window), key=lambda plan: plan.rate_rps)


def ticks_for(gain_ratio: float, ticks: int, tick_s: float) -> int:
    """The ticks that a plan of that gain must stay better: `ticks` for a large gain, or if they are one."""
    if ticks <= 1:
        return ticks
    longest = max(ticks, ceil(LONGEST_S / tick_s))
    if gain_ratio <= 0:
        return longest
    return min(max(ticks, ceil(ticks * LARGE_GAIN_RATIO / gain_ratio)), longest)
