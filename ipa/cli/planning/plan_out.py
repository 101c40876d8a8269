"""Plans in files, with digests of their inputs: `ipa plan --out`, and what `ipa apply` checks of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import typer

import ipa
from ipa.cli.difference import WantedPlan, difference, wanted_by
from ipa.cli.output import Output, show
from ipa.cli.planning.plan_kinds import PlanAnswer, PlanChoice, Question, planned
from ipa.cli.planning.sealed import changed_files, read_sealed, write_sealed
from ipa.cli.views.status_text import difference_table
from ipa.clients.base import PipelineClient
from ipa.clients.http import HttpClient, is_service, pipeline_path
from ipa.control.canonical import canonical_json, digest
from ipa.files.document import Document
from ipa.files.faults import check
from ipa.files.pipelines import FILE_NAME, find_pipeline
from ipa.files.plans import SavedPlanFile, plan_in
from ipa.model.errors import ConflictError, Problem, UsageError
from ipa.model.masking import without_user
from ipa.model.plan import StageConfig, Termination
from ipa.settings import Settings

KIND = "SavedPlan"
# The times of the search are left out of the file, so that equal plans give equal files.
TIMES = frozenset({"solve_s"})


@dataclass(frozen=True, slots=True)
class SavedPlan:
    """A plan with its inputs.

    `revision` is that of the workload at `at` (empty: none, or unknown), `inputs` has the sha256 of each file
    of the pipeline, or of each resource of the service that planned. `plan` is as it was printed.
    """

    pipeline: str
    at: str
    revision: str
    rate_rps: float
    solver: str
    version: str
    inputs: Mapping[str, str]
    plan: Mapping[str, Any]
    configs: tuple[StageConfig, ...]


def inputs_of(service: PipelineClient, settings: Settings, pipeline: str) -> dict[str, str]:
    """The digests of the inputs of plans: the files of the pipeline, or the resources of the service."""
    if isinstance(service, HttpClient):
        found = {
            pipeline_path(pipeline): service.definition(pipeline),
            pipeline_path(pipeline, "profiles"): service.profiles(pipeline),
        }
        return {f"/v1/{path}": digest(canonical_json(values)) for path, values in found.items()}
    return file_digests(settings, pipeline)


def file_digests(settings: Settings, pipeline: str) -> dict[str, str]:
    """The sha256 of the files of the pipeline and of its profiles, by path."""
    files = {f"pipelines/{pipeline}/{FILE_NAME}": settings.pipelines_dir / pipeline / FILE_NAME}
    home = settings.profiles_dir / pipeline
    files |= {f"profiles/{pipeline}/{file.name}": file for file in sorted(home.glob("*.yaml"))}
    return {name: sha256(file.read_bytes()).hexdigest() for name, file in files.items() if file.is_file()}


def read_saved(file: Path) -> SavedPlan:
    """The plan in the file. InputError: it is no saved plan, or was changed."""
    hint = "Save one with `ipa plan PIPELINE --rate R --at WHERE --out FILE`."
    body = read_sealed(file, KIND, "a saved plan", hint)
    document = Document(str(file), body, shows_pointers=True)
    found = check(document, SavedPlanFile)
    document.raise_problems()
    assert found is not None, "without a file there are problems"
    return SavedPlan(**{**found.given(), "plan": body["plan"]})


def check_fresh(saved: SavedPlan, revision: str, inputs: Mapping[str, str], file: Path) -> None:
    """ConflictError names everything that changed since the plan was made."""
    moved = [Problem(words) for words in _moved(saved, revision, inputs)]
    if moved:
        raise ConflictError(
            f"{file} is stale: its inputs have changed",
            problems=moved,
            hint=f"Plan again with `ipa plan {saved.pipeline} --rate {saved.rate_rps:g} "
            f"--at {saved.at} --out {file}`.",
        )


def _moved(saved: SavedPlan, revision: str, inputs: Mapping[str, str]) -> Iterator[str]:
    yield from changed_files(saved.inputs, inputs)
    if revision != saved.revision:
        then, now = saved.revision or "nothing", revision or "nothing"
        yield f"the running configuration was changed: revision {then} then, {now} now"
    if saved.version != ipa.__version__:
        yield f"it was made by ipa {saved.version}, this is {ipa.__version__}"


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
    wanted = _wanted(found.values) if not found.exit_code else None
    if wanted is None or not wanted.configs:
        show(output, found.values, found.lines)
        return found.exit_code, False
    change = difference(status, wanted)
    values = {**found.values, "difference": asdict(change)}
    show(output, values, found.lines, difference_table(change))
    if out is not None:
        saved = SavedPlan(
            pipeline=name,
            at=without_user(at),
            revision=change.revision,
            rate_rps=rate_rps,
            solver=found.values["solver"],
            version=ipa.__version__,
            inputs=inputs,
            plan=_timeless(found.values),
            configs=wanted.configs,
        )
        write_sealed(out, KIND, asdict(saved))
        if output in (Output.TEXT, Output.MD):
            until = f"its files and revision {change.revision} stay" if change.revision else "its files stay"
            typer.echo(f"Saved {out}: valid while {until}. Apply it with `ipa apply {out}`.")
    return 0, change.changed


def _by_service(
    service: PipelineClient, question: Question, rate_rps: float, compat: str | None, choice: PlanChoice
) -> PlanAnswer:
    """The plan of the service. UsageError for options that a service does not take."""
    given = {
        "--compat": compat,
        "--solver": question.solver,
        "--running": choice.running,
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
    lines = [] if values["stages"] else [f"No plan: {values['termination']}"]
    lines += [f"  Feasible with {move}." for move in values["relaxations"]]
    return PlanAnswer(values, iter(lines), Termination(values["termination"]))


def _wanted(values: Mapping[str, Any]) -> WantedPlan:
    """The configuration that the plan asks for; UsageError for a set, which only a policy carries out."""
    if "stages" not in values:
        raise UsageError(
            "a set of variants cannot be applied by hand, so it cannot be saved or compared",
            hint="Add --no-sets, or let the policy infadapter apply sets.",
        )
    return wanted_by(plan_in(values, "the plan"))


def _timeless(value: Any) -> Any:
    """The values without times of the search, at any depth."""
    if isinstance(value, Mapping):
        return {key: _timeless(entry) for key, entry in value.items() if key not in TIMES}
    return [_timeless(entry) for entry in value] if isinstance(value, list | tuple) else value
