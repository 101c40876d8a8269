"""The planning problem of a command line, its plans, and plans saved for `ipa apply`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ipa.cli import options
from ipa.cli.arguments import Bundle
from ipa.cli.output import OUTPUT, Output, json_text, show
from ipa.model.errors import (
    DeadlineError,
    InfeasibleError,
    InputError,
    NotFoundError,
    UsageError,
)
from ipa.model.errors import Problem as Fault
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, Termination
from ipa.model.profile import StageProfile
from ipa.settings import Settings

if TYPE_CHECKING:
    from ipa.policies.planning import PlanQuestion

EXIT_CODES = {
    Termination.INFEASIBLE: InfeasibleError.exit_code,
    Termination.NO_SOLUTION_FOUND: DeadlineError.exit_code,
}
KIND = "SavedPlan"


@dataclass(frozen=True)
class Question(Bundle):
    """The planning problem of a command line, without its rates."""

    pipeline: str = options.FILE_PIPELINE
    objective: str | None = options.OBJECTIVE
    compat: str | None = options.COMPAT
    allocation: str = options.ALLOCATION
    solver: str | None = options.SOLVER
    # None: only replicas count.
    at: str | None = typer.Option(
        None,
        "--at",
        metavar="WHERE",
        help="kubernetes: count the containers beside the replicas; a service's URL: have it plan",
    )
    output: Output = OUTPUT
    pipelines_dir: Path | None = options.PIPELINES_DIR
    profiles_dir: Path | None = options.PROFILES_DIR

    @cached_property
    def files(self) -> tuple[Pipeline, dict[str, StageProfile], Settings]:
        """The pipeline, its profiles by stage, and the settings, read once. NotFoundError."""
        return options.FileFolders(self.pipelines_dir, self.profiles_dir).load(self.pipeline)

    def at_rate(self, rate_rps: float) -> PlanQuestion:
        """The question with its files, of the pipeline as its target runs it.

        UsageError: no such target, or not in the pipeline's file. InputError lists keys without effect.
        """
        from ipa.bootstrap.targets import check_honoured, target_named
        from ipa.optimize.problem import Compat
        from ipa.policies.planning import PlanQuestion
        from ipa.profiling.points import Allocation

        compat = options.parse_choice("--compat", self.compat or "tail", Compat)
        allocation = options.parse_choice("--allocation", self.allocation, Allocation)
        pipeline, profiles, _ = self.files
        question = PlanQuestion(pipeline, profiles, rate_rps, self.objective, compat, allocation)
        if self.at is None:
            return question
        target = target_named(self.at)
        if not target.placed(pipeline):
            raise UsageError(
                f"pipeline {pipeline.name!r} has no section for {target.title}, "
                "so the cores that it adds are not known",
                hint=f"Give it a `{target.sections.key}:` section, or leave out --at.",
            )
        check_honoured(target, [pipeline])
        return replace(question, pipeline=target.shape(pipeline, profiles))

    def plan(self, rate_rps: float, *, explain: bool = True) -> Plan:
        """The best plan for the rate; with `explain`, an infeasible one tells what would make it feasible."""
        from ipa.optimize.solve import solve
        from ipa.policies.planning import check_rate

        check_rate(rate_rps)
        problem, (_, _, settings) = self.at_rate(rate_rps).problem(), self.files
        solver = self.solver or settings.solver
        return solve(problem, solver, settings.solver_deadline_s, explain=explain)


def planned(question: Question, rate_rps: float, sets: bool | None) -> Plan:
    """The best plan for the rate, of a single configuration or a set; `sets` None follows the file.

    UsageError lists the options that contradict each other.
    """
    from ipa.files.pipelines import find_pipeline
    from ipa.policies.base import PolicyState
    from ipa.policies.infadapter import InfAdapter
    from ipa.policies.planning import check_rate
    from ipa.policies.table import PolicyInputs

    check_rate(rate_rps)
    folder = Settings.from_env(pipelines_dir=question.pipelines_dir).pipelines_dir
    pipeline = find_pipeline(question.pipeline, folder)
    if not (pipeline.sets if sets is None else sets):
        return question.plan(rate_rps)
    faults = []
    if question.allocation == "base":
        faults.append("--allocation base fixes the cores of a replica, which a set decides")
    if question.at is not None:
        faults.append("--at: containers beside a set's variants are not counted")
    if question.compat is not None:
        faults.append(f"--compat {question.compat}: a set is planned with capacities as measured")
    if question.solver not in (None, "auto", "exact"):
        faults.append(f"--solver {question.solver}: sets are solved by label setting, exact")
    if faults:
        raise UsageError(
            "options that do not apply to a set",
            problems=[Fault(fault) for fault in faults],
            hint="Leave them out, or add --no-sets to plan one configuration.",
        )
    pipeline, profiles, settings = question.files
    inputs = PolicyInputs(pipeline, profiles, question.objective)
    # Described with the set's own formula: capacities as measured.
    task = replace(inputs.one_task(), profiled=inputs.published())
    policy = InfAdapter(task, settings.solver_deadline_s)
    best = policy.plan(rate_rps, PolicyState(()))
    # A set that carries less than the whole rate is no answer.
    return best if best.rate_rps >= rate_rps else task.infeasible(rate_rps, policy.name, best.note)


def read_saved(file: Path) -> tuple[str, str, str]:
    """The service, the pipeline and the id of a plan that `propose` saved; InputError: not such a file."""
    from ipa.files.reading import read_json

    hint = "Save one with `ipa plan PIPELINE --rate R --at URL --out FILE`."
    try:
        body = read_json(file)
        if body["kind"] != KIND:
            raise KeyError("kind")
        at, pipeline, plan_id = (body[key] for key in ("service", "pipeline", "plan_id"))
    except (InputError, NotFoundError) as error:
        raise InputError(error.message, hint=hint) from error
    except (KeyError, TypeError) as error:
        raise InputError(f"{file} is not a saved plan", hint=hint) from error
    return str(at), str(pipeline), str(plan_id)


def propose(question: Question, rate_rps: float, sets: bool | None, out: Path | None) -> tuple[int, bool]:
    """The exit code of the service's search, and True if the plan differs from the running configuration.

    Prints the plan and the difference, and saves the plan's id in `out`. Errors: UsageError (options that a
    service does not take), InputError (`out` cannot be written).
    """
    from ipa.cli.difference import difference
    from ipa.cli.views.status_text import difference_table
    from ipa.files.plans import plan_in
    from ipa.model.masking import without_user

    given = {
        "--compat": question.compat,
        "--solver": question.solver,
        "--sets": sets,
        "--allocation": None if question.allocation == "free" else question.allocation,
    }
    refused = [option for option, value in given.items() if value is not None]
    if refused:
        raise UsageError(
            f"{', '.join(refused)}: a service plans by its own settings",
            hint="Leave it out, or plan from the files without the URL.",
        )
    name, at, output = question.pipeline, str(question.at), question.output
    with options.client_at(at) as service:
        plan = service.plan(name, rate_rps, question.objective)
        status = service.status(name)
    for doubt in status["control"]["profile_doubts"]:
        typer.echo(f"warning: {doubt}", err=True)
    lines = [] if plan["stages"] else [f"No plan: {plan['termination']}"]
    lines += [f"  Feasible with {move}." for move in plan["relaxations"]]
    if not plan["stages"]:
        show(output, plan, lines)
        return EXIT_CODES.get(Termination(plan["termination"]), 0), False
    wanted = plan_in(plan, "the plan")
    change = difference(status, wanted)
    show(output, {**plan, "difference": asdict(change)}, lines, difference_table(change))
    if out is not None:
        saved = {"kind": KIND, "service": without_user(at), "pipeline": name, "plan_id": plan["plan_id"]}
        try:
            out.write_text(json_text({**saved, "plan": plan}, indent=1) + "\n", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{out} cannot be written: {error.strerror}") from error
        if output in (Output.TEXT, Output.MD):
            until = f"the pipeline, its profiles and revision {change.revision} stay"
            typer.echo(f"Saved {out}: valid while {until}. Apply it with `ipa apply {out}`.")
    return 0, change.changed
