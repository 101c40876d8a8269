"""The accuracy-cost frontier of a pipeline before and after a change, as lines of the comment."""

from __future__ import annotations

from collections.abc import Sequence

from ipa.report.marked import rows_of
from ipa.report.review.result import SAME_CORES, Reviewed, ReviewFrontier, ReviewSide
from ipa.report.review.words import NOTHING, accuracy, changed

# If there are more rows, these are spread over all; the JSON output has every one.
MOST_ROWS = 12


def frontier_lines(reviewed: Reviewed) -> list[str]:
    """The table: the highest accuracy within each cost; a row for each plan of either side."""
    sides = [reviewed.before, reviewed.after]
    known = [side.frontier for side in sides if side is not None and side.frontier is not None]
    if not known:
        return []
    at = f"{known[-1].rate_rps:.4g} rps ({known[-1].label})"
    unknown = [each.why for each in known if each.why]
    if unknown:
        return [f"The frontier of accuracy and cost at {at} is unknown: {unknown[0]}."]
    before, after = (None if side is None else side.frontier for side in sides)
    # In money only if both sides have prices.
    in_money = all(spot.cost_usd_per_hour is not None for each in known for spot in each.spots)
    costs = _costs(known, in_money=in_money)
    if not costs:
        return [f"Nothing is feasible at {at}, at any cost within the limits."]
    chosen = [_chosen(side, in_money=in_money) for side in sides]
    shown = _spread(costs, [cost for cost in chosen if cost is not None])
    heads = (f"{'USD/h' if in_money else 'cores'}, at {at}", "most accurate (PAS)", "chosen")
    rows = [
        (f"{cost:.4g}", _pas(before, after, cost, in_money=in_money), _marks(chosen, cost)) for cost in shown
    ]
    left = len(costs) - len(shown)
    lines = rows_of(heads, rows)
    return [*lines, "", f"{left} more are in the JSON output."] if left > 0 else lines


def _costs(known: Sequence[ReviewFrontier], *, in_money: bool) -> list[float]:
    """The costs at which either side has another plan, rising; those that differ by rounding are one."""
    costs: list[float] = []
    for cost in sorted(spot.cost(in_money=in_money) for each in known for spot in each.spots):
        if not costs or cost - costs[-1] > SAME_CORES:
            costs.append(cost)
    return costs


def _chosen(side: ReviewSide | None, *, in_money: bool) -> float | None:
    plan = None if side is None else side.chosen()
    if plan is None:
        return None
    return plan.cost_usd_per_hour if in_money else plan.cost_cores


def _spread(costs: Sequence[float], kept: Sequence[float]) -> list[float]:
    """Some of them over the whole range, with the ends and those nearest to the ones to keep."""
    if len(costs) <= MOST_ROWS:
        return list(costs)
    wanted = {0, len(costs) - 1} | {_nearest(costs, cost) for cost in kept}
    room = MOST_ROWS - len(wanted)
    wanted |= {round(at * (len(costs) - 1) / (room + 1)) for at in range(1, room + 1)}
    return [costs[at] for at in sorted(wanted)]


def _nearest(costs: Sequence[float], cost: float) -> int:
    return min(range(len(costs)), key=lambda at: abs(costs[at] - cost))


def _pas(before: ReviewFrontier | None, after: ReviewFrontier | None, cost: float, *, in_money: bool) -> str:
    less, more = (
        None if each is None else each.pas_within(cost, in_money=in_money) for each in (before, after)
    )
    if before is not None and after is not None and (less is None) != (more is None):
        return (
            f"{NOTHING if less is None else accuracy(less)} → {NOTHING if more is None else accuracy(more)}"
        )
    return changed(less, more, accuracy)


def _marks(chosen: Sequence[float | None], cost: float) -> str:
    names = [
        name
        for name, at in zip(("before", "after"), chosen, strict=True)
        if at is not None and abs(at - cost) <= SAME_CORES
    ]
    return " and ".join(names)
