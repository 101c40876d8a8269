"""`ipa plan` and `ipa sweep`: the best configuration for a rate, or for many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import typer

from ipa.cli import completing
from ipa.cli.output import OUTPUT, Output, printed, printer
from ipa.cli.progress import Step, progress
from ipa.model.errors import DeadlineError, InfeasibleError, NotFoundError, UsageError
from ipa.model.exits import ExitCode
from ipa.model.on_seldon import at_cluster
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, Termination
from ipa.model.profile import StageProfile
from ipa.settings import Settings

if TYPE_CHECKING:
    from ipa.optimize.problem import PlanningProblem

# More rates than this in one sweep are a slip of the pen.
MOST_RATES = 10_000
EXIT_CODES = {
    Termination.INFEASIBLE: InfeasibleError.exit_code,
    Termination.NO_SOLUTION_FOUND: DeadlineError.exit_code,
}


E = TypeVar("E", bound=StrEnum)


PIPELINE = typer.Argument(
    metavar="PIPELINE",
    help="a name under the pipelines folder, or a pipeline.yaml",
    autocompletion=completing.pipelines,
)
OBJECTIVE = typer.Option(None, "--objective", help="one of the pipeline's objectives")
COMPAT = typer.Option("tail", "--compat", help="latency: tail (the SLA's percentile), paper or ipa-artifact")
ALLOCATION = typer.Option("free", "--allocation", help="cores of a replica: base (as IPA fixes them) or free")
SOLVER = typer.Option(None, "--solver", help="auto, gurobi, highs or exact")
PLAN_COMPAT = typer.Option(
    None,
    "--compat",
    help="latency: tail (the SLA's percentile), paper or ipa-artifact; tail where absent, for sets paper",
)
SETS = typer.Option(None, "--sets/--no-sets", help="several variants of a lone stage share its load, or not")
MAX_PREDICTORS = typer.Option(
    None, "--max-predictors", help="how many configurations may share the load, 1 to 3"
)
AT = typer.Option(
    None, "--at", help="kubernetes: what runs there beside the replicas counts in cost and budget"
)
PLAN_AT = typer.Option(
    None,
    "--at",
    metavar="WHERE",
    help="kubernetes: what runs there beside the replicas counts; for --out also as `ipa apply` has it",
)
OUT = typer.Option(None, "--out", metavar="FILE", help="save the plan for `ipa apply FILE`; needs --at")
DETAILED = typer.Option(False, "--detailed-exitcode", help="2 where it changes what runs; needs --at")
RUNNING = typer.Option(
    None, "--running", help="what runs now: a plan as printed by -o json, or a list of stages"
)
PIPELINES_DIR = typer.Option(None, "--pipelines-dir", help="folder of pipelines")
PROFILES_DIR = typer.Option(None, "--profiles-dir", help="folder of profiles")


@dataclass(frozen=True, slots=True)
class Question:
    """What was asked on the command line, but for the rates."""

    pipeline: str
    objective: str | None
    compat: str
    allocation: str
    solver: str | None
    pipelines_dir: Path | None
    profiles_dir: Path | None
    # Where the plan is to run; None: nothing but the replicas counts.
    at: str | None = None


def register(app: typer.Typer) -> None:
    """Add the verbs `plan` and `sweep`."""

    @app.command()
    def plan(
        pipeline: str = PIPELINE,
        *,
        rate: float = typer.Option(..., "--rate", help="requests a second to carry"),
        objective: str | None = OBJECTIVE,
        compat: str | None = PLAN_COMPAT,
        allocation: str = ALLOCATION,
        solver: str | None = SOLVER,
        sets: bool | None = SETS,
        max_predictors: int | None = MAX_PREDICTORS,
        running: Path | None = RUNNING,
        at: str | None = PLAN_AT,
        out: Path | None = OUT,
        detailed: bool = DETAILED,
        output: Output = OUTPUT,
        pipelines_dir: Path | None = PIPELINES_DIR,
        profiles_dir: Path | None = PROFILES_DIR,
    ) -> None:
        """Show the best plan for a rate. Exit code 3: none is feasible, and what would be; 6: out of time.

        As the file, --sets or --max-predictors say: a configuration, a mixture, or a set of variants. With
        --at and --out it is saved beside what runs there and what it was made from: `ipa apply` refuses it
        once any of that has moved.
        """
        from ipa.cli.planned import Choice, planned

        question = Question(
            pipeline, objective, compat or "", allocation, solver, pipelines_dir, profiles_dir, at
        )
        choice = Choice(sets, max_predictors, running)
        if out is not None or detailed:
            from ipa.cli.proposed import propose

            code, is_change = propose(question, rate, compat, choice, out, output)
            raise typer.Exit(code or (ExitCode.CHANGED if detailed and is_change else 0))
        found = planned(question, rate, compat, choice)
        if not printed(output, found.values):
            found.show(printer(output))
        if found.exit_code:
            raise typer.Exit(found.exit_code)

    @app.command()
    def sweep(
        pipeline: str = PIPELINE,
        *,
        rates: str = typer.Option(..., "--rates", help="1:45, 1:45:2 (first:last:step) or 1,2,5"),
        objective: str | None = OBJECTIVE,
        compat: str = COMPAT,
        allocation: str = ALLOCATION,
        solver: str | None = SOLVER,
        at: str | None = AT,
        output: Output = OUTPUT,
        pipelines_dir: Path | None = PIPELINES_DIR,
        profiles_dir: Path | None = PROFILES_DIR,
    ) -> None:
        """Print the best plan for each of many rates; `objective` is null where there is none."""
        question = Question(pipeline, objective, compat, allocation, solver, pipelines_dir, profiles_dir, at)
        asked = parse_rates(rates)
        with progress("planning", len(asked)) as step:
            found = plans(question, asked, explain=False, step=step)
        if not printed(output, [each.to_json() for each in found]):
            from ipa.cli.plan_text import print_sweep

            print_sweep(found, printer(output))


def plans(
    question: Question, rates: list[float], *, explain: bool, step: Step = lambda _: None
) -> list[Plan]:
    """The best plan for each rate; with `explain`, infeasible ones say what would make them feasible.

    `step` is told of each rate that is done.
    """
    from ipa.optimize.solve import solve
    from ipa.policies.planning import check_rate

    for rate in rates:
        check_rate(rate)
    problem, settings = problem_of(question, rates[0])
    solver = question.solver or settings.solver
    found = []
    for rate in rates:
        one = replace(problem, rate_rps=rate)
        found.append(solve(one, solver, settings.solver_deadline_s, explain=explain))
        step(f"{rate:g} rps")
    return found


def unchanged(pipeline: Pipeline) -> Pipeline:
    """The pipeline as its file says."""
    return pipeline


def problem_of(
    question: Question, rate_rps: float, change: Callable[[Pipeline], Pipeline] = unchanged
) -> tuple[PlanningProblem, Settings]:
    """The problem that was asked, of the pipeline as `change` makes it, and the settings."""
    from ipa.optimize.problem import Compat
    from ipa.policies.planning import planning_problem
    from ipa.profiling.points import Allocation

    compat = choice_of("--compat", question.compat, Compat)
    allocation = choice_of("--allocation", question.allocation, Allocation)
    pipeline, profiles, settings = load(question.pipeline, question.pipelines_dir, question.profiles_dir)
    problem = planning_problem(
        _at(change(pipeline), profiles, question.at),
        profiles,
        rate_rps,
        objective=question.objective,
        compat=compat,
        allocation=allocation,
    )
    return problem, settings


def _at(pipeline: Pipeline, profiles: dict[str, StageProfile], at: str | None) -> Pipeline:
    """The pipeline as it runs there. UsageError where that is not known, or its file does not say how."""
    if at is None:
        return pipeline
    if at != "kubernetes":
        raise UsageError(
            f"--at {at!r} is not where plans differ", hint="Use --at kubernetes, or leave it out."
        )
    if pipeline.seldon is None:
        raise UsageError(
            f"pipeline {pipeline.name!r} does not say how it runs on Seldon, so what it takes is not known",
            hint="Give it a `seldon:` section, or leave out --at.",
        )
    return at_cluster(pipeline, profiles)


def best_plan(question: Question, rate: float, deadline_s: float) -> tuple[PlanningProblem, Plan]:
    """The problem of the rate and its best plan, for a verb that looks into it for at most `deadline_s`.

    UsageError where that is no time.
    """
    from ipa.optimize.solve import solve

    if not deadline_s > 0:
        raise UsageError(f"--deadline must be above 0 seconds, not {deadline_s:g}")
    problem, settings = problem_of(question, rate)
    plan = solve(problem, question.solver or settings.solver, settings.solver_deadline_s, explain=True)
    return problem, plan


def parse_rates(text: str) -> list[float]:
    """The rates of `first:last[:step]` (both ends in) or of a list `1,2,5`; UsageError otherwise."""
    try:
        numbers = [float(part) for part in text.replace(":", ",").split(",")]
    except ValueError:
        numbers = []
    if not numbers or (":" in text and ("," in text or not 2 <= len(numbers) <= 3)):
        raise UsageError(
            f"--rates {text!r} is not a range or list of rates", hint="Use 1:45, 1:45:2 or 1,2,5"
        )
    if ":" not in text:
        return numbers
    first, last, step = numbers if len(numbers) == 3 else (*numbers, 1.0)
    if not (step > 0 and 0 <= last - first < MOST_RATES * step):
        raise UsageError(f"--rates {text!r} has no rates, or more than {MOST_RATES}")
    # A count, not a running sum: 0.1 added ten times is not 1.
    return [first + step * index for index in range(int((last - first) / step + 1e-9) + 1)]


def load(
    name: str, pipelines_dir: Path | None, profiles_dir: Path | None
) -> tuple[Pipeline, dict[str, StageProfile], Settings]:
    """The pipeline of that name or path, its profiles by stage, and the settings.

    NotFoundError names the pipelines there are.
    """
    from ipa.adapters.files import load_profiles

    settings = Settings.from_env(pipelines_dir=pipelines_dir, profiles_dir=profiles_dir)
    pipeline = find_pipeline(name, settings.pipelines_dir)
    return pipeline, load_profiles(settings.profiles_dir, pipeline.name), settings


def find_pipeline(name: str, pipelines_dir: Path) -> Pipeline:
    """The pipeline of that name in the folder, or in the file of that path.

    NotFoundError names the pipelines there are.
    """
    from ipa.adapters.files import load_pipeline
    from ipa.adapters.files.reading import is_file

    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = pipelines_dir / name / "pipeline.yaml"
        if not is_file(path):
            known = sorted(file.parent.name for file in pipelines_dir.glob("*/pipeline.yaml"))
            raise NotFoundError(
                f"there is no pipeline {name!r} in {pipelines_dir}",
                hint=f"There are: {', '.join(known) or 'none'}",
            )
    return load_pipeline(path)


def choice_of(option: str, text: str, kind: type[E]) -> E:
    """The member of that name; UsageError names those there are."""
    if text not in list(kind):
        raise UsageError(f"{option} {text!r} is not known", hint=f"Use one of: {', '.join(kind)}")
    return kind(text)
