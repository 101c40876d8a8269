"""Breakpoints: the next rate, SLA and core budget above and below at which another plan is best."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import floor, log10

from ipa.model.errors import DeadlineError
from ipa.model.plan import Plan, StageConfig
from ipa.optimize.deadline import Deadline
from ipa.optimize.explanation import Flip, differences
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.solve import proved_plan

# Flip points are found this closely, relative.
PRECISION = 1e-4
# The first step away, which then doubles, and the number of steps: up to nine times, down to a ninth.
FIRST_STEP = 0.002
STEPS = 13
# Digits of the values tried: finer than the precision.
DIGITS = 6

# Kinds of change, from any change at all to the largest.
LEVELS = ANYTHING, CONFIGURATION, VARIANTS = "anything", "configuration", "variants"
UNCHANGED = {
    ANYTHING: "nothing changes",
    CONFIGURATION: "at most replicas change",
    VARIANTS: "no variant changes",
}
NEXT = {
    ANYTHING: "the next change of any kind",
    CONFIGURATION: "the next change of variants, batch sizes or cores of a replica",
    VARIANTS: "the next change of variants",
}
Signature = tuple[object, ...] | None


@dataclass(frozen=True, slots=True)
class Axis:
    """A quantity that may move: its name and unit, its present value, and the problem with another value."""

    quantity: str
    words: str
    unit: str
    now: float
    at: Callable[[float], PlanningProblem]


@dataclass(frozen=True, slots=True)
class FlipResult:
    """The flips, the values up to which nothing changes, and the searches not finished in time."""

    flips: tuple[Flip, ...]
    unchanged: tuple[str, ...]
    unfinished: tuple[str, ...]


def flips_of(problem: PlanningProblem, plan: Plan, peak_cores: float, deadline: Deadline) -> FlipResult:
    """The nearest flips found of an optimal plan that holds `peak_cores` at the most.

    Steps away from the present value double; the step in which the plan changes is halved until both ends,
    which are both solved, are within `PRECISION`. With the SLA or the budget a plan is feasible from one
    value on, so the first change of any kind is exact to that. A plan that appears and disappears between two
    steps is missed.
    """
    axes = _axes(problem, plan, peak_cores)
    searches = [(axis, direction) for direction in ("above", "below") for axis in axes]
    # Without a budget there is none to raise.
    searches = [
        (axis, direction)
        for axis, direction in searches
        if not (axis.quantity == "cores" and direction == "above" and problem.bounds.cores is None)
    ]
    flips: list[Flip] = []
    unchanged: list[str] = []
    unfinished: list[str] = []
    for number, (axis, direction) in enumerate(searches):
        share = Deadline(deadline.remaining_s / (len(searches) - number))
        search = _Search(axis, direction, plan, share)
        flips.extend(search.flips())
        unchanged.extend(search.unchanged)
        unfinished.extend(search.unfinished)
    return FlipResult(tuple(flips), tuple(unchanged), tuple(unfinished))


def _axes(problem: PlanningProblem, plan: Plan, peak_cores: float) -> list[Axis]:
    bounds = problem.bounds
    return [
        Axis("rate_rps", "rate", "rps", problem.rate_rps, lambda value: replace(problem, rate_rps=value)),
        Axis("sla_s", "SLA", "s", problem.sla_s, lambda value: replace(problem, sla_s=value)),
        Axis(
            "cores",
            "core budget",
            "cores",
            peak_cores if bounds.cores is None else bounds.cores,
            lambda value: replace(problem, bounds=replace(bounds, cores=value)),
        ),
    ]


class _Search:
    """One quantity in one direction."""

    def __init__(self, axis: Axis, direction: str, plan: Plan, deadline: Deadline) -> None:
        self._axis = axis
        self._direction = direction
        self._plan = plan
        self._deadline = deadline
        self._known: dict[float, Plan] = {axis.now: plan}
        self.unchanged: list[str] = []
        self.unfinished: list[str] = []

    def flips(self) -> Iterator[Flip]:
        """The first change of each kind; a larger kind is not sought if there is no smaller one."""
        for what in LEVELS:
            found = self._flip(what)
            if found is None:
                return
            yield found

    def _flip(self, what: str) -> Flip | None:
        same, changed = self._axis.now, None
        try:
            for value in self._values():
                if self._changes(value, what):
                    changed = value
                    break
                same = value
            while changed is not None and abs(changed - same) > PRECISION * max(same, changed):
                middle = _short((same + changed) / 2)
                if self._changes(middle, what):
                    changed = middle
                else:
                    same = middle
        except DeadlineError:
            self.unfinished.append(self._late(what, same, changed))
        else:
            if changed is None:
                self.unchanged.append(f"{UNCHANGED[what]} {self._up_to(same)}")
        return None if changed is None else self._made(what, same, changed)

    def _changes(self, value: float, what: str) -> bool:
        return _signature(self._solved(value).configs, what) != _signature(self._plan.configs, what)

    def _values(self) -> list[float]:
        """The steps away from the present, and those solved for a smaller change, nearest first."""
        now, above = self._axis.now, self._direction == "above"
        ratios = [1 + FIRST_STEP * 2.0**step for step in range(STEPS)]
        steps = {_short(now * ratio if above else now / ratio) for ratio in ratios}
        return sorted((steps | set(self._known)) - {now}, reverse=not above)

    def _solved(self, value: float) -> Plan:
        if value not in self._known:
            self._known[value] = proved_plan(self._axis.at(value), self._deadline)
        return self._known[value]

    def _made(self, what: str, same: float, changed: float) -> Flip:
        axis = self._axis
        to = self._known[changed].summary
        sign = "≥" if self._direction == "above" else "≤"
        text = f"{axis.words} {sign} {changed:.10g} {axis.unit}: "
        if to is None:
            text += "nothing is feasible"
        else:
            assert self._plan.pas is not None and self._plan.cost_cores is not None
            cores = to.cost_cores - self._plan.cost_cores
            text += (
                f"{'; '.join(differences(self._plan.configs, to.configs))} "
                f"(PAS {to.pas - self._plan.pas:+.4f}, cores {cores:+.4g})"
            )
        return Flip(axis.quantity, self._direction, what, same, changed, to, text)

    def _up_to(self, value: float) -> str:
        to = "up to" if self._direction == "above" else "down to"
        article = "an" if self._axis.words == "SLA" else "a"
        return f"{to} {article} {self._axis.words} of {value:.4g} {self._axis.unit}"

    def _late(self, what: str, same: float, changed: float | None) -> str:
        axis = self._axis
        name = f"{NEXT[what]} {self._direction} the {axis.words} of {axis.now:.4g} {axis.unit}"
        if changed is None and same == axis.now:
            return name
        if changed is None:
            return f"{name} (none {self._up_to(same)})"
        return f"{name} more closely than between {same:.10g} and {changed:.10g}"


def _signature(configs: Sequence[StageConfig], what: str) -> Signature:
    """The part of a plan that is compared, None without a plan."""
    if not configs:
        return None
    if what == ANYTHING:
        return tuple(configs)
    if what == VARIANTS:
        return tuple((each.stage, each.variant) for each in configs)
    return tuple((each.stage, each.variant, each.batch_size, each.cores) for each in configs)


def _short(value: float) -> float:
    """The value in few digits."""
    return round(value, DIGITS - 1 - floor(log10(value)))
