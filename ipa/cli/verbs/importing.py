"""`ipa import`: a pipeline's files from a workload that runs on a target, or that a file holds."""

from __future__ import annotations

from pathlib import Path

import typer

from ipa.cli.next_steps import CORES, FORCE, PERCENTILE, SLA, show_started, started
from ipa.cli.options.planning import PIPELINES_DIR, PROFILES_DIR
from ipa.cli.output import OUTPUT, Output
from ipa.model.errors import UsageError
from ipa.model.pipeline import Sla
from ipa.settings import Settings


def import_(
    deployment: str | None = typer.Argument(
        None, metavar="WORKLOAD", help="its name; needed where there are several"
    ),
    *,
    file: Path | None = typer.Option(None, "--file", "-f", help="a YAML or JSON file that holds it"),
    at: str = typer.Option(
        "kubernetes", "--at", metavar="WHERE", help="kubernetes[:KUBECONFIG], without a file"
    ),
    namespace: str | None = typer.Option(None, "--namespace", "-n", help="where it lives; default without"),
    name: str | None = typer.Option(None, "--name", help="what the pipeline is called; as it without"),
    predictor: str = typer.Option(
        "", "--predictor", help="of several the one that is read; the busiest without"
    ),
    sla: str = SLA,
    percentile: float = PERCENTILE,
    cores: float | None = CORES,
    force: bool = FORCE,
    output: Output = OUTPUT,
    pipelines_dir: Path | None = PIPELINES_DIR,
    profiles_dir: Path | None = PROFILES_DIR,
) -> None:
    """Write a pipeline's files from what runs on a cluster: graph, images, env, batching, configuration.

    Notes say what it does not tell. Nothing of it is changed.
    """
    from ipa.bootstrap.targets import ImportRequest, target_named
    from ipa.cli.options.parsing import duration_s
    from ipa.clients.http import is_target
    from ipa.files import pipeline_from_mapping, pipeline_to_mapping

    settings = Settings.from_env(pipelines_dir=pipelines_dir, profiles_dir=profiles_dir)
    asked = ImportRequest(
        Sla(duration_s("--sla", sla), percentile),
        pipeline=name or "",
        part=predictor,
        bounds_cores=cores,
        workload=deployment,
        namespace=namespace,
        file=file,
    )
    kind, _, where = at.partition(":")
    if not is_target(at):
        raise UsageError(
            f"--at {at!r} is no cluster", hint="Use kubernetes or kubernetes:~/.kube/config, or -f FILE"
        )
    found = target_named(kind).imported(settings, where, asked)
    # As a file is read, so that what no file may say is said here.
    pipeline = pipeline_from_mapping(pipeline_to_mapping(found.pipeline))
    result = started(
        pipeline,
        settings.pipelines_dir,
        settings.profiles_dir,
        notes=found.notes,
        running=found.configs,
        force=force,
    )
    show_started(output, result)
