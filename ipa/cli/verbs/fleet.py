"""`ipa fleet`: the best plans of many pipelines under one budget of cores."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from ipa.cli.options.planning import ALLOCATION, COMPAT, OBJECTIVE, PIPELINES_DIR, PROFILES_DIR
from ipa.cli.output import OUTPUT, Output, printed, printer
from ipa.cli.plans.question import Question, problem_of
from ipa.model.errors import Problem as Fault
from ipa.model.errors import UsageError
from ipa.settings import Settings

if TYPE_CHECKING:
    from ipa.optimize.fleet.plan import Fleet

N = TypeVar("N", int, float)

FLEET = typer.Argument(metavar="PIPELINE=RATE", help="pipelines, each with its requests a second")


def fleet(
    pipelines: list[str] = FLEET,
    *,
    cores: float = typer.Option(..., "--cores", help="budget of cores for all pipelines together"),
    weight: list[str] = typer.Option(
        [], "--weight", metavar="PIPELINE=W", help="weight of a pipeline's objective; 1 if not given"
    ),
    rank: list[str] = typer.Option(
        [], "--class", metavar="PIPELINE=K", help="priority of a pipeline, higher first; 0 if not given"
    ),
    objective: str | None = OBJECTIVE,
    compat: str = COMPAT,
    allocation: str = ALLOCATION,
    deadline_s: float | None = typer.Option(
        None, "--deadline", help="most seconds; IPA_SOLVER_DEADLINE_S if not given"
    ),
    output: Output = OUTPUT,
    pipelines_dir: Path | None = PIPELINES_DIR,
    profiles_dir: Path | None = PROFILES_DIR,
) -> None:
    """Plan many pipelines together under one budget of cores.

    Exit code 3: the budget is below the cheapest plans, and how many cores are missing.
    """
    if not 0 < cores < inf:
        raise UsageError(f"--cores must be above 0 and finite, not {cores:g}")
    if deadline_s is not None and not deadline_s > 0:
        raise UsageError(f"--deadline must be above 0 seconds, not {deadline_s:g}")
    rates = parse_pairs("PIPELINE=RATE", pipelines, float)
    weights = parse_pairs("--weight", weight, float, known=rates)
    classes = parse_pairs("--class", rank, int, known=rates)
    questions = [
        Question(name, objective, compat, allocation, None, pipelines_dir, profiles_dir) for name in rates
    ]
    planned = plan_asked(
        questions,
        list(rates.values()),
        [weights.get(name, 1.0) for name in rates],
        [classes.get(name, 0) for name in rates],
        cores,
        Settings.from_env().solver_deadline_s if deadline_s is None else deadline_s,
    )
    if not printed(output, planned.to_json()):
        from ipa.cli.views.plan_text import print_fleet

        print_fleet(planned, printer(output))


def parse_pairs(
    option: str, texts: Sequence[str], kind: type[N], *, known: dict[str, float] | None = None
) -> dict[str, N]:
    """The numbers by pipeline of texts `PIPELINE=NUMBER`; UsageError lists all that is wrong with them.

    Numbers that need not be whole must be above 0 and finite. `known`: the pipelines that may be named.
    """
    found: dict[str, N] = {}
    faults = []
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            value = kind(number)
        except ValueError:
            name = ""
        if not name:
            faults.append(f"{text!r} is not PIPELINE={'a whole number' if kind is int else 'a number'}")
        elif kind is float and not 0 < value < inf:
            faults.append(f"{text!r}: the number must be above 0 and finite")
        elif name in found:
            faults.append(f"{name!r} is given twice")
        elif known is not None and name not in known:
            faults.append(f"{name!r} is not in the fleet: {', '.join(known)}")
        else:
            found[name] = value
    if faults:
        raise UsageError(f"{option} makes no sense", problems=[Fault(fault) for fault in faults])
    return found


def plan_asked(
    questions: Sequence[Question],
    rates_rps: Sequence[float],
    weights: Sequence[float],
    classes: Sequence[int],
    budget_cores: float,
    deadline_s: float,
) -> Fleet:
    """The plans of most worth together. Errors: those of `plan_together` and `planning_problem`."""
    from ipa.optimize.fleet.plan import Member, plan_together

    problems = [problem_of(q, rate_rps)[0] for q, rate_rps in zip(questions, rates_rps, strict=True)]
    members = tuple(
        Member(problem, weight, priority)
        for problem, weight, priority in zip(problems, weights, classes, strict=True)
    )
    return plan_together(members, budget_cores, deadline_s)
