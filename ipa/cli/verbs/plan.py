"""`ipa plan` and `ipa sweep`: the best configuration for a rate, or for many."""

from __future__ import annotations

from pathlib import Path

import typer

from ipa.cli.options import planning as options
from ipa.cli.options.parsing import parse_rates
from ipa.cli.options.plugins import SOLVER
from ipa.cli.output import OUTPUT, Output, printed, printer
from ipa.cli.plans.question import Question, plans
from ipa.cli.progress import progress
from ipa.model.exits import ExitCode


def plan(
    pipeline: str = options.PIPELINE,
    *,
    rate: float = typer.Option(..., "--rate", help="requests a second to serve"),
    objective: str | None = options.OBJECTIVE,
    compat: str | None = options.PLAN_COMPAT,
    allocation: str = options.ALLOCATION,
    solver: str | None = SOLVER,
    sets: bool | None = options.SETS,
    max_predictors: int | None = options.MAX_PREDICTORS,
    running: Path | None = options.RUNNING,
    at: str | None = options.PLAN_AT,
    out: Path | None = options.OUT,
    detailed: bool = options.DETAILED,
    output: Output = OUTPUT,
    pipelines_dir: Path | None = options.PIPELINES_DIR,
    profiles_dir: Path | None = options.PROFILES_DIR,
) -> None:
    """Show the best plan for a rate. Exit code 3: none is feasible, and what would be; 6: out of time.

    The file, --sets or --max-predictors choose a single configuration, a mixture, or a set of variants.
    --out saves the plan with digests of its inputs and the running revision: `ipa apply` refuses it once
    one of them has changed.
    """
    from ipa.cli.planning.plan_kinds import PlanChoice, planned

    question = Question(
        pipeline, objective, compat or "", allocation, solver, pipelines_dir, profiles_dir, at
    )
    choice = PlanChoice(sets, max_predictors, running)
    if out is not None or detailed:
        from ipa.cli.planning.plan_out import propose

        code, is_change = propose(question, rate, compat, choice, out, output)
        raise typer.Exit(code or (ExitCode.CHANGED if detailed and is_change else 0))
    found = planned(question, rate, compat, choice)
    if not printed(output, found.values):
        found.show(printer(output))
    if found.exit_code:
        raise typer.Exit(found.exit_code)


def sweep(
    pipeline: str = options.PIPELINE,
    *,
    rates: str = typer.Option(..., "--rates", help="rates, as 1:45, 1:45:2 (first:last:step) or 1,2,5"),
    objective: str | None = options.OBJECTIVE,
    compat: str = options.COMPAT,
    allocation: str = options.ALLOCATION,
    solver: str | None = SOLVER,
    at: str | None = options.AT,
    output: Output = OUTPUT,
    pipelines_dir: Path | None = options.PIPELINES_DIR,
    profiles_dir: Path | None = options.PROFILES_DIR,
) -> None:
    """Show the best plan for each of many rates; in JSON `objective` is null if none is feasible."""
    question = Question(pipeline, objective, compat, allocation, solver, pipelines_dir, profiles_dir, at)
    asked = parse_rates(rates)
    with progress("planning", len(asked)) as step:
        found = plans(question, asked, explain=False, step=step)
    if not printed(output, [each.to_json() for each in found]):
        from ipa.cli.views.plan_text import print_sweep

        print_sweep(found, printer(output))
