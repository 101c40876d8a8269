"""`ipa import`: a pipeline's files from a SeldonDeployment that runs, or that a file holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ipa.cli.next_steps import CORES, FORCE, PERCENTILE, SLA, show_started, started
from ipa.cli.options.planning import PIPELINES_DIR, PROFILES_DIR
from ipa.cli.output import OUTPUT, Output
from ipa.model.errors import InputError, NotFoundError, UsageError
from ipa.model.pipeline import Sla
from ipa.settings import Settings
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT

if TYPE_CHECKING:
    from ipa.targets.seldon.imported import Imported


def register(app: typer.Typer) -> None:
    """Add the verb `import`."""
    app.command("import")(import_)


def import_(
    deployment: str | None = typer.Argument(
        None, metavar="SELDONDEPLOYMENT", help="its name; needed where there are several"
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
    """Write a pipeline's files from a SeldonDeployment: graph, images, env, batching, and what runs now.

    Notes say what it does not tell. Nothing of it is changed.
    """
    from ipa.cli.options.parsing import duration_s
    from ipa.files import pipeline_from_mapping, pipeline_to_mapping
    from ipa.targets.seldon.imported import imported

    settings = Settings.from_env(pipelines_dir=pipelines_dir, profiles_dir=profiles_dir)
    if file is not None:
        sdep = _of_file(file, deployment, namespace)
    else:
        sdep = _of_cluster(at, settings, deployment, namespace or "default")
    wanted = Sla(duration_s("--sla", sla), percentile)
    try:
        found: Imported = imported(sdep, wanted, name=name or "", predictor=predictor, bounds_cores=cores)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"this SeldonDeployment is not whole: {type(error).__name__} {error}",
            hint="`kubectl apply --dry-run=server -f FILE` says what of it is wrong.",
        ) from error
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


def _of_file(path: Path, name: str | None, namespace: str | None) -> dict[str, Any]:
    """The SeldonDeployment in the file. InputError, NotFoundError."""
    from ipa.files.reading import read_utf8
    from ipa.targets.seldon.manifest_edit import seldondeployments

    text = read_utf8(path)
    found = [one for one in seldondeployments(text, str(path)) if _is_wanted(one, name, namespace)]
    return _only(found, f"{path} has no SeldonDeployment" + (f" {name!r}" if name else ""))


def _is_wanted(sdep: dict[str, Any], name: str | None, namespace: str | None) -> bool:
    metadata = sdep["metadata"]
    here = namespace is None or metadata.get("namespace") in (None, namespace)
    return here and name in (None, metadata.get("name"))


def _of_cluster(at: str, settings: Settings, name: str | None, namespace: str) -> dict[str, Any]:
    """The SeldonDeployment in the cluster. Errors: those of the client."""
    from ipa.bootstrap.targets import kube_client

    kind, _, kubeconfig = at.partition(":")
    if kind != "kubernetes":
        raise UsageError(
            f"--at {at!r} is no cluster", hint="Use kubernetes or kubernetes:~/.kube/config, or -f FILE"
        )
    if kubeconfig:
        settings = replace(settings, kubeconfig=str(Path(kubeconfig).expanduser()))
    client = kube_client(settings)
    try:
        if name is not None:
            return client.get(SELDON_DEPLOYMENT, namespace, name)
        found, _ = client.list_all(SELDON_DEPLOYMENT, namespace)
        return _only(found, f"there is no SeldonDeployment in namespace {namespace}")
    finally:
        client.close()


def _only(found: list[dict[str, Any]], nothing: str) -> dict[str, Any]:
    """The one that there is; UsageError names them where there are several."""
    if not found:
        raise NotFoundError(nothing)
    if len(found) > 1:
        names = ", ".join(sorted(str(one["metadata"].get("name")) for one in found))
        raise UsageError("there are several SeldonDeployments", hint=f"Say which: {names}")
    return found[0]
