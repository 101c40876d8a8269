"""Up at once, down slowly: what is not needed now must pay for the change to it.

A plan for the highest rate of some ticks must have gained in these what the change to it costs. So a plan
that is much better waits for a few ticks, and one that is a little better must be for the peaks of minutes: a
load that only scatters makes few changes (lazy capacity provisioning: Lin, Wierman, Andrew, Thereska, 2013).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from ipa.model.plan import Plan

# The price of a change, in seconds of the whole objective.
CHANGE_S = 3.0
# The same if variants change in place, but the plan starts replicas.
STARTS_S = 8.0
# A smaller plan that a larger one replaces within the first was too small; each such doubles the cost of the
# next one, until none has been for the second.
TAKEN_BACK_S, FORGET_S = 600.0, 3600.0
MOST_DOUBLINGS = 6
# A load this far below the one that a plan was too small for is another load.
OTHER_LOAD_RATIO = 0.7


@dataclass(frozen=True, slots=True)
class Row:
    """The ticks in a row in which another plan was better.

    `plans`: those for the highest rate of the ticks since the tick of that number, the longest time first.
    """

    ticks: int = 0
    plans: tuple[tuple[int, Plan], ...] = ()

    def longer(self, plan: Plan) -> Row:
        """The row with one more tick."""
        lower = [since for since, each in self.plans if each.rate_rps <= plan.rate_rps]
        higher = tuple(each for each in self.plans if each[1].rate_rps > plan.rate_rps)
        return Row(self.ticks + 1, (*higher, (min(lower, default=self.ticks), plan)))


NO_ROW = Row()


@dataclass(frozen=True, slots=True)
class FlapDamping:
    """The smaller plans that were taken back: how many in a row, when the last one was, and for what rate.

    `shrunk_s`: the time of the last smaller plan, None once it was taken back.
    """

    count: int = 0
    at_s: float = 0.0
    rate_rps: float = 0.0
    shrunk_s: float | None = None

    def shrunk(self, now_s: float) -> FlapDamping:
        """The damping after a smaller plan was applied."""
        return replace(self, shrunk_s=now_s)

    def grown(self, rate_rps: float, now_s: float) -> FlapDamping:
        """The damping after a plan for that rate was applied at once, since the running one was too small."""
        if self.shrunk_s is None or now_s - self.shrunk_s > TAKEN_BACK_S:
            return replace(self, shrunk_s=None)
        before = self.count if now_s - self.at_s < FORGET_S else 0
        return FlapDamping(before + 1, now_s, rate_rps)

    def counts(self, plan: Plan, now_s: float) -> bool:
        """True if smaller plans were taken back lately, under a load like the plan's."""
        is_other = plan.rate_rps < OTHER_LOAD_RATIO * self.rate_rps
        return self.count > 0 and now_s - self.at_s < FORGET_S and not is_other

    def cost_ratio(self, plan: Plan, now_s: float) -> int:
        """The factor of the cost of the change to a smaller plan."""
        return 1 << min(self.count, MOST_DOUBLINGS) if self.counts(plan, now_s) else 1

    def must_carry_rps(self, plan: Plan, now_s: float) -> float:
        """The rate that a smaller plan must carry: that for which the last one was too small, else 0."""
        return self.rate_rps if self.counts(plan, now_s) else 0.0


UNDAMPED = FlapDamping()
