"""Remedies for an infeasible problem: one limit moved, as little as possible."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import floor, inf, log10

import numpy as np

from ipa.model.errors import DeadlineError
from ipa.model.pipeline import Pin
from ipa.model.plan import Termination
from ipa.model.resources import CORES, unit_of
from ipa.optimize.backends import label_setting
from ipa.optimize.columns import Array
from ipa.optimize.deadline import Deadline
from ipa.optimize.dominance_filter import reduce_program
from ipa.optimize.options import full_program
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.program import Options, Program, Totals, Weights, evaluate

# Digits of the figures in the answer, rounded to the feasible side.
DIGITS = 4
# Halvings of the rate before giving up: a millionth of the rate.
HALVINGS = 20
# The largest rate is found this closely, relative.
RATE_PRECISION = 1e-5
# The lowest latency likewise, if it is no sum.
LATENCY_PRECISION = 1e-5


@dataclass(frozen=True, slots=True)
class Relaxation:
    """A limit, the value it would need, and the problem with that value, which is feasible."""

    kind: str
    value: float
    text: str
    problem: PlanningProblem


def relaxations(problem: PlanningProblem, deadline: Deadline) -> tuple[Relaxation, ...]:
    """The single moves that help, each verified: SLA, cores, memory, cost ceiling, floor, pins and rate.

    They come in this order. SLA and cores are the least, the floor is the highest that is feasible with all
    else as it is. The rate is the largest below the given one as far as feasibility falls with the rate; it
    may not if every batch is larger than one, since those form faster at a higher rate. Moves that time does
    not allow are left out.
    """
    found: list[Relaxation] = []
    try:
        for search in (_sla, _ceilings, _floor, _pins, _rate):
            found.extend(move for move in search(problem, deadline) if is_feasible(move.problem, deadline))
    except DeadlineError:
        return tuple(found)
    return tuple(found)


def is_feasible(problem: PlanningProblem, deadline: Deadline) -> bool:
    """True if any plan meets the limits. DeadlineError if the time is too short to know."""
    return _least(full_program(problem), lambda stage: stage.cost_cores, deadline) is not None


def _sla(problem: PlanningProblem, deadline: Deadline) -> Iterator[Relaxation]:
    program = full_program(_with_sla(problem, LOOSE_SLA_S))
    value_s = _least_latency_s(program, deadline)
    if value_s is not None:
        value = max(_round(value_s, up=True), 10.0**-DIGITS)
        if value > problem.sla_s:
            text = f"SLA ≥ {value:g} s instead of {problem.sla_s:g} s"
            yield Relaxation("sla", value, text, _with_sla(problem, value))


def _least_latency_s(program: Program, deadline: Deadline) -> float | None:
    """The lowest latency of a plan, None if there is none.

    One path without spread: the plan of the least mean. Else by halving, since the latency is no sum.
    """
    if not program.has_spread and len(program.graph.paths) == 1:
        totals = _least(program, lambda stage: stage.mean_s, deadline)
        return None if totals is None else totals.latency_s
    totals = _least(program, lambda stage: stage.mean_s + np.sqrt(stage.spread_s2), deadline)
    if totals is None:
        return None
    low_s, high_s = 0.0, totals.latency_s
    while high_s - low_s > LATENCY_PRECISION * high_s:
        middle_s = (low_s + high_s) / 2
        sooner = _least(replace(program, sla_s=middle_s), lambda stage: stage.cost_cores, deadline)
        if sooner is None:
            low_s = middle_s
        else:
            high_s = sooner.latency_s
    return high_s


@dataclass(frozen=True, slots=True)
class _Ceiling:
    """A limit on something that adds up: its value, its users, and its name in words."""

    kind: str
    words: str
    limit: Callable[[PlanningProblem], float | None]
    moved: Callable[[PlanningProblem, float], PlanningProblem]
    use: Callable[[Options], Array]
    total: Callable[[Totals], float]


CORE_CEILINGS = (
    _Ceiling(
        CORES,
        "cores ≥ {:g} instead of {:g}",
        lambda problem: problem.bounds.cores,
        lambda problem, value: _with_limit(problem, CORES, value),
        lambda stage: stage.peak_cores,
        lambda totals: totals.peak_cores,
    ),
    _Ceiling(
        "max_cost_cores",
        "cost ceiling ≥ {:g} cores instead of {:g}",
        lambda problem: problem.objective.max_cost_cores,
        lambda problem, value: replace(problem, objective=replace(problem.objective, max_cost_cores=value)),
        lambda stage: stage.cost_cores,
        lambda totals: totals.cost_cores,
    ),
)


def _ceilings_of(problem: PlanningProblem) -> Iterator[_Ceiling]:
    """Those of cores, of each other limited resource, and of the cost."""
    yield CORE_CEILINGS[0]
    others = [name for name in problem.bounds.limits if name != CORES]
    yield from (_ceiling_of(name, at) for at, name in enumerate(others))
    yield CORE_CEILINGS[1]


def _ceiling_of(name: str, at: int) -> _Ceiling:
    """The limit of a resource other than cores, the program's budget of that number."""
    unit = "" if unit_of(name) == name else f" {unit_of(name)}"
    return _Ceiling(
        name,
        f"{name} ≥ {{:g}}{unit} instead of {{:g}}{unit}",
        lambda problem: problem.bounds.limits[name],
        # A limit without end is kept, so that the options have its use.
        lambda problem, value: _with_limit(problem, name, value),
        lambda stage: stage.peak(at),
        lambda totals: totals.peaks[at],
    )


def _ceilings(problem: PlanningProblem, deadline: Deadline) -> Iterator[Relaxation]:
    for ceiling in _ceilings_of(problem):
        limit = ceiling.limit(problem)
        if limit is None:
            continue
        totals = _least(full_program(ceiling.moved(problem, inf)), ceiling.use, deadline)
        value = limit if totals is None else _round(ceiling.total(totals), up=True)
        if value > limit:
            yield Relaxation(
                ceiling.kind, value, ceiling.words.format(value, limit), ceiling.moved(problem, value)
            )


def _floor(problem: PlanningProblem, deadline: Deadline) -> Iterator[Relaxation]:
    if problem.bounds.accuracy_floor is None:
        return
    program = full_program(_with_bounds(problem, accuracy_floor=TINY_FLOOR))
    # PAS as the objective: the accuracies are the factors.
    by_pas = replace(
        program,
        uses_product=True,
        term_floor=-inf,
        stages=tuple(stage.having(factor=stage.accuracy) for stage in program.stages),
    )
    totals = _best(by_pas.weighed(Weights(1.0, 0.0, 0.0)), deadline)
    if totals is not None:
        value = _round(totals.pas, up=False)
        if value < problem.bounds.accuracy_floor:
            text = f"accuracy floor ≤ {value:g} instead of {problem.bounds.accuracy_floor:g}"
            yield Relaxation("accuracy_floor", value, text, _with_bounds(problem, accuracy_floor=value))


def _pins(problem: PlanningProblem, deadline: Deadline) -> Iterator[Relaxation]:
    for index, stage in enumerate(problem.stages):
        if stage.pin != Pin():
            free = replace(stage, pin=Pin())
            moved = replace(problem, stages=(*problem.stages[:index], free, *problem.stages[index + 1 :]))
            yield Relaxation("pin", 0.0, f"stage {stage.name!r} without its pin", moved)


def _rate(problem: PlanningProblem, deadline: Deadline) -> Iterator[Relaxation]:
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
    # The boundary is usually the point where one more replica is needed, mostly a short number: try that
    # before rounding down.
    for value in (_round(high, up=True), _round(high, up=False), _round(low, up=False)):
        moved = replace(problem, rate_rps=value)
        if value < problem.rate_rps and is_feasible(moved, deadline):
            yield Relaxation(
                "rate", value, f"rate ≤ {value:g} rps instead of {problem.rate_rps:g} rps", moved
            )
            return


# An SLA that no option misses, for building all options.
LOOSE_SLA_S = 1e12
# A floor that only an accuracy of 0 misses, so that the options keep the numbers that rank them by accuracy.
TINY_FLOOR = 1e-300


def _with_sla(problem: PlanningProblem, sla_s: float) -> PlanningProblem:
    return replace(problem, sla_s=sla_s)


def _with_limit(problem: PlanningProblem, name: str, most: float) -> PlanningProblem:
    return replace(problem, bounds=problem.bounds.limited(name, most))


def _with_bounds(problem: PlanningProblem, **changes: float | None) -> PlanningProblem:
    return replace(problem, bounds=replace(problem.bounds, **changes))  # type: ignore[arg-type]


def _least(program: Program, use: Callable[[Options], Array], deadline: Deadline) -> Totals | None:
    """The totals of the plan that uses least of something that adds up; None without a plan."""
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
    """The value to DIGITS significant digits, towards the wanted side."""
    if value == 0:
        return 0.0
    scale = 10.0 ** (DIGITS - 1 - floor(log10(abs(value))))
    whole = value * scale
    nearest = round(whole)
    if abs(whole - nearest) > 1e-6:
        nearest = floor(whole) + (1 if up else 0)
    return float(f"{nearest / scale:.12g}")
