"""Solves what it is asked to, one JSON line a problem, and answers how long each took.

A process of its own for each engine keeps its memory apart, and a solver that ends the process ends no other.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import replace
from typing import Any

from experiments.bench.cell import Cell
from experiments.bench.instances import instance
from experiments.bench.memory import peak_mb, reset_peak
from ipa.model.errors import IpaError, LicenceError
from ipa.model.plan import Plan, Termination
from ipa.optimize.problem import PlanningProblem
from ipa.optimize.solve import solve

PROVED = frozenset({Termination.OPTIMAL, Termination.INFEASIBLE})
# Times the SLA: no plan is late then.
NO_SLA = 1e4


def main() -> None:
    """Answer requests until the input ends."""
    # Solvers write banners to the standard output; answers go where it was.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    engine = sys.argv[1]
    _warm_up(engine)
    reset_peak()
    before_mb = peak_mb()
    for line in sys.stdin:
        answer = answered(engine, json.loads(line))
        answer["peak_mb"] = peak_mb() - before_mb
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def answered(engine: str, request: dict[str, Any]) -> dict[str, Any]:
    """The result of the engine for the cell's problem of that seed, `failure` "" where it did well."""
    problem = instance(Cell.from_json(request["cell"]), request["seed"])
    if request.get("without_sla"):
        problem = replace(problem, sla_s=problem.sla_s * NO_SLA)
    return timed(problem, engine, request["deadline_s"])[0]


def timed(problem: PlanningProblem, engine: str, deadline_s: float) -> tuple[dict[str, Any], Plan | None]:
    """One solve from the problem to the verified plan, and that plan (None where the solve failed).

    A deadline that passed is a failure whose time counts.
    """
    failure, message, plan = "", "", None
    begin = time.perf_counter()
    try:
        plan = solve(problem, engine, deadline_s, explain=False)
    except LicenceError as error:
        failure, message = "licence", error.message
    except (IpaError, ArithmeticError, ValueError, LookupError, RuntimeError) as error:
        failure, message = "error", f"{type(error).__name__}: {error}"
    ms = 1000 * (time.perf_counter() - begin)
    if plan is not None and plan.termination not in PROVED:
        failure, message = "deadline", f"not proved best in {deadline_s:g} s"
    proved = plan is not None and plan.termination in PROVED
    answer = {
        "ms": ms,
        "failure": failure,
        "message": message,
        "proved": proved,
        "objective": plan.objective if plan is not None else None,
    }
    return answer, plan


def _warm_up(engine: str) -> None:
    """Import all that a solve needs, so that neither time nor memory of the first counts it."""
    timed(instance(Cell(2, 2, 2), 0), engine, 5.0)


if __name__ == "__main__":
    main()
