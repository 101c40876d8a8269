"""From a problem to a plan: build, solve, break ties, check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from math import exp, inf

from ipa.model.errors import DeadlineError, LicenceError, SolverError, UsageError
from ipa.model.plan import Plan, StagePlan, Termination
from ipa.optimize.backends import exact
from ipa.optimize.backends.answer import Answer
from ipa.optimize.bymilp import Maximise, by_milp
from ipa.optimize.deadline import Deadline
from ipa.optimize.options import Option, Program, build_program, evaluate
from ipa.optimize.problem import Compat, Problem
from ipa.optimize.relaxations import relaxations
from ipa.optimize.verify import verify
from ipa.queueing.capacity import utilisation_ratio
from ipa.queueing.chain import chain_latency_s
from ipa.queueing.formation import formation_wait_s

Backend = Callable[[Program, Deadline], Answer]

# A new solver is one file in backends/ and one word here.
BACKENDS = ("gurobi", "highs", "exact")
AUTO = "auto"
SOLVERS = (AUTO, *BACKENDS)

# Two proofs of the best objective that differ by more than this (relative above 1) contradict each other.
CONTRADICTION = 1e-6
NO_BOUND = 1e100

PROVED = frozenset({Termination.OPTIMAL, Termination.INFEASIBLE})


def solve(problem: Problem, solver: str = AUTO, deadline_s: float = 5.0, *, explain: bool = True) -> Plan:
    """The best plan for the problem, checked by `verify`.

    Of plans with equal objectives it is the one of the lowest cost, then the lowest latency, then the first
    by names, whichever solver is used. `auto` takes Gurobi where its licence covers the model, else HiGHS;
    should that not be done in half of the time, label setting has the other half; the note says which and
    why. An infeasible problem gives a plan that says so, with what would make it feasible unless `explain`
    is false.

    Errors: UsageError (no such solver), LicenceError (Gurobi asked for by name and refused), SolverError.
    """
    if solver not in SOLVERS:
        raise UsageError(f"there is no solver {solver!r}", hint=f"Use one of: {', '.join(SOLVERS)}")
    deadline = Deadline(deadline_s)
    program = build_program(problem)
    used, answer, notes = _run(program, solver, deadline)
    if used != "exact":
        answer = _break_ties(program, used, answer, deadline)
    solve_s = deadline.elapsed_s
    notes = [note for note in (*notes, answer.note) if note]
    plan = _plan(problem, program, used, answer)
    if plan.termination is Termination.INFEASIBLE and explain:
        moves = relaxations(problem, deadline)
        plan = replace(plan, relaxations=tuple(move.text for move in moves))
        if deadline.passed:
            notes.append("the time was up before all was tried that could make it feasible")
        elif not moves:
            notes.append("no single limit moved alone makes it feasible")
    if problem.compat is Compat.IPA_ARTIFACT and plan.stages:
        notes.append(_released_note(problem, plan))
    plan = replace(plan, solve_s=solve_s, note="; ".join(notes))
    verify(problem, plan)
    return plan


def _run(program: Program, solver: str, deadline: Deadline) -> tuple[str, Answer, list[str]]:
    """The solver that answered, its answer, and the reasons for the choice."""
    if solver != AUTO:
        return solver, _backend(solver)(program, deadline), []
    share = Deadline(deadline.remaining_s / 2)
    try:
        used, why = "gurobi", "auto: gurobi, its licence covers the model"
        answer = _backend(used)(program, share)
    except LicenceError as refusal:
        used, why = "highs", f"auto: highs, since {refusal.message}"
        answer = _backend(used)(program, share)
    if answer.termination in PROVED:
        return used, answer, [why]
    second = exact.solve(program, deadline)
    if second.termination in PROVED or _reached(program, second) > _reached(program, answer):
        return "exact", second, [why, f"then exact, since {used} was not done in half of the time"]
    return used, answer, [why, "the time was up before it was proved best"]


def _reached(program: Program, answer: Answer) -> float:
    return evaluate(program, answer.chosen)[0] if answer.chosen else -inf


def _backend(name: str) -> Backend:
    """The solver's module is imported only when it is used."""
    if name == "exact":
        return exact.solve
    maximise: Maximise = import_module(f"ipa.optimize.backends.{name}").maximise
    return partial(by_milp, maximise)


def _break_ties(program: Program, solver: str, answer: Answer, deadline: Deadline) -> Answer:
    """The same answer with the first of the equally good plans.

    The solver's objective is so sharp a bound that label setting needs little beside it. It also looks over
    the solver's shoulder: SolverError where a plan is better than the solver's bound allows.
    """
    if answer.termination is not Termination.OPTIMAL:
        return answer
    objective = evaluate(program, answer.chosen)[0]
    try:
        # It may find none where the solver's plan uses a limit to the last bit; `verify` judges that plan.
        chosen = exact.best_at_least(program, objective, deadline) or answer.chosen
    except DeadlineError:
        return replace(answer, note="the time was up before ties were broken")
    better = evaluate(program, chosen)[0]
    if better - objective > CONTRADICTION * max(1.0, abs(objective)):
        raise SolverError(f"{solver} calls {objective!r} optimal, but {better!r} is feasible")
    return replace(answer, chosen=chosen)


def _plan(problem: Problem, program: Program, solver: str, answer: Answer) -> Plan:
    plan = Plan(
        pipeline=problem.pipeline,
        rate_rps=problem.rate_rps,
        termination=answer.termination,
        solver=solver,
        objective=None,
        bound=_known(answer.bound),
        gap=None,
        pas=None,
        cost_cores=None,
        latency_s=None,
        sla_s=problem.sla_s,
        solve_s=0.0,
        stages=(),
        objective_name=problem.objective.name,
    )
    if not answer.chosen:
        return plan
    objective, _, cores, log_pas = evaluate(program, answer.chosen)
    options = [stage[index] for stage, index in zip(program.stages, answer.chosen, strict=True)]
    stages = tuple(_stage_plan(problem, index, option) for index, option in enumerate(options))
    bound, gap = _bound_and_gap(answer, objective)
    return replace(
        plan,
        objective=objective,
        bound=bound,
        gap=gap,
        pas=exp(log_pas),
        cost_cores=cores,
        latency_s=chain_latency_s((stage.latency_s, stage.queue_delay_s) for stage in stages),
        stages=stages,
    )


def _bound_and_gap(answer: Answer, objective: float) -> tuple[float | None, float | None]:
    """The bound, never below what was reached, and its distance to it (relative above 1)."""
    known = _known(answer.bound)
    if known is None:
        return None, None
    bound = max(known, objective)
    if answer.termination is Termination.OPTIMAL and bound - objective <= CONTRADICTION * max(
        1.0, abs(objective)
    ):
        bound = objective
    return bound, (bound - objective) / max(1.0, abs(objective))


def _known(bound: float | None) -> float | None:
    """The bound, None where the solver only says that it has none yet (infinity, 1e100 in Gurobi)."""
    return bound if bound is not None and abs(bound) < NO_BOUND else None


def _stage_plan(problem: Problem, index: int, option: Option) -> StagePlan:
    point = option.point
    rate_rps = problem.rate_rps * problem.items[index]
    return StagePlan(
        stage=problem.stages[index].name,
        variant=point.variant,
        batch_size=point.batch_size,
        cores=point.cores,
        replicas=option.replicas,
        rate_rps=rate_rps,
        capacity_rps=point.capacity_rps,
        latency_s=option.service_s,
        queue_delay_s=option.wait_s,
        utilisation_ratio=utilisation_ratio(rate_rps, point.capacity_rps, option.replicas),
        accuracy=point.accuracy,
    )


def _released_note(problem: Problem, plan: Plan) -> str:
    """What the latency of a plan under the released semantics is, and what it would be by the paper."""
    paper_s = chain_latency_s(
        (planned.latency_s, formation_wait_s(planned.batch_size, planned.rate_rps, stage.batch_timeout_s))
        for planned, stage in zip(plan.stages, problem.stages, strict=True)
    )
    return (
        "ipa-artifact: queue_delay_s is the released term, never above 0, and latency_s the sum that "
        f"the released constraint holds below the SLA; with the wait as the paper charges it: {paper_s:.4g} s"
    )
