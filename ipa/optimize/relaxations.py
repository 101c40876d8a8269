"""The limits of a problem: the problem without one, and the smallest change of one that makes it feasible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import floor, inf, log10

from ipa.model.errors import DeadlineError
from ipa.model.pipeline import Pin
from ipa.model.plan import Termination
from ipa.model.resources import CORES, dimension
from ipa.optimize.backends import label_setting
from ipa.optimize.deadline import Deadline
from ipa.optimize.dominance import reduce_program
from ipa.optimize.options import full_program
from ipa.optimize.problem import Array, PlanningProblem
from ipa.optimize.program import Options, Program, Totals, Weights, evaluate

# Digits of the figures in the answer, rounded to the feasible side.
DIGITS = 4
# Halvings of the rate before giving up: a millionth of the rate.
HALVINGS = 20
# The largest rate, and a lowest latency that is no sum, are found this closely, relative.
PRECISION = 1e-5
# An SLA that no option misses, for building all options.
LOOSE_SLA_S = 1e12
# A floor that only an accuracy of 0 misses, so that the options keep the numbers that rank them by accuracy.
TINY_FLOOR = 1e-300

NAMES = {
    "sla": "the SLA",
    "cores": "the core budget",
    "memory": "the memory limit",
    "front": "the cores that router and queues need",
    "max_cost_cores": "the cost ceiling",
    "accuracy_floor": "the accuracy floor",
    "max_replicas": "the most replicas",
    "min_replicas": "the least replicas",
    "pin": "the pin",
}

# The value of a limit that the plan nearest to feasible needs; None if no plan meets the other limits.
Nearest = Callable[[Program, Deadline], float | None]


@dataclass(frozen=True, slots=True)
class ProblemLimit:
    """A limit of a problem by kind and stage, the problem without it, and how to change it if it is a number.

    `value` is the number, `at` makes the problem with another one, `words` describes such a change.
    """

    kind: str
    where: str
    free: PlanningProblem
    value: float = 0.0
    at: Callable[[float], PlanningProblem] | None = None
    words: str = ""
    nearest: Nearest | None = None
    is_floor: bool = False


def limit_name(kind: str, where: str) -> str:
    """The limit of that kind in words, of the named stage or of the pipeline."""
    return NAMES.get(kind, f"the limit of {kind}") + (f" of {where}" if where else "")


@dataclass(frozen=True, slots=True)
class Relaxation:
    """A limit, the value it would need, and the problem with that value, which is feasible."""

    kind: str
    value: float
    text: str
    problem: PlanningProblem


def relaxations(problem: PlanningProblem, deadline: Deadline) -> tuple[Relaxation, ...]:
    """The single changes that help, each verified: SLA, cores, memory, cost ceiling, floor, pins and rate.

    They come in this order. SLA and cores are the least, the floor is the highest, that is feasible with all
    other limits unchanged. The rate is the largest feasible one below the given one, found by halving:
    feasibility may not fall with the rate if every batch is larger than one, since batches form faster at a
    higher rate. Changes for which the time runs out are left out.
    """
    moves: list[Relaxation] = []
    try:
        for search in (_of_limits, _of_rate):
            moves.extend(move for move in search(problem, deadline) if is_feasible(move.problem, deadline))
    except DeadlineError:
        return tuple(moves)
    return tuple(moves)


def is_feasible(problem: PlanningProblem, deadline: Deadline) -> bool:
    """True if any plan meets the limits. DeadlineError if the time runs out before that is known."""
    return _least(full_program(problem), lambda stage: stage.cost_cores, deadline) is not None


def limits_of(problem: PlanningProblem) -> Iterator[ProblemLimit]:
    """Every limit of the problem."""
    bounds, objective = problem.bounds, problem.objective

    def bounded(**changes: object) -> PlanningProblem:
        return replace(problem, bounds=replace(bounds, **changes))  # type: ignore[arg-type]

    def weighed(most: float) -> PlanningProblem:
        return replace(problem, objective=replace(objective, max_cost_cores=most))

    def staged(at: int, **changes: object) -> PlanningProblem:
        stage = replace(problem.stages[at], **changes)  # type: ignore[arg-type]
        return replace(problem, stages=(*problem.stages[:at], stage, *problem.stages[at + 1 :]))

    def later(sla_s: float) -> PlanningProblem:
        return replace(problem, sla_s=sla_s)

    words = "SLA ≥ {:g} s instead of {:g} s"
    yield ProblemLimit("sla", "", later(LOOSE_SLA_S), problem.sla_s, later, words, _least_latency_s)
    numbers = {name: at for at, name in enumerate(name for name in bounds.limits if name != CORES)}
    for name in sorted(bounds.limits, key=lambda name: numbers.get(name, -1)):

        def limited(most: float, name: str = name) -> PlanningProblem:
            return replace(problem, bounds=bounds.limited(name, most))

        def use(stage: Options, number: int | None = numbers.get(name)) -> Array:
            return stage.peak_cores if number is None else stage.peak(number)

        unit = "" if name in (CORES, dimension(name).unit) else f" {dimension(name).unit}"
        words = f"{name} ≥ {{:g}}{unit} instead of {{:g}}{unit}"
        # A limit without end is kept, so that the options have its use.
        yield ProblemLimit(name, "", limited(inf), bounds.limits[name], limited, words, _least_of(use))
    if bounds.front is not None:
        yield ProblemLimit("front", "", bounded(front=None))
    if (most := objective.max_cost_cores) is not None:
        words = "cost ceiling ≥ {:g} cores instead of {:g}"
        least = _least_of(lambda stage: stage.cost_cores)
        yield ProblemLimit("max_cost_cores", "", weighed(inf), most, weighed, words, least)
    if (floor := bounds.accuracy_floor) is not None:
        words = "accuracy floor ≤ {:g} instead of {:g}"
        free = bounded(accuracy_floor=TINY_FLOOR)
        yield ProblemLimit(
            *("accuracy_floor", "", free, floor, lambda least: bounded(accuracy_floor=least), words),
            nearest=_most_pas,
            is_floor=True,
        )
    if bounds.max_replicas is not None or objective.max_replicas is not None:
        free = replace(bounded(max_replicas=None), objective=replace(objective, max_replicas=None))
        yield ProblemLimit("max_replicas", "", free)
    if bounds.min_replicas > 1:
        yield ProblemLimit("min_replicas", "", bounded(min_replicas=1))
    for at, stage in enumerate(problem.stages):
        own = stage.bounds
        if own.max_replicas is not None:
            yield ProblemLimit("max_replicas", stage.name, staged(at, bounds=replace(own, max_replicas=None)))
        if (own.min_replicas or 1) > 1:
            yield ProblemLimit("min_replicas", stage.name, staged(at, bounds=replace(own, min_replicas=None)))
        if stage.pin != Pin():
            yield ProblemLimit("pin", stage.name, staged(at, pin=Pin()))


def _of_limits(problem: PlanningProblem, deadline: Deadline) -> Iterator[Relaxation]:
    for limit in limits_of(problem):
        if limit.kind == "pin":
            yield Relaxation("pin", 0.0, f"stage {limit.where!r} without its pin", limit.free)
        if limit.at is None or limit.nearest is None:
            continue
        needed = limit.nearest(full_program(limit.free), deadline)
        if needed is None:
            continue
        value = _round(needed, up=not limit.is_floor)
        if limit.kind == "sla":
            value = max(value, 10.0**-DIGITS)
        if value < limit.value if limit.is_floor else value > limit.value:
            yield Relaxation(limit.kind, value, limit.words.format(value, limit.value), limit.at(value))


def _of_rate(problem: PlanningProblem, deadline: Deadline) -> Iterator[Relaxation]:
    high = problem.rate_rps
    low = high / 2
    for _ in range(HALVINGS):
        if is_feasible(replace(problem, rate_rps=low), deadline):
            break
        low, high = low / 2, low
    else:
        return
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        if is_feasible(replace(problem, rate_rps=middle), deadline):
            low = middle
        else:
            high = middle
    # The boundary is usually the point where one more replica is needed, mostly a short number: try that
    # before rounding down.
    for value in (_round(high, up=True), _round(high, up=False), _round(low, up=False)):
        moved = replace(problem, rate_rps=value)
        if value < problem.rate_rps and is_feasible(moved, deadline):
            text = f"rate ≤ {value:g} rps instead of {problem.rate_rps:g} rps"
            yield Relaxation("rate", value, text, moved)
            return


def _least_latency_s(program: Program, deadline: Deadline) -> float | None:
    """The lowest latency of a plan, None without one.

    On one path without spread: the plan of the least mean. Else by halving, since the latency is no sum.
    """
    totals = _least(program, lambda stage: stage.mean_s, deadline)
    if totals is None or (not program.has_spread and len(program.graph.paths) == 1):
        return None if totals is None else totals.latency_s
    low_s, high_s = 0.0, totals.latency_s
    while high_s - low_s > PRECISION * high_s:
        middle_s = (low_s + high_s) / 2
        sooner = _least(replace(program, sla_s=middle_s), lambda stage: stage.cost_cores, deadline)
        if sooner is None:
            low_s = middle_s
        else:
            high_s = sooner.latency_s
    return high_s


def _most_pas(program: Program, deadline: Deadline) -> float | None:
    """The highest accuracy of a plan, None without one: PAS as the objective."""
    by_pas = replace(
        program,
        uses_product=True,
        stages=tuple(stage.having(factor=stage.accuracy) for stage in program.stages),
    )
    totals = _best(by_pas.weighed(Weights(1.0, 0.0, 0.0)), deadline)
    return None if totals is None else totals.pas


def _least_of(use: Callable[[Options], Array]) -> Nearest:
    """A search for the least sum of `use`, which `_least` maximises with the sign reversed."""

    def nearest(program: Program, deadline: Deadline) -> float | None:
        totals = _least(program, use, deadline)
        return None if totals is None else -totals.objective

    return nearest


def _least(program: Program, use: Callable[[Options], Array], deadline: Deadline) -> Totals | None:
    """The totals of the plan with the least sum of `use`; None without a plan."""
    stages = tuple(stage.having(value=-use(stage)) for stage in program.stages)
    plain = replace(program, stages=stages, weights=Weights(0.0, 0.0, 0.0))
    return _best(plain, deadline)


def _best(program: Program, deadline: Deadline) -> Totals | None:
    """The totals of the best plan; None without a plan."""
    reduced = reduce_program(program)
    answer = label_setting.solve(reduced, deadline)
    if answer.termination in (Termination.FEASIBLE, Termination.NO_SOLUTION_FOUND):
        raise DeadlineError("the time was too short to find what would be feasible")
    return evaluate(reduced, answer.chosen) if answer.chosen else None


def _round(value: float, *, up: bool) -> float:
    """The value to DIGITS significant digits, rounded up or down."""
    if value == 0:
        return 0.0
    scale = 10.0 ** (DIGITS - 1 - floor(log10(abs(value))))
    whole = value * scale
    nearest = round(whole)
    if abs(whole - nearest) > 1e-6:
        nearest = floor(whole) + (1 if up else 0)
    return float(f"{nearest / scale:.12g}")
