"""The planner under limits, ties, ill-scaled weights and wrong answers, against enumeration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from time import perf_counter

import pytest

from ipa.model.decision import Action
from ipa.model.errors import SolverError
from ipa.model.pipeline import Sla
from ipa.model.plan import Plan, Termination
from ipa.optimize import solver_selection
from ipa.optimize.backends import gurobi, highs
from ipa.optimize.deadline import Deadline
from ipa.optimize.linear_program import Maximise, Milp, MilpSolution
from ipa.optimize.problem import Compat, PlanningProblem
from ipa.optimize.registry import BACKENDS
from ipa.optimize.relaxations import relaxations
from ipa.optimize.solve import solve
from ipa.policies.ours import Ours
from ipa.policies.profiled import PlannerInputs, Profiled
from tests.fakes.planner_agreement import apart, planned
from tests.fakes.planner_brute import brute_force, size
from tests.fakes.planner_graphs import random_graph_problem
from tests.fakes.planner_instances import random_problem
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST, scenario
from tests.faults.table import Case
from tests.unit.optimize.test_planner_solvers import tied_problem
from tests.unit.optimize.test_planner_verify import infeasible_seeds, loosened, small

DEADLINE_S = 60.0
# The service's tick: a plan after it is of no use.
TICK_S = 5.0
# Objectives this close (relative above 1) are the same.
AGREE = 1e-6


def test_s1_the_explanation_against_enumeration(case: Case) -> None:
    """Each move alone makes it feasible, a little less does not, and no limit that would help is left out."""
    statements = right = 0
    seeds = infeasible_seeds(40)
    for seed in seeds:
        problem = small(seed)
        moves = {move.kind: move for move in relaxations(problem, Deadline(DEADLINE_S))}
        for move in moves.values():
            statements += 1
            feasible = brute_force(move.problem) is not None
            right += feasible and brute_force(loosened(move, 2e-3)) is None
        for kind, freed in _freed(problem):
            if kind not in moves:
                statements += 1
                right += brute_force(freed) is None
    case.seeds = f"{len(seeds)} infeasible of 0..{seeds[-1]}"
    case.note("statements", statements)
    case.equal("explanation correct %", 100.0 * right / statements, 100.0)


def _freed(problem: PlanningProblem) -> Iterator[tuple[str, PlanningProblem]]:
    """The problem without one of its limits."""
    yield "sla", replace(problem, sla_s=1e9)
    for kind in ("cores", "accuracy_floor"):
        if getattr(problem.bounds, kind) is not None:
            yield kind, replace(problem, bounds=replace(problem.bounds, **{kind: None}))


def test_s1_the_loop_holds_and_says_what_would_do(case: Case) -> None:
    tight = replace(PIPELINE, sla=Sla(0.03))
    within = Profiled(PlannerInputs(tight, PROFILES, solver="exact"), compat=Compat.PAPER)

    def planner(_pipeline: object, rate_rps: float, running: tuple[object, ...] = ()) -> Plan:
        return within.plan(tight, rate_rps, running)  # type: ignore[arg-type]

    made = scenario(5.0, policy=Ours(tight, planner))  # type: ignore[arg-type]
    decision = made.ticks(1)[-1]
    case.equal("reason", decision.reason.value, "hold.infeasible")
    assert decision.plan is not None and decision.plan.relaxations
    case.note("words", decision.plan.relaxations[0])
    assert decision.plan.relaxations[0] in decision.detail
    least_s = float(decision.plan.relaxations[0].split()[2])
    eased = replace(tight, sla=Sla(least_s))
    relaxed = Profiled(PlannerInputs(eased, PROFILES, solver="exact"), compat=Compat.PAPER)
    rate_rps = decision.plan.rate_rps
    case.equal("plan at that SLA", relaxed.plan(eased, rate_rps).termination.value, "optimal")
    case.equal("writes", len(made.workload.writes), 0)


def test_s1_the_loop_misses_the_sla_by_as_little_as_can_be_and_stays_there(case: Case) -> None:
    tight = replace(PIPELINE, sla=Sla(0.03))
    known = Profiled(PlannerInputs(tight, PROFILES, solver="exact"), compat=Compat.PAPER)
    policy = Ours(tight, known.plan, probe=known.probe)
    # Batches of eight wait to be full.
    slow = tuple(replace(config, batch_size=8) for config in SMALLEST)
    made = scenario(5.0, policy=policy, configs=slow, pipeline=tight)
    decisions = made.ticks(20)
    case.equal("writes", len(made.workload.writes), 1)
    runs = known.predict(made.workload.serving, 5.0)
    was = known.predict(slow, 5.0)
    assert runs is not None and was is not None
    case.note("predicted latency, s", f"{was.latency_s:.3g} → {runs.latency_s:.3g}")
    assert runs.latency_s < was.latency_s
    applied = next(it for it in decisions if it.action is Action.APPLY)
    assert "no plan carries" in applied.detail and "within 0.03 s" in applied.detail
    case.equal("reasons after it", {it.reason.value for it in decisions[-10:]}, {"hold.infeasible"})


def first_found(milp: Milp, deadline: Deadline) -> MilpSolution:
    """HiGHS's solution, given as one of a search that was not over."""
    solution = highs.maximise(milp, Deadline(DEADLINE_S))
    return replace(solution, termination=Termination.FEASIBLE, bound=(solution.bound or 0.0) + 1.0)


def test_s2_time_up_with_an_incumbent_and_without(case: Case) -> None:
    gaps = []
    problems = [random_problem(Random(seed), stages=(3, 3), variants=(4, 4)) for seed in range(60)]
    problems = [one for one in problems if solve(one, "exact", DEADLINE_S, explain=False).stages][:10]
    ladder, nothing = 0, MilpSolution(Termination.NO_SOLUTION_FOUND)
    for problem in problems:
        best = solve(problem, "exact", DEADLINE_S, explain=False)
        plan = solve(problem, "highs", DEADLINE_S, explain=False, solvers=lambda _: first_found)
        assert plan.termination is Termination.FEASIBLE
        assert plan.objective is not None and best.objective is not None and plan.bound is not None
        assert plan.objective <= best.objective + AGREE <= plan.bound + 2 * AGREE
        gaps.append(plan.gap)
        other = solve(problem, "auto", DEADLINE_S, explain=False, solvers=lambda _: lambda *_: nothing)
        ladder += other.solver == "exact" and other.configs == best.configs
    case.equal("incumbents reported with a gap", sum(gap is not None for gap in gaps), len(problems))
    case.equal("plans by label setting where none was found", ladder, len(problems))


@pytest.mark.live
def test_s2_no_decision_is_late(case: Case) -> None:
    """Hard problems with a hundredth of the time; late is what comes after the next tick."""
    late, took_s, without = 0, [], 0
    for seed in range(6):
        # More than is solved in a few milliseconds.
        hard = random_problem(Random(seed), stages=(8, 8), variants=(10, 10), batches=7)
        for solver in ("auto", *BACKENDS):
            began_s = perf_counter()
            plan = solve(hard, solver, 0.05, explain=False)
            took_s.append(perf_counter() - began_s)
            late += took_s[-1] > TICK_S
            without += not plan.stages
    case.seeds = "0..5"
    case.note("plans requested", len(took_s))
    case.note("without a plan", without)
    case.note("longest s, limit 0.05", max(took_s))
    case.equal("decisions late", late, 0)


@pytest.fixture
def unsharpened(monkeypatch: pytest.MonkeyPatch) -> None:
    """The solver gets all options, so that a wrong answer can be very wrong."""
    monkeypatch.setattr(solver_selection, "SHARPEN_FROM", 10**9)


def _flipped(values: tuple[float, ...], milp: Milp, random: Random) -> tuple[float, ...]:
    """Another choice for each stage: a stage's options are the columns of one row of ones."""
    made = list(values)
    for row in milp.rows:
        if (
            row.lower == row.upper == 1.0
            and set(row.coefficients) == {1.0}
            and max(row.columns) < milp.binaries
        ):
            for column in row.columns:
                made[column] = 0.0
            made[random.choice(row.columns)] = 1.0
    return tuple(made)


TAMPERED: dict[str, Callable[[MilpSolution, Milp, Random], MilpSolution]] = {
    "other options, called optimal": lambda solution, milp, random: replace(
        solution, values=_flipped(solution.values, milp, random)
    ),
    "halves": lambda solution, milp, random: replace(
        solution, values=tuple(value / 2 for value in solution.values)
    ),
    "NaN": lambda solution, milp, random: replace(solution, values=(float("nan"),) * len(solution.values)),
    "infinite": lambda solution, milp, random: replace(
        solution, values=(float("inf"),) * len(solution.values)
    ),
    "negative": lambda solution, milp, random: replace(
        solution, values=tuple(-value for value in solution.values)
    ),
    "too few columns": lambda solution, milp, random: replace(solution, values=solution.values[:1]),
    "a bound below it": lambda solution, milp, random: replace(solution, bound=(solution.bound or 0.0) - 1.0),
    "a bound that is NaN": lambda solution, milp, random: replace(solution, bound=float("nan")),
    "called infeasible": lambda solution, milp, random: MilpSolution(Termination.INFEASIBLE),
    "called optimal, without values": lambda solution, milp, random: MilpSolution(
        Termination.OPTIMAL, (), 1.0
    ),
}


@pytest.mark.usefixtures("unsharpened")
@pytest.mark.parametrize("how", TAMPERED)
def test_s6_a_tampered_answer_is_refused_or_right(case: Case, how: str) -> None:
    case.title += f": {how}"
    case.seeds = "0..39"
    refused = right = bad = 0
    for seed in range(40):
        problem = random_problem(Random(seed), stages=(2, 3), variants=(2, 4), batches=3)
        best = solve(problem, "exact", DEADLINE_S, explain=False)
        if not best.stages:
            continue
        random = Random(seed)

        def tampered(milp: Milp, deadline: Deadline, random: Random = random) -> MilpSolution:
            solution = highs.maximise(milp, deadline)
            return TAMPERED[how](solution, milp, random) if solution.values else solution

        solver: Maximise = tampered
        try:
            plan = solve(problem, "highs", DEADLINE_S, explain=False, solvers=lambda _, one=solver: one)
        except SolverError:
            refused += 1
            continue
        good = plan.termination is Termination.OPTIMAL and apart(plan.objective, best.objective) < AGREE
        right += good
        bad += not good
    case.note("refused", refused)
    case.note("correct despite the fault", right)
    case.equal("bad plans accepted", bad, 0)
    assert refused + right > 10


def test_s6_what_is_whole_but_for_rounding_is_rounded(case: Case) -> None:
    plan_count = wrong = 0
    for seed in range(30):
        problem = random_problem(Random(seed), stages=(2, 3), variants=(2, 4), batches=3)
        best = solve(problem, "exact", DEADLINE_S, explain=False)

        def nearly(milp: Milp, deadline: Deadline) -> MilpSolution:
            solved = highs.maximise(milp, deadline)
            return replace(solved, values=tuple(value - 3e-7 * (value > 0.5) for value in solved.values))

        plan = solve(problem, "highs", DEADLINE_S, explain=False, solvers=lambda _: nearly)
        plan_count += bool(plan.stages)
        wrong += plan.configs != best.configs
        wrong += any(not isinstance(stage.replicas, int) for stage in plan.stages)
    case.note("plans", plan_count)
    case.equal("plans not rounded right", wrong, 0)


def test_s7_ties_threads_and_seeds_make_no_difference(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    problems = [tied_problem(), *(random_problem(Random(seed), variants=(2, 4)) for seed in range(5))]
    plans: list[set[object]] = [set() for _ in problems]
    for threads, seed in ((1, 0), (2, 1), (2, 7), (1, 12345)):
        monkeypatch.setitem(gurobi.PARAMETERS, "Threads", threads)
        monkeypatch.setitem(gurobi.PARAMETERS, "Seed", seed)
        monkeypatch.setitem(highs.OPTIONS, "random_seed", seed)
        for at, problem in enumerate(problems):
            for solver in ("auto", *BACKENDS):
                plans[at].add(solve(problem, solver, DEADLINE_S, explain=False).configs)
    case.note("solves", 4 * len(problems) * 4)
    case.equal("distinct plans", max(len(one) for one in plans), 1)


def test_s7_no_flaps_from_ties(case: Case) -> None:
    """Each tick another solver plans; the load stands still."""
    solvers = ("exact", "highs", "gurobi")
    inputs = (PlannerInputs(PIPELINE, PROFILES, solver=name) for name in solvers)
    by_solver = [Profiled(each, compat=Compat.PAPER) for each in inputs]
    calls = 0

    def planner(pipeline: object, rate_rps: float, running: tuple[object, ...] = ()) -> Plan:
        nonlocal calls
        calls += 1
        plan = by_solver[calls % 3].plan(pipeline, rate_rps, running)  # type: ignore[arg-type]
        return replace(plan, solve_s=0.0)

    made = scenario(25.0, policy=Ours(PIPELINE, planner))  # type: ignore[arg-type]
    made.ticks(15)
    case.note("plans", calls)
    case.equal("writes after the first", len(made.workload.writes) - 1, 0)


def ill(problem: PlanningProblem, alpha: float, delta: float, rate: float) -> PlanningProblem:
    """The problem with weights and a rate of very different sizes."""
    objective = replace(problem.objective, alpha=alpha, delta=delta, max_replicas=None)
    faster = tuple(
        replace(
            stage,
            points=tuple(
                replace(point, capacity_rps=point.capacity_rps * rate / problem.rate_rps)
                for point in stage.points
            ),
        )
        for stage in problem.stages
    )
    bounds = replace(problem.bounds, max_replicas=None)
    return replace(problem, objective=objective, rate_rps=rate, stages=faster, bounds=bounds)


def test_s8_ill_scaled_weights_and_rates_against_enumeration(case: Case) -> None:
    checked = wrong = refused = 0
    worst = 0.0
    for seed in range(12):
        base = random_problem(Random(seed), stages=(1, 3), variants=(1, 3), batches=2)
        for alpha, delta, rate in ((1e9, 1e-9, 1e6), (1e9, 1e-9, base.rate_rps), (1e-6, 1e3, 1e6)):
            problem = ill(base, alpha, delta, rate)
            if size(problem) > 3000:
                continue
            best = brute_force(problem)
            for solver in BACKENDS:
                checked += 1
                try:
                    plan = solve(problem, solver, DEADLINE_S, explain=False)
                except SolverError:
                    refused += 1
                    continue
                difference = apart(best, plan.objective)
                worst = max(worst, difference if difference < 1 else 1.0)
                wrong += difference > AGREE
    case.seeds = "0..11"
    assert checked > 30
    case.note("plans", checked)
    case.note("refused", refused)
    case.note("largest relative difference", worst)
    case.equal("agreement %", 100.0 * (checked - wrong) / checked, 100.0)


@pytest.mark.live
def test_s8_ten_stages_of_twenty_variants_are_planned_or_refused(case: Case) -> None:
    took_s, gaps, without = [], [], 0
    for seed in range(3):
        base = random_problem(Random(seed), stages=(10, 10), variants=(20, 20), batches=5)
        problem = ill(replace(base, sla_s=base.sla_s * 3), 1e9, 1e-9, 1e6)
        began_s = perf_counter()
        plan = solve(problem, "auto", 2.0, explain=False)
        took_s.append(perf_counter() - began_s)
        if plan.gap is None:
            without += 1
        else:
            gaps.append(plan.gap)
    case.seeds = "0..2"
    case.at_most("solve s max, limit 2", max(took_s), 2.0 + TICK_S)
    case.note("largest gap", max(gaps, default=0.0))
    case.note("no plan", without)


def test_s9_the_engines_and_enumeration(case: Case) -> None:
    difference, faults, enumerated = 0.0, 0, 0
    for seed in range(25):
        random = Random(seed)
        problem = random_graph_problem(random) if seed % 2 else random_problem(random, (1, 3), (1, 3), 2)
        agreement = planned(problem, 3000)
        difference = max(difference, agreement.difference)
        faults += len(agreement.faults)
        enumerated += agreement.enumerated
    case.seeds = "0..24"
    case.note("enumerated", enumerated)
    case.equal("disagreements", faults, 0)
    case.at_most("largest difference of objective", difference, AGREE)


def test_s9_a_large_scale_of_the_objective_changes_no_plan(case: Case) -> None:
    """The same weights times a million: the same plan."""
    wrong = checked = 0
    for seed in range(10):
        problem = random_graph_problem(Random(seed))
        if size(problem) > 3000 or brute_force(problem) is None:
            continue
        own = problem.objective
        scaled = replace(
            own,
            alpha=own.alpha * 1e6,
            beta=own.beta * 1e6,
            delta=own.delta * 1e6,
            transition_per_core=own.transition_per_core * 1e6,
        )
        for solver in BACKENDS:
            checked += 1
            plans = [
                solve(replace(problem, objective=each), solver, DEADLINE_S, explain=False)
                for each in (own, scaled)
            ]
            wrong += plans[0].configs != plans[1].configs
    assert checked
    case.note("plans", checked)
    case.equal("plans that differ", wrong, 0)
