"""`ipa deploy`: bring what was reviewed to a running service."""

from __future__ import annotations

from pathlib import Path

import typer

from ipa.cli.lookup import load, service_at
from ipa.cli.options import running as options
from ipa.cli.options.parsing import duration_s
from ipa.cli.options.planning import PIPELINES_DIR, PROFILES_DIR
from ipa.cli.output import OUTPUT, Output, show
from ipa.cli.verbs.ci import APPROVAL
from ipa.model.errors import ConflictError, InputError, Problem
from ipa.settings import Settings

HINT = "Write one with `ipa ci --base REF --approval FILE`."


def deploy(
    approval: Path = typer.Argument(metavar="FILE", help="approval that `ipa ci --approval` wrote"),
    *,
    timeout: str = typer.Option("15min", "--timeout", help="most time for each pipeline to settle, as 90s"),
    reason: str = options.REASON,
    by: str = options.BY,
    output: Output = OUTPUT,
    at: str = options.AT,
    pipelines_dir: Path | None = PIPELINES_DIR,
    profiles_dir: Path | None = PROFILES_DIR,
) -> None:
    """Bring reviewed pipelines to a service: push, wait until settled, send a request; else take all back.

    Refuses files and plans other than those that were reviewed. Exit codes: 4 not what was reviewed, or
    changed meanwhile; 5 a rollout or request failed, 6 it did not settle, and all was taken back; 1 it could
    not be taken back; 65 a file is wrong.
    """
    from pydantic import TypeAdapter, ValidationError
    from rich.console import Console

    from ipa.bootstrap.targets import default_target, infer_at
    from ipa.cli.deploying import Deployment, deployed
    from ipa.cli.planning.plan_out import file_digests
    from ipa.cli.planning.sealed import changed_files, read_sealed
    from ipa.cli.verbs.probe import address_of, example_request
    from ipa.control.loop.clock import SystemClock
    from ipa.model.probe import USUAL_TIMEOUT_S
    from ipa.service.review.approval import Approval, check_plans

    timeout_s = duration_s("--timeout", timeout)
    values = read_sealed(approval, APPROVAL, "an approval", HINT)
    try:
        approved = TypeAdapter(Approval).validate_python(values)
    except ValidationError as error:
        raise InputError(f"{approval} was written by another version of ipa", hint=HINT) from error
    given = Settings.from_env(pipelines_dir=pipelines_dir, profiles_dir=profiles_dir)
    moved = [
        Problem(words)
        for each in approved.pipelines
        for words in changed_files(each.files, file_digests(given, each.pipeline))
    ]
    if moved:
        raise ConflictError(
            f"the files are not those that {approval} approves",
            problems=moved,
            hint="Review the change again.",
        )
    found = {
        each.pipeline: load(each.pipeline, pipelines_dir, profiles_dir)[:2] for each in approved.pipelines
    }
    for each in approved.pipelines:
        check_plans(each, *found[each.pipeline], default_target(found[each.pipeline][0]))
    bodies = {name: example_request(described, given.pipelines_dir) for name, (described, _) in found.items()}
    # Standard output has the result.
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with service_at(at, "deploy") as service:
        deployment = Deployment(service, SystemClock(), console, by, reason, timeout_s, [])

        def smoke(name: str) -> str:
            return infer_at(address_of(service, name), bodies[name], USUAL_TIMEOUT_S).fault

        def bring() -> None:
            for each in approved.pipelines:
                described, profiles = found[each.pipeline]
                deployment.bring(described, {stage: profiles[stage] for stage in each.profiles}, smoke)

        deployed(deployment, bring)
    names = [each.pipeline for each in approved.pipelines]
    left = [
        f"{name}: its files were removed; the service keeps it until it is deleted"
        for name in approved.removed
    ]
    told = {"deployed": names, "left": list(approved.removed)}
    show(output, told, *[f"{name}: deployed" for name in names], *left)
