"""Choice of the solver, ties, time limits, and what a plan says of itself."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from math import inf
from pathlib import Path
from random import Random

import gurobipy
import pytest

from ipa.model.errors import LicenceError, SolverError, UsageError
from ipa.model.pipeline import AccuracyRule, Bounds, Edge, Objective
from ipa.model.plan import Termination
from ipa.model.profile import OperatingPoint
from ipa.optimize import solver_selection
from ipa.optimize.backends import label_setting
from ipa.optimize.backends.gurobi_licence import SERVICES, own_licence
from ipa.optimize.deadline import Deadline
from ipa.optimize.linear_program import Milp, build_milp, chosen_options, whole_ranges
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem
from ipa.optimize.program import Program, ProgramAnswer
from ipa.optimize.registry import BACKENDS
from ipa.optimize.solve import solve
from tests.fakes.planner_instances import build_program, chained, levels_agree, random_problem

# The licence that comes with pip covers so many variables.
PIP_LICENCE_VARIABLES = 2000


CHEAP = OperatingPoint("cheap", 0.5, 1, 1.0, 0.2, 100.0)


def trading_stage(name: str, options: int) -> StageProblem:
    """A stage with so many variants, each dearer and better than the last: none is dominated."""
    return StageProblem(
        name,
        tuple(
            OperatingPoint(f"v{rank:04}", 0.5 + 0.4 * rank / options, 1, 1.0 + rank / 64, 0.1, 100.0)
            for rank in range(options)
        ),
    )


def large_problem() -> PlanningProblem:
    """More variables than the pip licence covers, yet easy: sums of accuracies."""
    stages = chained([trading_stage(f"s{index}", 800) for index in range(3)])
    objective = Objective(alpha=20.0, beta=0.5, accuracy_rule=AccuracyRule.SUM)
    return PlanningProblem("large", 10.0, 5.0, stages, objective)


def tied_problem(*, beta: float = 0.5) -> PlanningProblem:
    """Each step in rank is worth what it costs: 2·(1/4) = 0.5·1 core. Every choice is equally good."""
    points = tuple(
        OperatingPoint(f"v{rank}", 0.5 + rank / 10, 1, 1.0 + rank, 0.3 - rank / 20, 100.0)
        for rank in range(5)
    )
    stages = chained([StageProblem("a", points), StageProblem("b", points)])
    objective = Objective(alpha=2.0, beta=beta, delta=0.0, accuracy_rule=AccuracyRule.RANK_SUM)
    return PlanningProblem("tied", 10.0, 5.0, stages, objective)


@pytest.fixture
def licensed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A licence file of the user's own: with the terms of the package's, so that small models are covered."""
    package = Path(gurobipy.__file__).parent / ".libs" / "gurobi.lic"
    own = shutil.copy(package, tmp_path / "own.lic")
    monkeypatch.setenv("GRB_LICENSE_FILE", str(own))
    return str(own)


@pytest.fixture(autouse=True)
def unlicensed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No licence of the machine's user counts."""
    for name in ("GRB_LICENSE_FILE", *SERVICES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_auto_takes_gurobi_where_a_licence_of_your_own_covers_the_model(
    licensed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for compat in (Compat.PAPER, Compat.TAIL):
        problem = replace(tied_problem(), compat=compat)
        plan = solve(problem)
        assert (plan.solver, plan.note) == ("gurobi", f"auto: gurobi, licensed by {licensed}")
        monkeypatch.delenv("GRB_LICENSE_FILE")
        without = solve(problem)
        monkeypatch.setenv("GRB_LICENSE_FILE", licensed)
        assert (without.solver, without.note) == (
            "exact",
            "auto: exact, since there is no Gurobi licence of your own",
        )
        assert without.stages == plan.stages


def test_a_licence_is_looked_for_where_gurobi_does(tmp_path: Path) -> None:
    def own(**environment: str) -> str:
        return own_licence(environment, tmp_path)

    assert own() == own(HOME=str(tmp_path), GRB_LICENSE_FILE=str(tmp_path / "missing.lic")) == ""
    assert own(GRB_WLSACCESSID="key") == "GRB_WLSACCESSID"
    installed = tmp_path / "opt" / "gurobi1300" / "linux64" / "gurobi.lic"
    installed.parent.mkdir(parents=True)
    installed.touch()
    assert own() == str(installed)
    home = tmp_path / "gurobi.lic"
    home.touch()
    assert own(HOME=str(tmp_path)) == own(GUROBI_HOME=str(tmp_path)) == str(home)
    assert own(GRB_LICENSE_FILE=f"{tmp_path / 'missing.lic'}:{installed}") == str(installed)


@pytest.fixture
def unsharpened(monkeypatch: pytest.MonkeyPatch) -> None:
    """The solvers get all options, as where no bound rules any out."""
    monkeypatch.setattr(solver_selection, "SHARPEN_FROM", 10**9)


@pytest.mark.usefixtures("unsharpened")
def test_auto_falls_to_label_setting_above_the_licence_and_says_why(licensed: str) -> None:
    problem = large_problem()
    assert len(linear(build_program(problem)).costs) > PIP_LICENCE_VARIABLES
    plan = solve(problem, deadline_s=60.0)
    assert plan.termination is Termination.OPTIMAL
    assert plan.solver == "exact"
    assert "licence does not cover 2400 variables" in plan.note
    assert plan.configs == solve(problem, "exact", 60.0).configs


@pytest.mark.parametrize("solver", ["gurobi", "highs"])
def test_what_no_best_plan_can_have_is_ruled_out_before_a_solver_begins(solver: str) -> None:
    problem = large_problem()
    program = build_program(problem)
    smaller, left = solver_selection.sharpen(program, Deadline(60.0))
    assert sum(len(stage) for stage in smaller.stages) < sum(len(stage) for stage in program.stages) / 4
    best = label_setting.solve(program, Deadline(60.0)).chosen
    assert all(at in stage.tolist() for at, stage in zip(best, left, strict=True))
    assert solve(problem, solver, 60.0).configs == solve(problem, "exact", 60.0).configs


@pytest.mark.usefixtures("unsharpened")
def test_gurobi_asked_for_by_name_above_its_licence_is_refused() -> None:
    program = build_program(large_problem())
    try:
        solve(large_problem(), "gurobi", 60.0)
    except LicenceError as error:
        assert f"{len(linear(program).costs)} variables" in str(error)
    else:
        pytest.skip("this machine's Gurobi licence covers large models")


def linear(program: Program) -> Milp:
    return build_milp(program, whole_ranges(program))


def out_of_time(_: object, program: Program, deadline: Deadline) -> ProgramAnswer:
    """A solver that found the dearest plan before its time was up."""
    return ProgramAnswer(Termination.FEASIBLE, tuple(len(stage) - 1 for stage in program.stages), 99.0)


def unproved(_: object, program: Program, deadline: Deadline) -> ProgramAnswer:
    """A solver that found the best plan and did not prove it before its time was up."""
    return replace(label_setting.solve(program, deadline), termination=Termination.FEASIBLE)


@pytest.mark.usefixtures("licensed")
@pytest.mark.parametrize("first", [out_of_time, unproved])
def test_auto_ends_with_label_setting_where_the_first_solver_takes_too_long(
    monkeypatch: pytest.MonkeyPatch, first: object
) -> None:
    monkeypatch.setattr(solver_selection, "by_milp", first)
    plan = solve(tied_problem(beta=1.0))
    assert (plan.solver, plan.termination) == ("exact", Termination.OPTIMAL)
    assert "then exact, since gurobi was not done" in plan.note


@pytest.mark.usefixtures("licensed")
def test_auto_keeps_the_better_plan_where_neither_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solver_selection, "by_milp", out_of_time)
    plan = solve(tied_problem(beta=1.0), deadline_s=0.0)
    assert (plan.solver, plan.termination, plan.bound) == ("gurobi", Termination.FEASIBLE, 99.0)
    assert "time ran out" in plan.note


def test_an_unknown_solver_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="auto, gurobi, highs, exact"):
        solve(tied_problem(), "cplex")


@pytest.mark.parametrize("solver", BACKENDS)
def test_ties_go_to_the_lowest_cost(solver: str) -> None:
    plan = solve(tied_problem(), solver)
    assert [config.variant for config in plan.configs] == ["v0", "v0"]
    assert plan.cost_cores == 2.0


@pytest.mark.parametrize("solver", BACKENDS)
def test_ties_of_equal_cost_go_to_the_lowest_latency_then_to_the_first_name(solver: str) -> None:
    slow = OperatingPoint("a-slow", 0.7, 1, 1.0, 0.2, 100.0)
    quick = OperatingPoint("b-quick", 0.7, 1, 1.0, 0.1, 100.0)
    twin = replace(quick, variant="c-quick")
    stage = StageProblem("only", (slow, twin, quick))
    plan = solve(PlanningProblem("p", 10.0, 1.0, (stage,), Objective()), solver)
    assert plan.configs[0].variant == "b-quick"


@pytest.mark.parametrize("solver", BACKENDS)
def test_swapped_choices_of_twin_stages_go_to_the_first_name(solver: str) -> None:
    cheap = OperatingPoint("cheap", 0.5, 1, 1.0, 0.1, 100.0)
    dear = OperatingPoint("dear", 0.9, 1, 2.0, 0.3, 100.0)
    stages = chained([StageProblem("a", (dear, cheap)), StageProblem("b", (dear, cheap))])
    objective = Objective(alpha=10.0, beta=0.1, accuracy_rule=AccuracyRule.SUM)
    # Room for one of the two stages to take the dear variant.
    plan = solve(PlanningProblem("p", 10.0, 0.4, stages, objective), solver)
    assert [config.variant for config in plan.configs] == ["cheap", "dear"]


def searched(program: Program) -> list[tuple[int, ...]]:
    """The best plan by trying all, and by label setting."""
    plain, bounded = (label_setting.LabelSearch(program, Deadline(60.0), bounded=it) for it in (False, True))
    return [plain.every(), bounded.run(-inf, None)[0]]


@pytest.mark.parametrize("quick_s", [0.09, 0.1, 0.11])
def test_a_tie_beside_the_longest_path_goes_to_the_first_name(quick_s: float) -> None:
    """Six cores allow one dear variant, and the longest path alone decides the latency."""
    quick, slow = (OperatingPoint("only", 0.9, 1, 1.0, each_s, 100.0) for each_s in (0.1, 0.9))
    dear = OperatingPoint("dear", 0.9, 1, 2.0, 0.1, 100.0)
    stages = (
        StageProblem("first", (quick,)),
        StageProblem("b", (CHEAP, dear), after=(Edge("first"),)),
        StageProblem("c", (CHEAP, replace(dear, latency_s=quick_s)), after=(Edge("b"),)),
        StageProblem("longest", (slow,), after=(Edge("first"),)),
        StageProblem("last", (quick,), after=(Edge("c"), Edge("longest"))),
    )
    objective = Objective(alpha=1.0, beta=0.0)
    program = build_program(PlanningProblem("p", 1.0, 10.0, stages, objective, Bounds(cores=6.0)))
    assert searched(program) == [(0, 0, 1, 0, 0)] * 2


@pytest.mark.parametrize("items", [1, 3])
def test_what_a_stage_sends_is_what_is_left_after_it(items: int) -> None:
    """Options of a stage may be left out by themselves: those before them for other items fit no more."""
    points = (replace(CHEAP, variant="one"), replace(CHEAP, variant="three"))
    stages = chained([StageProblem("a", points), StageProblem("b", points)], [{"one": 1.0, "three": 3.0}])
    program = build_program(PlanningProblem("p", 1.0, 10.0, stages, Objective(delta=0.0)))
    first, second = program.stages
    cut = replace(program, stages=(first, second.take(second.items == items)))
    assert all(levels_agree(cut, chosen) for chosen in searched(cut))


@pytest.mark.parametrize("solver", BACKENDS)
def test_the_batch_term_decides_though_it_is_tiny(solver: str) -> None:
    points = tuple(OperatingPoint("v", 0.9, batch, 1.0, 0.1 - batch / 1000, 100.0) for batch in (1, 2, 4))
    problem = PlanningProblem("p", 50.0, 1.0, (StageProblem("a", points),), Objective(alpha=100.0))
    plan = solve(problem, solver)
    assert plan.configs[0].batch_size == 1


def test_no_time_gives_no_solution_and_no_invention() -> None:
    plan = solve(tied_problem(), "exact", 0.0)
    assert plan.termination is Termination.NO_SOLUTION_FOUND
    assert plan.objective is None and plan.stages == ()
    assert "time" in plan.note


class Countdown(Deadline):
    """Time that is up after so many looks at it."""

    def __init__(self, looks: int) -> None:
        super().__init__(60.0)
        self.looks = looks

    @property
    def passed(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def test_time_up_in_a_later_pass_leaves_the_plan_so_far_with_its_gap(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(label_setting, "WIDTHS", (1, None))
    monkeypatch.setattr(label_setting, "FEW", 0)
    problem = random_problem(Random(0), stages=(4, 4), variants=(5, 5))
    best = solve(problem, "exact", 60.0)
    monkeypatch.setattr("ipa.optimize.solve.Deadline", lambda _: Countdown(10))
    plan = solve(problem, "exact")
    assert plan.termination is Termination.FEASIBLE
    assert best.objective is not None and plan.objective is not None and plan.bound is not None
    assert plan.objective <= best.objective <= plan.bound + 1e-9
    assert plan.gap is not None and plan.gap >= 0
    assert "before it was proved best" in plan.note


@pytest.mark.parametrize("solver", ["gurobi", "highs"])
def test_a_solver_out_of_time_gives_a_plan_that_holds_or_none(solver: str) -> None:
    plan = solve(random_problem(Random(4), stages=(6, 6), variants=(8, 8)), solver, 0.0)
    assert plan.termination in (Termination.NO_SOLUTION_FOUND, Termination.FEASIBLE, Termination.OPTIMAL)
    assert (plan.objective is None) == (plan.termination is Termination.NO_SOLUTION_FOUND)
    json.dumps(plan.to_json(), allow_nan=False)


def test_ties_unbroken_for_lack_of_time_are_said(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = tied_problem()
    answer = label_setting.solve(build_program(problem), Deadline(5.0))
    monkeypatch.setattr(solver_selection, "by_milp", lambda *_: answer)
    plan = solve(problem, "highs", 0.0)
    assert plan.termination is Termination.OPTIMAL
    assert "ties" in plan.note


def test_a_solver_that_stops_short_of_the_best_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = tied_problem(beta=1.0)
    program = build_program(problem)
    worst = tuple(len(stage) - 1 for stage in program.stages)
    wrong = ProgramAnswer(Termination.OPTIMAL, worst, None)
    monkeypatch.setattr(solver_selection, "by_milp", lambda *_: wrong)
    with pytest.raises(SolverError, match="is feasible"):
        solve(problem, "highs")


def test_a_choice_that_is_not_integral_is_refused() -> None:
    program = build_program(tied_problem())
    halves = [0.5, 0.5, 0.0, 0.0, 0.0] * 2
    with pytest.raises(SolverError, match="not integral"):
        chosen_options(program, halves)


def test_the_linear_program_grows_with_options_not_with_their_products() -> None:
    points = [trading_stage(f"s{index}", 70) for index in range(10)]
    problem = PlanningProblem(
        "p", 10.0, 50.0, chained(points), Objective(alpha=5.0, beta=0.01), Bounds(cores=1e3)
    )
    milp = linear(build_program(problem))
    assert len(milp.costs) <= 2 * 700
    assert len(milp.rows) <= 700 + 2 * 10 + 2


@pytest.mark.parametrize("solver", BACKENDS)
def test_a_plan_under_the_released_semantics_says_what_its_latency_is(solver: str) -> None:
    point = OperatingPoint("v", 0.9, 4, 1.0, 0.1, 100.0)
    stage = StageProblem("a", (point, replace(point, batch_size=2, cores=2.0)))
    problem = PlanningProblem("p", 10.0, 1.0, (stage,), Objective(), compat=Compat.IPA_ARTIFACT)
    plan = solve(problem, solver)
    assert plan.stages[0].queue_delay_s == pytest.approx(-0.1)
    assert plan.latency_s == pytest.approx(0.0)
    assert "as the paper charges it: 0.4 s" in plan.note


def test_the_first_pass_alone_would_miss_plans_that_the_second_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [random_problem(Random(seed), stages=(4, 6), variants=(4, 8)) for seed in range(30)]
    expected = [solve(problem, "exact", 60.0, explain=False).objective for problem in problems]
    monkeypatch.setattr(label_setting, "WIDTHS", (1, None))
    monkeypatch.setattr(label_setting, "FEW", 0)
    assert [solve(problem, "exact", 60.0, explain=False).objective for problem in problems] == expected


def test_a_plan_is_plain_json() -> None:
    data = solve(tied_problem()).to_json()
    assert {"pipeline", "rate_rps", "termination", "solver", "objective", "bound", "gap", "pas"} <= set(data)
    assert {"cost_cores", "latency_s", "sla_s", "solve_s", "stages"} <= set(data)
    names = {"stage", "variant", "batch_size", "cores", "replicas", "rate_rps", "capacity_rps"}
    assert names <= set(data["stages"][0])
    assert data["termination"] == "optimal"
    assert data["gap"] == 0.0 and data["bound"] == data["objective"]


def test_the_first_solver_of_auto_has_half_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def slow(program: Program, deadline: Deadline, *_: object) -> ProgramAnswer:
        given.append(deadline.remaining_s)
        return ProgramAnswer(Termination.NO_SOLUTION_FOUND)

    monkeypatch.setattr(label_setting, "solve", slow)
    monkeypatch.setattr(solver_selection, "by_milp", lambda _, program, deadline: slow(program, deadline))
    monkeypatch.setattr(solver_selection, "own_licence", lambda: "")
    program = build_program(random_problem(Random(3), (2, 2), (3, 3)))
    solver_selection.answer(program, solver_selection.AUTO, Deadline(1000.0))
    first, second = given
    assert 450 < first <= 500 < second <= 1000
