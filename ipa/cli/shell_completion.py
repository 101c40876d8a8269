"""Completions of names for the shell: those of the files, and of the service that the command asks."""

from __future__ import annotations

from collections.abc import Iterator

import typer

# Seconds that a person waits after the tab key.
PATIENCE_S = 0.5


def pipelines(context: typer.Context, incomplete: str) -> list[str]:
    """Names of pipelines: of the files, and of the service if the command asks one."""
    names = set(_in_files(context)) | set(_at_service(str(context.params.get("at") or "")))
    return sorted(name for name in names if name.startswith(incomplete))


def stages(context: typer.Context, incomplete: str) -> list[str]:
    """Names of the stages of the pipeline that was typed before."""
    from ipa.files.pipelines import find_pipeline
    from ipa.model.errors import IpaError
    from ipa.settings import Settings

    try:
        found = find_pipeline(str(context.params.get("pipeline")), Settings.from_env().pipelines_dir)
    except IpaError:
        return []
    return [stage.name for stage in found.served if stage.name.startswith(incomplete)]


def _in_files(context: typer.Context) -> Iterator[str]:
    from ipa.model.errors import IpaError
    from ipa.settings import Settings

    try:
        folder = Settings.from_env(pipelines_dir=context.params.get("pipelines_dir")).pipelines_dir
    except IpaError:
        # The command itself reports the error; a completion cannot.
        return
    yield from (file.parent.name for file in folder.glob("*/pipeline.yaml"))


def _at_service(at: str) -> Iterator[str]:
    from ipa.clients.http import HttpClient
    from ipa.model.errors import IpaError

    if not at.startswith(("http://", "https://")):
        return
    try:
        with HttpClient(at, timeout_s=PATIENCE_S) as service:
            found = service.names()
    except IpaError:
        return
    yield from found
