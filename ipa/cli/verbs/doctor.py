"""`ipa doctor`: everything the service depends on, each with what mends it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ipa.cli import shell_completion as completing
from ipa.cli.output import OUTPUT, Output, show
from ipa.cli.progress import progress
from ipa.model.errors import ConfigurationError, IpaError
from ipa.model.exits import ExitCode
from ipa.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ipa.cli.doctor.base import Check, Finding
    from ipa.model.pipeline import Pipeline


# Checks that compute take turns.
CPU = "cpu"


def register(app: typer.Typer) -> None:
    """Add the verb `doctor`."""
    app.command()(doctor)


def doctor(
    pipelines: list[str] | None = typer.Argument(
        None, help="only what these need; all without", autocompletion=completing.pipelines
    ),
    *,
    at: str | None = typer.Option(
        None,
        "--at",
        metavar="WHERE",
        help="kubernetes[:KUBECONFIG], or a service's URL; as IPA_TARGET without",
    ),
    namespace: list[str] = typer.Option(
        [], "--namespace", "-n", help="whose rights are looked at; the pipelines' own without"
    ),
    store: bool = typer.Option(
        False, "--store", help="only the store, read whole: pages, record, rights, disk; may take minutes"
    ),
    timeout_s: float = typer.Option(10.0, "--timeout", min=0.1, help="seconds that each check may take"),
    output: Output = OUTPUT,
) -> None:
    """Check everything the service depends on, and say what mends what is wrong. Exit code 1: something is.

    Nothing is changed by it. Warnings are for what still works.
    """
    from ipa.cli.doctor.base import State, run_checks

    checks = _store_checks() if store else _checks(pipelines or [], at, namespace, timeout_s)
    with progress("checking", len(checks)) as step:
        found = run_checks(checks, timeout_s, step)
    show(output, [asdict(each) for each in found], findings_table(found))
    if any(each.state is State.FAIL for each in found):
        raise typer.Exit(ExitCode.ERROR)


def _store_checks() -> list[Check]:
    """What to look at of the store alone; where the settings cannot be used, they."""
    from ipa.cli.doctor.base import Check, failed
    from ipa.cli.doctor.store import store_checks

    try:
        return store_checks(Settings.from_env())
    except ConfigurationError as error:
        wrong = [failed("settings", error)]
        return [Check("settings", lambda: wrong)]


def _checks(names: Sequence[str], at: str | None, namespaces: Sequence[str], timeout_s: float) -> list[Check]:
    """What to look at; where the settings cannot be used, they alone."""
    from ipa.cli.doctor import here
    from ipa.cli.doctor.base import Check, failed, ok
    from ipa.cli.doctor.identity import NAME, identity_findings

    try:
        settings = _settings(at, timeout_s)
    except ConfigurationError as error:
        wrong = [failed("settings", error)]
        return [Check("settings", lambda: wrong)]
    today = datetime.now(UTC).date()
    pipelines = _usable(settings, names)
    checks = [
        Check("settings", lambda: [ok("settings", "every IPA_ variable is known and can be used")]),
        Check("files", lambda: here.files_findings(settings), turn=CPU),
        *(_profiles_check(settings, pipeline) for pipeline in pipelines.values()),
        Check("solvers", lambda: here.solver_findings(settings, today), turn=CPU),
        Check("store", lambda: here.store_findings(settings)),
        Check(NAME, lambda: identity_findings(settings), after="store"),
    ]
    if at is not None and at.startswith(("http://", "https://")):
        from ipa.cli.doctor.service import service_findings

        url = at
        checks.append(Check("service", lambda: service_findings(url, timeout_s)))
    else:
        checks.append(Check("port", lambda: here.port_findings(settings)))
    if settings.target == "kubernetes":
        return checks + _on_cluster(settings, pipelines, namespaces)
    return [*checks, Check("local runtime", lambda: here.local_findings(pipelines))]


def _settings(at: str | None, timeout_s: float) -> Settings:
    """The settings, with the cluster that `--at` names as their target."""
    settings = Settings.from_env()
    shorter = replace(
        settings,
        kube_timeout_s=min(settings.kube_timeout_s, timeout_s),
        prometheus_timeout_s=min(settings.prometheus_timeout_s, timeout_s),
    )
    kind, _, kubeconfig = (at or "").partition(":")
    if kind != "kubernetes":
        return shorter
    path = str(Path(kubeconfig).expanduser()) if kubeconfig else settings.kubeconfig
    return replace(shorter, target="kubernetes", kubeconfig=path)


def _usable(settings: Settings, names: Sequence[str]) -> Mapping[str, Pipeline]:
    """The pipelines whose files can be read; what is wrong with the others is a finding of the files."""
    from ipa.cli.lookup import find_pipeline
    from ipa.files import load_pipeline

    if names:
        return {name: find_pipeline(name, settings.pipelines_dir) for name in names}
    found = {}
    for path in sorted(settings.pipelines_dir.glob("*/pipeline.yaml")):
        try:
            found[path.parent.name] = load_pipeline(path)
        except IpaError:
            continue
    return found


def _profiles_check(settings: Settings, pipeline: Pipeline) -> Check:
    from ipa.cli.doctor import here
    from ipa.cli.doctor.base import Check

    today = datetime.now(UTC).date()
    name = f"profiles of {pipeline.name}"
    return Check(name, lambda: here.profile_findings(settings, pipeline, today), turn=CPU)


def _on_cluster(
    settings: Settings, pipelines: Mapping[str, Pipeline], namespaces: Sequence[str]
) -> list[Check]:
    """What a service on a cluster needs."""
    from ipa.bootstrap import kube_client
    from ipa.bootstrap.targets import target_of
    from ipa.cli.doctor import here
    from ipa.cli.doctor.base import Check, failed
    from ipa.cli.doctor.cluster import SERVER, cluster_checks
    from ipa.cli.doctor.metrics import metrics_checks

    checks = metrics_checks(settings, pipelines)
    if settings.actuation == "gitops":
        checks.append(Check("gitops", lambda: here.gitops_findings(settings)))
    own = {it.namespace for it in pipelines.values() if target_of(settings).placed(it)}
    try:
        client = kube_client(settings)
    except IpaError as error:
        wrong = [failed(SERVER, error)]
        return [*checks, Check(SERVER, lambda: wrong)]
    return checks + cluster_checks(client, settings, pipelines, list(namespaces) or sorted(own))


def findings_table(found: Sequence[Finding]) -> RenderableType:
    """The findings for people: the remedy under what it mends."""
    from rich.console import Group
    from rich.text import Text

    from ipa.cli.doctor.base import State

    styles = {State.OK: "green", State.WARN: "yellow", State.FAIL: "bold red"}
    lines: list[RenderableType] = []
    for each in found:
        line = Text(f"{each.state:<5}", style=styles[each.state])
        lines.append(line + Text(f"{each.name}: {each.seen}", style=""))
        if each.remedy:
            lines.append(Text(f"       → {each.remedy}"))
    counts = {state: sum(each.state is state for each in found) for state in State}
    lines.append(Text(f"{counts[State.OK]} ok, {counts[State.WARN]} warnings, {counts[State.FAIL]} failures"))
    return Group(*lines)
