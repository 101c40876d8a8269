"""`ipa plan --out` and `--detailed-exitcode`: the plan compared with the running configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import ipa
from ipa.cli.output import Output, printed, printer
from ipa.cli.planning.plan_kinds import PlanAnswer, PlanChoice, planned
from ipa.cli.plans.difference import difference, target_with
from ipa.cli.plans.plan_file import SavedPlan, inputs_of, write_saved
from ipa.cli.plans.question import Question
from ipa.cli.views.status_text import difference_table
from ipa.clients.base import PipelineClient
from ipa.clients.http import is_service
from ipa.files.lookup import find_pipeline
from ipa.files.plans import plan_in
from ipa.model.errors import UsageError
from ipa.model.plan import StageConfig, Termination
from ipa.settings import Settings

if TYPE_CHECKING:
    from rich.console import Console

# The times of the search are left out of the file, so that equal plans give equal files.
TIMES = frozenset({"solve_s"})


def propose(
    question: Question,
    rate_rps: float,
    compat: str | None,
    choice: PlanChoice,
    out: Path | None,
    output: Output,
) -> tuple[int, bool]:
    """The exit code of the search (0: there is a plan), and True if the plan differs from what runs.

    Prints the plan and the difference, and saves the plan to `out`. UsageError without --at.
    """
    from ipa.clients.http import client_at

    at = question.at
    if at is None:
        raise UsageError(
            "--out and --detailed-exitcode compare with the running configuration, so they need --at",
            hint="--at kubernetes, a manifest's FILE.yaml, or a service's URL.",
        )
    settings = Settings.from_env(pipelines_dir=question.pipelines_dir, profiles_dir=question.profiles_dir)
    with client_at(at, settings) as service:
        if is_service(at):
            name = question.pipeline
            found = _by_service(service, question, rate_rps, compat, choice)
        else:
            name = find_pipeline(question.pipeline, settings.pipelines_dir).name
            found = planned(replace(question, at="kubernetes"), rate_rps, compat, choice)
        status = service.status(name)
        inputs = inputs_of(service, settings, name)
    configs = _configs(found.values) if not found.exit_code else ()
    if not configs:
        _show(found, found.values, output)
        return found.exit_code, False
    change = difference(status, target_with(configs, found.values, rate_rps))
    _show(found, {**found.values, "difference": asdict(change)}, output)
    if output in (Output.TEXT, Output.MD):
        printer(output).print(difference_table(change))
    if out is not None:
        saved = SavedPlan(
            pipeline=name,
            at=at,
            revision=change.revision,
            rate_rps=rate_rps,
            solver=found.values["solver"],
            version=ipa.__version__,
            inputs=inputs,
            plan=_timeless(found.values),
            configs=configs,
        )
        write_saved(out, saved)
        if output in (Output.TEXT, Output.MD):
            until = f"its files and revision {change.revision} stay" if change.revision else "its files stay"
            typer.echo(f"Saved {out}: valid while {until}. Carry it out with `ipa apply {out}`.")
    return 0, change.changed


def _by_service(
    service: PipelineClient, question: Question, rate_rps: float, compat: str | None, choice: PlanChoice
) -> PlanAnswer:
    """The plan of the service. UsageError for options that a service does not take."""
    given = {
        "--compat": compat,
        "--solver": question.solver,
        "--running": choice.running,
        "--max-predictors": choice.max_predictors,
        "--sets": choice.sets,
        "--allocation": None if question.allocation == "free" else question.allocation,
    }
    refused = [option for option, value in given.items() if value is not None]
    if refused:
        raise UsageError(
            f"{', '.join(refused)}: a service plans by its own settings",
            hint="Leave it out, or plan with --at kubernetes.",
        )
    values = service.plan(question.pipeline, rate_rps, question.objective)

    def show(console: Console) -> None:
        if not values["stages"]:
            console.print(f"No plan: {values['termination']}", markup=False)
        for move in values["relaxations"]:
            console.print(f"  Feasible with {move}.", markup=False)

    return PlanAnswer(values, show, Termination(values["termination"]))


def _configs(values: Mapping[str, Any]) -> tuple[StageConfig, ...]:
    """The configurations of the plan; UsageError for a set, which only a policy carries out."""
    if "stages" not in values:
        raise UsageError(
            "a set of variants is not carried out by hand, so it cannot be saved or compared",
            hint="Add --no-sets, or let the policy infadapter carry sets out.",
        )
    plan = plan_in(values, "the plan")
    return plan.shared or plan.single


def _show(found: PlanAnswer, values: Mapping[str, Any], output: Output) -> None:
    if not printed(output, values):
        found.show(printer(output))


def _timeless(value: Any) -> Any:
    """The values without times of the search, at any depth."""
    if isinstance(value, Mapping):
        return {key: _timeless(entry) for key, entry in value.items() if key not in TIMES}
    return [_timeless(entry) for entry in value] if isinstance(value, list | tuple) else value
