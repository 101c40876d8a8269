"""Up at once, down slowly: what is not needed now must have been better for some ticks in a row.

A plan that is much better waits for a few ticks, one that is a little better for minutes: a load that only
scatters makes small plans small, and each would be taken back at its next peak.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from math import ceil

from ipa.model.plan import Plan
from ipa.model.recording import UNLESS_DEFAULT

# A gain of this share of the objective is taken after the fewest ticks; a tenth of it after ten times as
# many, but no more than this time.
LARGE_GAIN_RATIO = 0.05
LONGEST_S = 300.0
# A smaller plan that a larger one replaces within the first was too small; each such doubles the wait for
# the next one, up to the second, until none has been for the third.
TAKEN_BACK_S, LONGEST_DAMPED_S, FORGET_S = 600.0, 1800.0, 3600.0
# A load this far below the one that a plan was too small for is another load.
OTHER_LOAD_RATIO = 0.7


@dataclass(frozen=True, slots=True)
class FlapDamping:
    """The smaller plans that were taken back: how many in a row, when the last one was, and for what rate.

    `shrunk_s`: the time of the last smaller plan, None once it was taken back. `last_rps`: the rate of the
    plan that took it back.
    """

    count: int = 0
    at_s: float = 0.0
    rate_rps: float = 0.0
    shrunk_s: float | None = None
    last_rps: float = field(default=0.0, metadata=UNLESS_DEFAULT)

    def shrunk(self, now_s: float) -> FlapDamping:
        """The damping after a smaller plan was applied."""
        return replace(self, shrunk_s=now_s)

    def grown(self, rate_rps: float, now_s: float) -> FlapDamping:
        """The damping after a plan for that rate was applied at once, since the running one was too small."""
        if self.shrunk_s is None or now_s - self.shrunk_s > TAKEN_BACK_S:
            return replace(self, shrunk_s=None)
        before = self.count if now_s - self.at_s < FORGET_S else 0
        highest_rps = max(rate_rps, self.rate_rps if before else 0.0)
        return FlapDamping(before + 1, now_s, highest_rps, last_rps=rate_rps)

    def counts(self, plan: Plan, now_s: float) -> bool:
        """True if smaller plans were taken back lately, under a load like the plan's."""
        is_other = plan.rate_rps < OTHER_LOAD_RATIO * self.rate_rps
        return self.count > 0 and now_s - self.at_s < FORGET_S and not is_other

    def ticks(self, plan: Plan, ticks: int, now_s: float, tick_s: float) -> int:
        """The ticks that a smaller plan must stay better, where it would be `ticks` undamped."""
        if ticks <= 1 or not self.counts(plan, now_s):
            return ticks
        return max(ticks, min(ticks << min(self.count, 16), ceil(LONGEST_DAMPED_S / tick_s)))

    def must_carry_rps(self, plan: Plan, now_s: float) -> float:
        """The rate that a smaller plan must carry: that for which the last one was too small, else 0."""
        return self.last_rps if self.counts(plan, now_s) else 0.0


UNDAMPED = FlapDamping()


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
