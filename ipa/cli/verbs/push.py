"""`ipa push` gives a running service a changed pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from ipa.cli.lookup import service_at
from ipa.cli.options import running as options
from ipa.cli.options.planning import PIPELINE, PIPELINES_DIR
from ipa.cli.output import OUTPUT, Output, show
from ipa.model.errors import NotFoundError, UsageError
from ipa.settings import Settings


def push(
    pipeline: str = PIPELINE,
    *,
    settings_: list[str] = typer.Option(
        [],
        "--set",
        metavar="KEY=VALUE",
        help="change this key of the service's version, as sla.latency=800ms or bounds.cores=12, instead of "
        "sending the file; no value removes it; may be repeated",
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="show the changes and send nothing"),
    reason: str = options.REASON,
    by: str = options.BY,
    output: Output = OUTPUT,
    at: str = options.AT,
    pipelines_dir: Path | None = PIPELINES_DIR,
) -> None:
    """Give a running service the pipeline as its file is here, or with some keys changed.

    Prints what changes. Of a pipeline that comes from a file of the service, SLA, bounds and objectives may
    be changed so; of one that was given over the API everything. One that the service does not know is new
    there, and advisory. Its replicas go on; the record says who changed what. Exit code 4: changed meanwhile,
    or a change rolls out.
    """
    from ipa.files import pipeline_from_mapping, pipeline_to_mapping
    from ipa.files.changes import changes_of, merged
    from ipa.files.document import parse
    from ipa.files.pipelines import find_pipeline, pipeline_in

    given, patch = None, _patch(settings_)
    if not settings_:
        given = find_pipeline(pipeline, Settings.from_env(pipelines_dir=pipelines_dir).pipelines_dir)
        pipeline = given.name
    with service_at(at, "push") as service:
        try:
            text, version = service.file(pipeline)
        except NotFoundError:
            if given is None:
                raise
            text = version = ""
        before = pipeline_to_mapping(pipeline_in(parse(text, ""))) if text else {}
        wanted = given or pipeline_from_mapping(merged(before, patch))
        after = pipeline_to_mapping(wanted)
        changes = list(changes_of(before, after)) if before else ["new"]
        if changes and not dry_run:
            if not before:
                service.create(after, by=by, reason=reason)
            else:
                service.replace(pipeline, after, version=version, by=by, reason=reason)
    told = {"pipeline": pipeline, "changes": changes, "sent": bool(changes) and not dry_run}
    head = f"{pipeline}: would change" if dry_run else f"{pipeline}: changed"
    lines = [head, *(f"  {change}" for change in changes)]
    show(output, told, *(lines if changes else [f"{pipeline}: the service already has it"]))


def _patch(texts: list[str]) -> dict[str, Any]:
    """The merge patch of `a.b=VALUE`; UsageError for another form. Values are those of YAML files."""
    from ipa.files.document import parse

    patch: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        *places, last = key.split(".")
        if not equals or not all((*places, last)):
            raise UsageError(f"--set {text!r} is not KEY=VALUE", hint="For example --set sla.latency=800ms")
        here = patch
        for place in places:
            here = here.setdefault(place, {})
            if not isinstance(here, dict):
                raise UsageError(f"--set {text!r} is inside a key that is set as well")
        here[last] = parse(value, "--set").data if value else None
    return patch
