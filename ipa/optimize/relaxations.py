"""What would make an infeasible problem feasible: one limit moved, as little as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import exp, floor, inf, log10

from ipa.model.errors import DeadlineError
from ipa.model.plan import Termination
from ipa.optimize.backends import exact
from ipa.optimize.deadline import Deadline
from ipa.optimize.options import Option, Program, build_program, evaluate
from ipa.optimize.problem import Problem

# Figures in the answer have so many digits, rounded to the side that is feasible.
DIGITS = 4
# Halvings of the rate before giving up: a millionth of what was asked.
HALVINGS = 20
# The largest rate is found this closely, relative.
RATE_PRECISION = 1e-5


@dataclass(frozen=True, slots=True)
class Relaxation:
    """A limit, the value it would need, and the problem with that value, which is feasible."""

    kind: str
    value: float
    text: str
    problem: Problem


def relaxations(problem: Problem, deadline: Deadline) -> tuple[Relaxation, ...]:
    """The single moves that help, each checked: SLA, cores, accuracy floor and rate, in this order.

    SLA and cores are the least, the floor is the highest that is feasible with all else as it is. The rate
    is the largest below the asked one as far as feasibility falls with the rate; it may not where every
    batch is larger than one, since those form faster at a higher rate. What time does not allow is left out.
    """
    found: list[Relaxation] = []
    try:
        for search in (_sla, _cores, _floor, _rate):
            found.extend(move for move in search(problem, deadline) if is_feasible(move.problem, deadline))
    except DeadlineError:
        return tuple(found)
    return tuple(found)


def is_feasible(problem: Problem, deadline: Deadline) -> bool:
    """Whether any plan meets the limits. DeadlineError where the time is too short to know."""
    program = build_program(problem)
    return _least(program, lambda option: option.latency_s, deadline) is not None


def _sla(problem: Problem, deadline: Deadline) -> Iterator[Relaxation]:
    program = replace(build_program(_with_sla(problem, LOOSE_SLA_S)), sla_s=inf)
    chosen = _least(program, lambda option: option.latency_s, deadline)
    if chosen is not None:
        value = max(_round(evaluate(program, chosen)[1], up=True), 10.0**-DIGITS)
        if value > problem.sla_s:
            text = f"SLA ≥ {value:g} s instead of {problem.sla_s:g} s"
            yield Relaxation("sla", value, text, _with_sla(problem, value))


def _cores(problem: Problem, deadline: Deadline) -> Iterator[Relaxation]:
    if problem.bounds.cores is None:
        return
    program = build_program(_with_bounds(problem, cores=None))
    chosen = _least(program, lambda option: option.cost_cores, deadline)
    if chosen is not None:
        value = _round(evaluate(program, chosen)[2], up=True)
        text = f"cores ≥ {value:g} instead of {problem.bounds.cores:g}"
        yield Relaxation("cores", value, text, _with_bounds(problem, cores=value))


def _floor(problem: Problem, deadline: Deadline) -> Iterator[Relaxation]:
    if problem.bounds.accuracy_floor is None:
        return
    program = build_program(_with_bounds(problem, accuracy_floor=TINY_FLOOR))
    chosen = _least(program, lambda option: -option.log_accuracy, deadline)
    if chosen is not None:
        value = _round(exp(evaluate(program, chosen)[3]), up=False)
        text = f"accuracy floor ≤ {value:g} instead of {problem.bounds.accuracy_floor:g}"
        yield Relaxation("accuracy_floor", value, text, _with_bounds(problem, accuracy_floor=value))


def _rate(problem: Problem, deadline: Deadline) -> Iterator[Relaxation]:
    high = problem.rate_rps
    low = high / 2
    for _ in range(HALVINGS):
        if is_feasible(replace(problem, rate_rps=low), deadline):
            break
        low, high = low / 2, low
    else:
        return
    while high - low > RATE_PRECISION * high:
        middle = (low + high) / 2
        if is_feasible(replace(problem, rate_rps=middle), deadline):
            low = middle
        else:
            high = middle
    # The boundary is where a replica more is needed, mostly a short number: try that before rounding down.
    for value in (_round(high, up=True), _round(high, up=False), _round(low, up=False)):
        moved = replace(problem, rate_rps=value)
        if value < problem.rate_rps and is_feasible(moved, deadline):
            yield Relaxation(
                "rate", value, f"rate ≤ {value:g} rps instead of {problem.rate_rps:g} rps", moved
            )
            return


# An SLA that nothing misses, for building all options.
LOOSE_SLA_S = 1e12
# A floor that only an accuracy of 0 misses, so that the options keep what they need to be ranked by accuracy.
TINY_FLOOR = 1e-300


def _with_sla(problem: Problem, sla_s: float) -> Problem:
    return replace(problem, sla_s=sla_s)


def _with_bounds(problem: Problem, **changes: float | None) -> Problem:
    return replace(problem, bounds=replace(problem.bounds, **changes))  # type: ignore[arg-type]


def _least(program: Program, use: Callable[[Option], float], deadline: Deadline) -> tuple[int, ...] | None:
    """The plan that takes least of something; None where there is no plan."""
    stages = tuple(
        tuple(replace(option, factor=1.0, value=-use(option)) for option in stage) for stage in program.stages
    )
    answer = exact.solve(replace(program, stages=stages, alpha=0.0), deadline)
    if answer.termination in (Termination.FEASIBLE, Termination.NO_SOLUTION_FOUND):
        raise DeadlineError("the time was too short to find what would be feasible")
    return answer.chosen or None


def _round(value: float, *, up: bool) -> float:
    """The value to DIGITS significant digits, towards the wanted side."""
    if value == 0:
        return 0.0
    scale = 10.0 ** (DIGITS - 1 - floor(log10(abs(value))))
    whole = value * scale
    nearest = round(whole)
    if abs(whole - nearest) > 1e-6:
        nearest = floor(whole) + (1 if up else 0)
    return float(f"{nearest / scale:.12g}")
