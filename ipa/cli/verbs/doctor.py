"""`ipa doctor`: checks of everything that the service depends on, with remedies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import typer

from ipa.cli import shell_completion as completing
from ipa.cli.output import OUTPUT, Output, progress, show
from ipa.model.errors import ConfigurationError, IpaError
from ipa.model.exits import ExitCode
from ipa.model.findings import DoctorCheck, Finding, Severity, fail, failed, ok, warn
from ipa.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ipa.model.pipeline import Pipeline


def doctor(
    pipelines: list[str] | None = typer.Argument(
        None,
        help="check only what these pipelines need; all if not given",
        autocompletion=completing.pipelines,
    ),
    *,
    at: str | None = typer.Option(
        None,
        "--at",
        metavar="WHERE",
        help="kubernetes[:KUBECONFIG], or the URL of a service; IPA_TARGET if not given",
    ),
    namespace: list[str] = typer.Option(
        [],
        "--namespace",
        "-n",
        help="namespace whose rights are checked; those of the pipelines if not given",
    ),
    store: bool = typer.Option(
        False,
        "--store",
        help="check only the store, and all of it: pages, record, rights, disk; may take minutes",
    ),
    timeout_s: float = typer.Option(10.0, "--timeout", min=0.1, help="most seconds for each check"),
    output: Output = OUTPUT,
) -> None:
    """Check everything that the service needs, with a remedy for each fault. Exit code 1: a check failed.

    The command changes nothing. A warning means that the service works, with a limit.
    """
    from ipa.service.doctor import run_checks

    checks = _store_checks() if store else _checks(pipelines or [], at, namespace, timeout_s)
    with progress("checking", len(checks)) as step:
        found = run_checks(checks, timeout_s, step)
    show(output, [asdict(each) for each in found], findings_table(found))
    if any(each.state is Severity.FAIL for each in found):
        raise typer.Exit(ExitCode.ERROR)


def _store_checks() -> list[DoctorCheck]:
    """The checks of the store; only that of the settings if they are wrong."""
    from ipa.bootstrap.stores import store_checks

    try:
        return store_checks(Settings.from_env())
    except ConfigurationError as error:
        return [_found("settings", error)]


def _checks(
    names: Sequence[str], at: str | None, namespaces: Sequence[str], timeout_s: float
) -> list[DoctorCheck]:
    """The checks of the service and what it depends on; only that of the settings if they are wrong."""
    from ipa.bootstrap.doctor import settings_checks, target_checks
    from ipa.service import doctor as own_checks

    try:
        settings = _settings(at, timeout_s)
    except ConfigurationError as error:
        return [_found("settings", error)]
    pipelines = _usable(settings, names)
    checks = settings_checks(settings, pipelines)
    if at is not None and at.startswith(("http://", "https://")):
        url = at
        checks.append(DoctorCheck("service", lambda: service_findings(url, timeout_s)))
    else:
        checks.append(DoctorCheck("port", lambda: own_checks.port_findings(settings)))
    return checks + target_checks(settings, pipelines, namespaces)


def _found(name: str, error: IpaError) -> DoctorCheck:
    """A check whose finding is that error."""
    return DoctorCheck(name, lambda: [failed(name, error)])


def _settings(at: str | None, timeout_s: float) -> Settings:
    """The settings, with the target that `--at` names."""
    from ipa.bootstrap.targets import target_named
    from ipa.files.kinds.targets import TARGETS

    settings = Settings.from_env()
    shorter = replace(
        settings,
        kube_timeout_s=min(settings.kube_timeout_s, timeout_s),
        prometheus_timeout_s=min(settings.prometheus_timeout_s, timeout_s),
    )
    name, _, where = (at or "").partition(":")
    if name not in TARGETS:
        return shorter
    target = target_named(name)
    return replace(target.settings_at(shorter, where), target=target.name)


def _usable(settings: Settings, names: Sequence[str]) -> Mapping[str, Pipeline]:
    """The pipelines whose files can be read; the check of the files reports the others."""
    from ipa.files import load_pipeline
    from ipa.files.pipelines import find_pipeline

    if names:
        return {name: find_pipeline(name, settings.pipelines_dir) for name in names}
    found = {}
    for path in sorted(settings.pipelines_dir.glob("*/pipeline.yaml")):
        try:
            found[path.parent.name] = load_pipeline(path)
        except IpaError:
            continue
    return found


def service_findings(url: str, timeout_s: float) -> Iterator[Finding]:
    """Check a running service: a finding for each check of its `/readyz?verbose`."""
    import httpx

    name = "service"
    try:
        answer = httpx.get(f"{url.rstrip('/')}/readyz?verbose", timeout=timeout_s, trust_env=False)
        body = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        yield fail(name, f"{url} does not answer as ipa: {error or type(error).__name__}", "ipa serve")
        return
    if not answer.is_success:
        problems = "; ".join(str(each.get("message", "")) for each in body.get("errors", []))
        yield fail(
            name, f"{url} is not ready: {problems or body.get('detail', answer.status_code)}", "ipa serve"
        )
        return
    yield ok(name, f"{url} is ready{', but degraded' if body.get('degraded') else ''}")
    for check in body.get("checks", []):
        title, detail = f"service: {check['name']}", check.get("detail") or "fine"
        yield ok(title, detail) if check["ok"] else warn(title, detail, f"ipa status --at {url}")


def findings_table(found: Sequence[Finding]) -> RenderableType:
    """The findings for people, each with its remedy below it."""
    from rich.console import Group
    from rich.text import Text

    styles = {Severity.OK: "green", Severity.WARN: "yellow", Severity.FAIL: "bold red"}
    lines: list[RenderableType] = []
    for each in found:
        line = Text(f"{each.state:<5}", style=styles[each.state])
        lines.append(line + Text(f"{each.name}: {each.seen}", style=""))
        if each.remedy:
            lines.append(Text(f"       → {each.remedy}"))
    ok, warnings, failures = (sum(each.state is state for each in found) for state in Severity)
    lines.append(Text(f"{ok} ok, {warnings} warnings, {failures} failures"))
    return Group(*lines)
