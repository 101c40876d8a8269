"""`ipa push` gives a running service a changed pipeline."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from ipa.cli import options
from ipa.cli.options import Author, FileFolders, service_at
from ipa.cli.output import OUTPUT, Output, show
from ipa.model.errors import NotFoundError, UnavailableError
from ipa.model.profile import StageProfile


def push(
    pipeline: str = options.FILE_PIPELINE,
    *,
    dry_run: bool = typer.Option(False, "--dry-run", help="show the changes and send nothing"),
    author: Author,
    output: Output = OUTPUT,
    at: str = options.AT,
    folders: FileFolders,
) -> None:
    """Give a running service the pipeline and its profiles as their files are here.

    Prints what changes. One that the service does not know is new there, and advisory. Its replicas go on;
    the record says who changed what. Exit code 4: the pipeline comes from a file of the service (edit that
    file), it was changed meanwhile, or a change rolls out.
    """
    from ipa.files import dump_profile, pipeline_to_mapping
    from ipa.files.changes import changes_of
    from ipa.files.document import parse
    from ipa.files.pipelines import find_pipeline, pipeline_in

    settings = folders.settings
    wanted = find_pipeline(pipeline, settings.pipelines_dir)
    pipeline, profiles = wanted.name, profiles_in(settings.profiles_dir, wanted.name)
    by, reason, after = author.by, author.reason, pipeline_to_mapping(wanted)
    with service_at(at, "push") as service:
        try:
            text, version = service.file(pipeline)
        except NotFoundError:
            text = version = ""
        before = pipeline_to_mapping(pipeline_in(parse(text, ""))) if text else {}
        keys = list(changes_of(before, after)) if before else ["new"]
        known = read_profiles(service.profiles(pipeline)) if before and profiles else {}
        stages = [stage for stage, profile in profiles.items() if profile != known.get(stage)]
        changes = [*keys, *(f"profile of {stage}" for stage in stages)]
        if keys and not dry_run:
            if not before:
                service.create(after, by=by, reason=reason)
            else:
                service.replace(pipeline, after, version=version, by=by, reason=reason)
        for stage in stages if not dry_run else ():
            _, version = service.file(pipeline)
            text = dump_profile(profiles[stage])
            service.give_profile(pipeline, stage, text, version=version, by=by, reason=reason)
    told = {"pipeline": pipeline, "changes": changes, "sent": bool(changes) and not dry_run}
    head = f"{pipeline}: would change" if dry_run else f"{pipeline}: changed"
    lines = [head, *(f"  {change}" for change in changes)]
    show(output, told, *(lines if changes else [f"{pipeline}: the service already has it"]))


def profiles_in(folder: Path, pipeline: str) -> dict[str, StageProfile]:
    """The profiles of the files, none if there are none."""
    from ipa.files import load_profiles

    try:
        return load_profiles(folder, pipeline)
    except NotFoundError:
        return {}


def read_profiles(documents: Mapping[str, Any]) -> dict[str, StageProfile]:
    """The profiles of a service's answer; UnavailableError if the service has another version."""
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(dict[str, StageProfile]).validate_python(documents)
    except ValidationError as error:
        raise UnavailableError(
            f"the service's profiles cannot be read: {error}", hint="Does it have this version of ipa?"
        ) from error
