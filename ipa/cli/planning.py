"""The problem of a command line, its answers, and plans that are saved for `ipa apply`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

import ipa
from ipa.cli import options
from ipa.cli.arguments import Bundle
from ipa.cli.output import OUTPUT, Output, Step, show
from ipa.model.errors import (
    ConflictError,
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
    from rich.console import RenderableType

    from ipa.clients.http import PipelineClient
    from ipa.files.plans import PlanFile, SavedPlanFile
    from ipa.policies.planning import PlanQuestion

EXIT_CODES = {
    Termination.INFEASIBLE: InfeasibleError.exit_code,
    Termination.NO_SOLUTION_FOUND: DeadlineError.exit_code,
}
KIND = "SavedPlan"
# The times of the search are left out of the file, so that equal plans give equal files.
TIMES = frozenset({"solve_s"})
# Digits of a digest in a message: enough to tell two files apart.
DIGITS = 12


@dataclass(frozen=True)
class Question(Bundle):
    """The planning problem of a command line, without its rates."""

    pipeline: str = options.FILE_PIPELINE
    objective: str | None = options.OBJECTIVE
    compat: str | None = options.COMPAT
    allocation: str = options.ALLOCATION
    solver: str | None = options.SOLVER
    # The target of the plan; None: only replicas count.
    at: str | None = typer.Option(
        None,
        "--at",
        metavar="WHERE",
        help="kubernetes: count the containers beside the replicas; for --out also a URL or a FILE.yaml",
    )
    output: Output = OUTPUT
    pipelines_dir: Path | None = options.PIPELINES_DIR
    profiles_dir: Path | None = options.PROFILES_DIR

    @cached_property
    def files(self) -> tuple[Pipeline, dict[str, StageProfile], Settings]:
        """The pipeline, its profiles by stage, and the settings, read once. NotFoundError."""
        return options.FileFolders(self.pipelines_dir, self.profiles_dir).load(self.pipeline)

    @property
    def search(self) -> tuple[str, float]:
        """The solver and its time limit in seconds."""
        _, _, settings = self.files
        return self.solver or settings.solver, settings.solver_deadline_s

    def asked(self, rate_rps: float) -> PlanQuestion:
        """The question with its files, of the pipeline as its target runs it.

        UsageError: no such target, or not in the pipeline's file. InputError lists keys without effect.
        """
        from ipa.bootstrap.targets import check_honoured, target_named
        from ipa.optimize.problem import Compat
        from ipa.policies.planning import PlanQuestion
        from ipa.profiling.points import Allocation

        compat = options.choice_of("--compat", self.compat or "tail", Compat)
        allocation = options.choice_of("--allocation", self.allocation, Allocation)
        pipeline, profiles, _ = self.files
        asked = PlanQuestion(pipeline, profiles, rate_rps, self.objective, compat, allocation)
        if self.at is None:
            return asked
        target = target_named(self.at)
        if not target.placed(pipeline):
            raise UsageError(
                f"pipeline {pipeline.name!r} has no section for {target.title}, "
                "so what it takes is not known",
                hint=f"Give it a `{target.sections.key}:` section, or leave out --at.",
            )
        check_honoured(target, [pipeline])
        return replace(asked, pipeline=target.shape(pipeline, profiles))

    def plans(self, rates: list[float], *, explain: bool, step: Step = lambda *_: None) -> list[Plan]:
        """The best plan for each rate; with `explain`, infeasible ones say what would make them feasible.

        `step` receives each rate that is done.
        """
        from ipa.optimize.solve import solve
        from ipa.policies.planning import check_rate

        for rate in rates:
            check_rate(rate)
        problem = self.asked(rates[0]).problem()
        found = []
        for rate in rates:
            found.append(solve(replace(problem, rate_rps=rate), *self.search, explain=explain))
            step(f"{rate:g} rps")
        return found

    def best(self, rate: float, deadline_s: float) -> tuple[PlanQuestion, Plan]:
        """The question for the rate and its best plan, for a verb that analyses it within `deadline_s`.

        UsageError if that is not above 0.
        """
        from ipa.optimize.solve import solve

        if not deadline_s > 0:
            raise UsageError(f"--deadline must be above 0 seconds, not {deadline_s:g}")
        asked = self.asked(rate)
        return asked, solve(asked.problem(), *self.search)


@dataclass(frozen=True, slots=True)
class PlanAnswer:
    """An answer: its JSON values, its lines and tables for people, and the termination of the search."""

    values: dict[str, Any]
    lines: Iterable[RenderableType]
    termination: Termination

    @property
    def exit_code(self) -> int:
        """The exit code of the verb: 0 if there is a plan."""
        return EXIT_CODES.get(self.termination, 0)


def planned(question: Question, rate_rps: float, sets: bool | None) -> PlanAnswer:
    """The answer for the rate; `sets` None is as the pipeline's file says.

    UsageError lists the options that contradict each other.
    """
    from ipa.cli.views.plan_text import plan_lines
    from ipa.files.pipelines import find_pipeline
    from ipa.policies.planning import check_rate

    check_rate(rate_rps)
    folder = Settings.from_env(pipelines_dir=question.pipelines_dir).pipelines_dir
    pipeline = find_pipeline(question.pipeline, folder)
    if pipeline.sets if sets is None else sets:
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
        return _set(question, rate_rps)
    (found,) = question.plans([rate_rps], explain=True)
    return PlanAnswer(found.to_json(), plan_lines(found), found.termination)


def _set(question: Question, rate_rps: float) -> PlanAnswer:
    """The plan of the policy infadapter, infeasible if no set carries the whole rate."""
    from ipa.cli.views.plan_text import plan_lines
    from ipa.policies.base import PolicyState
    from ipa.policies.infadapter import InfAdapter
    from ipa.policies.table import PolicyInputs

    pipeline, profiles, _ = question.files
    _, deadline_s = question.search
    inputs = PolicyInputs(pipeline, profiles, question.objective)
    # Described by the formula that the set is planned with: capacities as measured.
    task = replace(inputs.one_task(), profiled=inputs.published())
    policy = InfAdapter(task, deadline_s)
    found = policy.plan(rate_rps, PolicyState(()))
    if found.rate_rps < rate_rps:
        found = task.infeasible(rate_rps, policy.name, found.note)
    return PlanAnswer(found.to_json(), plan_lines(found), found.termination)


def write_saved(file: Path, **values: Any) -> None:
    """Save a plan with its inputs, the same bytes for the same values; InputError if it cannot be written.

    `revision` is that of the workload at `at` (empty: none, or unknown), `inputs` has the sha256 of each file
    of the pipeline, or of each resource of the service that planned. `plan` is as it was printed.
    """
    body = {"apiVersion": "ipa/v1", "kind": KIND, **values}
    text = json.dumps({**body, "digest": _seal(body)}, indent=1, ensure_ascii=False)
    try:
        file.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}") from error


def read_saved(file: Path) -> SavedPlanFile:
    """The plan in the file. InputError: it is no saved plan, or was changed."""
    from ipa.files.document import Document
    from ipa.files.faults import check
    from ipa.files.plans import SavedPlanFile
    from ipa.files.reading import read_json

    hint = "Save one with `ipa plan PIPELINE --rate R --at WHERE --out FILE`."
    try:
        body = read_json(file)
    except (InputError, NotFoundError) as error:
        raise InputError(error.message, hint=hint) from error
    if not isinstance(body, dict) or body.get("kind") != KIND:
        raise InputError(f"{file} is not a saved plan", hint=hint)
    if body.pop("digest", None) != _seal(body):
        raise InputError(f"{file} was changed since it was saved: its digest does not match", hint=hint)
    document = Document(str(file), body, shows_pointers=True)
    found = check(document, SavedPlanFile)
    document.raise_problems()
    assert found is not None, "without a file there are problems"
    return found


def check_fresh(saved: SavedPlanFile, revision: str, inputs: Mapping[str, str], file: Path) -> None:
    """ConflictError names everything that changed since the plan was made."""
    moved = []
    for name in sorted({*saved.inputs, *inputs}):
        then, now = saved.inputs.get(name), inputs.get(name)
        if then is None:
            moved.append(f"{name} is new")
        elif now is None:
            moved.append(f"{name} is gone")
        elif then != now:
            moved.append(f"{name} was changed: sha256 {then[:DIGITS]} then, {now[:DIGITS]} now")
    if revision != saved.revision:
        then, now = saved.revision or "nothing", revision or "nothing"
        moved.append(f"the running configuration was changed: revision {then} then, {now} now")
    if saved.version != ipa.__version__:
        moved.append(f"it was made by ipa {saved.version}, this is {ipa.__version__}")
    if moved:
        raise ConflictError(
            f"{file} is stale: its inputs have changed",
            problems=[Fault(words) for words in moved],
            hint=f"Plan again with `ipa plan {saved.pipeline} --rate {saved.rate_rps:g} "
            f"--at {saved.at} --out {file}`.",
        )


def inputs_of(service: PipelineClient, settings: Settings, pipeline: str) -> dict[str, str]:
    """The digests of the inputs of plans: the files of the pipeline, or the resources of the service."""
    from ipa.clients.http import HttpClient, pipeline_path
    from ipa.control.canonical import canonical_json, digest
    from ipa.files.pipelines import FILE_NAME

    if isinstance(service, HttpClient):
        found = {
            pipeline_path(pipeline): service.definition(pipeline),
            pipeline_path(pipeline, "profiles"): service.profiles(pipeline),
        }
        return {f"/v1/{path}": digest(canonical_json(values)) for path, values in found.items()}
    files = {f"pipelines/{pipeline}/{FILE_NAME}": settings.pipelines_dir / pipeline / FILE_NAME}
    home = settings.profiles_dir / pipeline
    files |= {f"profiles/{pipeline}/{file.name}": file for file in sorted(home.glob("*.yaml"))}
    return {name: sha256(file.read_bytes()).hexdigest() for name, file in files.items() if file.is_file()}


def propose(question: Question, rate_rps: float, sets: bool | None, out: Path | None) -> tuple[int, bool]:
    """The exit code of the search (0: there is a plan), and True if the plan differs from what runs.

    Prints the plan and the difference, and saves the plan to `out`. UsageError without --at.
    """
    from ipa.cli.difference import difference
    from ipa.cli.views.status_text import difference_table
    from ipa.clients.http import client_at, is_service
    from ipa.files.pipelines import find_pipeline
    from ipa.model.masking import without_user

    at, output = question.at, question.output
    if at is None:
        raise UsageError(
            "--out and --detailed-exitcode compare with the running configuration, so they need --at",
            hint="--at kubernetes, a manifest's FILE.yaml, or a service's URL.",
        )
    settings = Settings.from_env(pipelines_dir=question.pipelines_dir, profiles_dir=question.profiles_dir)
    with client_at(at, settings) as service:
        if is_service(at):
            name = question.pipeline
            found = _by_service(service, question, rate_rps, sets)
        else:
            name = find_pipeline(question.pipeline, settings.pipelines_dir).name
            found = planned(replace(question, at="kubernetes"), rate_rps, sets)
        status = service.status(name)
        inputs = inputs_of(service, settings, name)
    wanted = _wanted(found.values) if not found.exit_code else None
    if wanted is None or not wanted.configs:
        show(output, found.values, found.lines)
        return found.exit_code, False
    change = difference(status, wanted)
    show(output, {**found.values, "difference": asdict(change)}, found.lines, difference_table(change))
    if out is not None:
        write_saved(
            out,
            pipeline=name,
            at=without_user(at),
            revision=change.revision,
            rate_rps=rate_rps,
            solver=found.values["solver"],
            version=ipa.__version__,
            inputs=inputs,
            plan=_timeless(found.values),
            configs=[asdict(config) for config in wanted.configs],
        )
        if output in (Output.TEXT, Output.MD):
            until = f"its files and revision {change.revision} stay" if change.revision else "its files stay"
            typer.echo(f"Saved {out}: valid while {until}. Apply it with `ipa apply {out}`.")
    return 0, change.changed


def _by_service(
    service: PipelineClient, question: Question, rate_rps: float, sets: bool | None
) -> PlanAnswer:
    """The plan of the service. UsageError for options that a service does not take."""
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
            hint="Leave it out, or plan with --at kubernetes.",
        )
    values = service.plan(question.pipeline, rate_rps, question.objective)
    lines = [] if values["stages"] else [f"No plan: {values['termination']}"]
    lines += [f"  Feasible with {move}." for move in values["relaxations"]]
    return PlanAnswer(values, lines, Termination(values["termination"]))


def _wanted(values: Mapping[str, Any]) -> PlanFile:
    """The configuration that the plan asks for."""
    from ipa.files.plans import plan_in

    return plan_in(values, "the plan")


def _seal(body: Mapping[str, Any]) -> str:
    from ipa.control.canonical import canonical_json, digest

    return f"sha256:{digest(canonical_json(body))}"


def _timeless(value: Any) -> Any:
    """The values without times of the search, at any depth."""
    if isinstance(value, Mapping):
        return {key: _timeless(entry) for key, entry in value.items() if key not in TIMES}
    return [_timeless(entry) for entry in value] if isinstance(value, list | tuple) else value
