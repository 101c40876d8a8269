"""The saving of each shortcut of the planner: the same problems with it and without it, in one run.

An answer may not change without a shortcut; the time does. A shortcut that saves nothing is to be removed.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from math import inf
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np

from experiments.bench.cell import Cell
from experiments.bench.fleet import AMPLE_CORES, SHARE, member_of
from experiments.bench.fleet import CELL as FLEET_CELL
from experiments.bench.instances import instance
from experiments.bench.pipelines import NAMES, ROOT
from experiments.bench.race import SAME
from experiments.bench.render import aligned
from experiments.bench_fleet import random_fleet
from experiments.measured import PAGE, put
from experiments.sets.synthetic import synthetic_problem
from ipa.files import load_pipeline, load_profiles
from ipa.optimize import dominance, set_solve, solver_selection
from ipa.optimize import solve as solve_module
from ipa.optimize.backends import gurobi, highs, label_setting
from ipa.optimize.backends.label_setting import LabelSearch
from ipa.optimize.backends.labels import LabelExpansion
from ipa.optimize.deadline import Deadline
from ipa.optimize.fleet import master
from ipa.optimize.fleet.plan import Member, plan_fleet
from ipa.optimize.frontier import worth_program
from ipa.optimize.linear_program import Maximise, Milp
from ipa.optimize.options import full_program
from ipa.optimize.problem import Compat, PlanningProblem
from ipa.optimize.program import Program, evaluate
from ipa.optimize.set_solve import SetProblem, solve_set
from ipa.optimize.solve import solve
from ipa.policies.planning import planning_problem
from ipa.profiling.points import Allocation

# A busy machine gives a process a tenth of its time.
DEADLINE_S = 600.0
COMMAND = "make bench-planner"
HEAD = ["problems", "solver", "without", "time", "worst", "labels"]
REMARK = (
    "The first line of a group has the CPU time per problem, the slowest problem and the labels per problem; "
    "the others are multiples of these without one shortcut. All objectives are equal."
)
FLEET_HEAD = ["method", "pipelines", "s", "time", "s for the selection", "MB"]
FLEET_REMARK = "Three methods of planning a fleet, CPU time:"

Patch = tuple[Any, str, Any]


@dataclass(frozen=True, slots=True)
class Shortcut:
    """A part of the planner that only saves time, and the attributes to replace to do without it."""

    name: str
    replaced: tuple[Patch, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """Problems of one kind, the function that solves one for its objective, and the shortcuts it may take."""

    title: str
    solver: str
    problems: Sequence[Any]
    solve: Callable[[Any], float | None]
    shortcuts: Sequence[Shortcut]


def _same(program: Program) -> Program:
    return program


def _all_options(program: Program, deadline: Deadline) -> tuple[Program, tuple[Any, ...]]:
    return program, tuple(np.arange(len(stage)) for stage in program.stages)


NOTHING = Shortcut("nothing", ())
HOPELESS = Shortcut("filter by limits", ((dominance, "without_hopeless", _same),))
DOMINATED = Shortcut("dominance filter", ((dominance, "_without_dominated", lambda _, stage, *__: stage),))
ENUMERATION = Shortcut("exhaustive search of few plans", ((label_setting, "FEW", 0),))
PREFILTER = Shortcut(
    "prefilter before quantiles",
    ((solve_module, "narrow_program", lambda problem, _: full_program(problem)),),
)
SHARPEN = Shortcut("bound filter for MILP", ((solver_selection, "sharpen", _all_options),))
OF_SEARCH = (HOPELESS, DOMINATED)
OF_SETS = (
    Shortcut(
        "objective bound", ((set_solve.SetBounds, "upper", lambda _, __, labels: labels.rows[0] + inf),)
    ),
    Shortcut("dominance", ((set_solve, "undominated", lambda rows, _: np.arange(rows.shape[1])),)),
)
OF_FLEETS = (
    Shortcut("skipped searches", ((master.Searched, "ceiling", lambda _, shares, *__: shares + inf),)),
)


def cases(*, quick: bool) -> Iterator[Case]:
    """All cases."""
    count, pipelines = (2, 20) if quick else (30, 500)
    search = partial(_objective, "exact")
    for cell in (Cell(5, 10), Cell(10, 10), Cell(10, 20, 7, 4)):
        yield Case(str(cell), "exact", [instance(cell, seed) for seed in range(count)], search, OF_SEARCH)
    for cell in (Cell(3, 10, compat=Compat.TAIL), Cell(5, 10, compat=Compat.TAIL)):
        problems = [instance(cell, seed) for seed in range(count)]
        yield Case(str(cell), "exact", problems, search, (*OF_SEARCH, PREFILTER))
    for compat in (Compat.PAPER, Compat.TAIL):
        problems = list(chain.from_iterable(_of_pipelines(compat, 3 if quick else 20)))
        yield Case(
            f"IPA pipelines {compat.value}",
            "exact",
            problems,
            search,
            (HOPELESS, DOMINATED, ENUMERATION, PREFILTER),
        )
    for solver in ("highs", "gurobi"):
        cell = Cell(5, 10)
        problems = [instance(cell, seed) for seed in range(count)]
        yield Case(str(cell), solver, problems, partial(_objective, solver), (SHARPEN,))
    # Of larger ones the search without dominance needs more memory than a machine has.
    sets = [synthetic_problem(Random(seed), 8, 32) for seed in range(count)]
    yield Case("sets of 8 × 32 cores", "exact", sets, _of_set, OF_SETS)
    fleets = [_fleet(pipelines, first) for first in range(1 if quick else 4)]
    yield Case(f"fleets of {pipelines}", "exact", fleets, _of_fleet, OF_FLEETS)


def _objective(solver: str, problem: PlanningProblem) -> float | None:
    return solve(problem, solver, DEADLINE_S, explain=False).objective


def _of_set(problem: SetProblem) -> float | None:
    return solve_set(problem, deadline_s=DEADLINE_S).objective


def _of_pipelines(compat: Compat, rates: int) -> Iterator[list[PlanningProblem]]:
    for name in NAMES:
        first = planning_problem(
            load_pipeline(ROOT / "pipelines" / name / "pipeline.yaml"),
            load_profiles(ROOT / "profiles", name),
            2.0,
            compat=compat,
            allocation=Allocation.FREE,
        )
        yield [replace(first, rate_rps=float(1 + 2 * at)) for at in range(rates)]


Fleet = tuple[list[Member], float]


def _fleet(pipelines: int, number: int) -> Fleet:
    """Members of one of two kinds in turn, and a budget that is too small for all of their best plans."""
    members = random_fleet(pipelines, seed=number)
    if number % 2:
        members = [member_of(FLEET_CELL, number * pipelines + at) for at in range(pipelines)]
    return members, SHARE * plan_fleet(members, AMPLE_CORES, DEADLINE_S).cost_cores


def _of_fleet(fleet: Fleet) -> float | None:
    return plan_fleet(*fleet, DEADLINE_S).worth


@dataclass(slots=True)
class _Labels:
    """Counts the labels of every search."""

    count: int = 0

    def counting(self) -> Any:
        grow = LabelExpansion.grow

        def counted(expansion: LabelExpansion, *given: Any) -> Any:
            labels = grow(expansion, *given)
            self.count += len(labels)
            return labels

        return patch.object(LabelExpansion, "grow", counted)


def rows_of(case: Case) -> Iterator[list[str]]:
    """A row for each shortcut: CPU time, worst time and labels without it, as multiples of those with all.

    The first row has the milliseconds and labels with all. AssertionError if an objective changes.
    """
    ways = (NOTHING, *case.shortcuts)
    times_ms: dict[str, list[float]] = {way.name: [] for way in ways}
    labels = dict.fromkeys(times_ms, 0)
    counter = _Labels()
    case.solve(case.problems[0])
    with counter.counting():
        for number, problem in enumerate(case.problems):
            values: list[float | None] = []
            first = number % len(ways)
            for way in (*ways[first:], *ways[:first]):
                with ExitStack() as stack:
                    for target, name, other in way.replaced:
                        stack.enter_context(patch.object(target, name, other))
                    counter.count, begin = 0, time.process_time()
                    values.append(case.solve(problem))
                    times_ms[way.name].append(1000 * (time.process_time() - begin))
                    labels[way.name] += counter.count
            assert all(_agree(each, values[0]) for each in values), (case.title, number, values)
    spent = {name: sum(each) for name, each in times_ms.items()}
    count = len(case.problems)
    yield [
        *(case.title, case.solver, "–", f"{spent['nothing'] / count:.3g} ms"),
        *(f"{max(times_ms['nothing']):.3g} ms", f"{labels['nothing'] / count:.0f}"),
    ]
    for way in case.shortcuts:
        yield [
            *(case.title, case.solver, way.name, f"× {spent[way.name] / spent['nothing']:.2f}"),
            f"× {max(times_ms[way.name]) / max(times_ms['nothing']):.2f}",
            f"× {labels[way.name] / labels['nothing']:.2f}" if labels["nothing"] else "–",
        ]


def _agree(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= SAME * max(1.0, abs(other))


def fleet_rows(fleets: int, pipelines: int) -> Iterator[list[str]]:
    """The fleet planner beside the exact frontier of each pipeline and one choice among them.

    Of each way the seconds of CPU for a fleet, of these for the choice alone, and the memory that it took.
    AssertionError if the worths differ.
    """
    ways: dict[str, Callable[[Fleet], tuple[float, float]]] = {
        "column generation": lambda fleet: (_of_fleet(fleet) or 0.0, 0.0),
        "frontiers, HiGHS": partial(_by_frontiers, partial(_by_milp, highs.maximise)),
        "frontiers, Gurobi": partial(_by_frontiers, partial(_by_milp, gurobi.maximise)),
    }
    seconds = {name: [0.0, 0.0, 0.0] for name in ways}
    for number in range(fleets):
        fleet = _fleet(pipelines, number)
        worths = []
        for name, way in ways.items():
            begin = time.process_time()
            worth, chosen_s = way(fleet)
            spent = seconds[name]
            spent[0] += time.process_time() - begin
            spent[1] += chosen_s
            worths.append(worth)
            if not number:
                spent[2] = _peak_mb(partial(way, fleet))
        assert all(_agree(worth, worths[0]) for worth in worths), (number, worths)
    base_s = seconds["column generation"][0]
    for name, (whole_s, chosen_s, most_mb) in seconds.items():
        yield [
            *(name, str(pipelines), f"{whole_s / fleets:.3g}", f"× {whole_s / base_s:.1f}"),
            *(f"{chosen_s / fleets:.2g}" if chosen_s else "–", f"{most_mb:.1f}"),
        ]


def _peak_mb(work: Callable[[], object]) -> float:
    """The most memory that Python and NumPy held at a time for the work, in MB (2**20 bytes)."""
    tracemalloc.start()
    work()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / 2**20


Points = list[list[tuple[float, float]]]


def _by_frontiers(choose: Callable[[Points, float], float], fleet: Fleet) -> tuple[float, float]:
    """The worth of the fleet and the seconds for the choice, from all plans worth having of each pipeline."""
    members, budget_cores = fleet
    points = [
        [(cost, member.weight * worth) for cost, worth in _frontier(worth_program(member.problem))]
        for member in members
    ]
    begin = time.process_time()
    return choose(points, budget_cores), time.process_time() - begin


def _frontier(program: Program) -> list[tuple[float, float]]:
    """Cost and objective of every plan that none of at most its cores equals or exceeds, by rising cost."""
    plans, _ = LabelSearch(program, Deadline(DEADLINE_S)).undominated()
    totals = [evaluate(program, chosen) for chosen in plans.tolist()]
    points: list[tuple[float, float]] = []
    for cost, loss in sorted((round(each.cost, 9), -each.objective) for each in totals):
        if not points or -loss > points[-1][1]:
            points.append((cost, -loss))
    return points


def _by_milp(maximise: Maximise, points: Points, budget_cores: float) -> float:
    """The multiple-choice knapsack as one program: one binary a plan."""
    whole = list(chain.from_iterable(points))
    milp = Milp(len(whole), [worth for _, worth in whole], [1.0] * len(whole))
    first = 0
    for each in points:
        milp.add_row([(first + at, 1.0) for at in range(len(each))], 1.0, 1.0)
        first += len(each)
    milp.add_row([(at, cost / budget_cores) for at, (cost, _) in enumerate(whole)], -inf, 1.0)
    solution = maximise(milp, Deadline(DEADLINE_S))
    return sum(worth * value for worth, value in zip(milp.costs, solution.values, strict=True))


def run(out: Path, *, quick: bool, say: Callable[[str], None], page: Path = PAGE) -> int:
    """Measure, print, write `without.md`, and unless quick the tables of the page."""
    rows = list(chain.from_iterable(rows_of(case) for case in cases(quick=quick)))
    ways = list(fleet_rows(1, 10) if quick else fleet_rows(3, 100))
    lines = [REMARK, "", *aligned([HEAD, *rows]), "", FLEET_REMARK, "", *aligned([FLEET_HEAD, *ways]), ""]
    say("\n".join(lines))
    out.mkdir(parents=True, exist_ok=True)
    (out / "without.md").write_text("\n".join(lines), encoding="utf-8")
    if not quick:
        put(COMMAND, summary(rows, ways), page)
    return 0


def summary(rows: Sequence[Sequence[str]], ways: Sequence[Sequence[str]]) -> str:
    """A row for each case with its time, and with the multiple of it without each shortcut."""
    by_case: dict[tuple[str, str], list[Sequence[str]]] = {}
    for row in rows:
        by_case.setdefault((row[0], row[1]), []).append(row)
    table = [["problems", "solver", "time, worst", "time without"]]
    for (title, solver), (whole, *without) in by_case.items():
        multiples = ", ".join(f"{name} {time}" for _, _, name, time, *_ in without)
        table.append([title, solver, f"{whole[3]}, {whole[4]}", multiples])
    fleets = "; ".join(f"{way[0]} {way[2]} s, {way[5]} MB" for way in ways)
    return "\n".join([*aligned(table), "", f"{FLEET_REMARK} {fleets}."])
