"""`ipa doctor`: checks of everything that the service depends on, with remedies."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import typer

from ipa.cli.options import complete_pipelines
from ipa.cli.output import OUTPUT, Output, progress, show
from ipa.model.errors import ConfigurationError, ExitCode, IpaError, UnavailableError
from ipa.model.findings import DoctorCheck, Finding, Severity, fail, failed, ok, warn
from ipa.model.masking import mask_url
from ipa.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ipa.model.pipeline import Pipeline

# A service on this machine answers within this many seconds.
ANSWER_S = 2.0


def doctor(
    pipelines: list[str] | None = typer.Argument(
        None,
        help="check only what these pipelines need; all if not given",
        autocompletion=complete_pipelines,
    ),
    *,
    at: str | None = typer.Option(
        None,
        "--at",
        metavar="WHERE",
        help="kubernetes[:KUBECONFIG], or the URL of a service; if not given IPA_AT, "
        "the service that runs here, or IPA_TARGET",
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
    from ipa.bootstrap.stores import store_checks
    from ipa.service.doctor import run_checks

    try:
        settings = Settings.from_env() if store else _settings(at, timeout_s)
    except ConfigurationError as error:
        # Nothing else can be checked with settings that are wrong.
        findings = [failed("settings", error)]
        checks = [DoctorCheck("settings", lambda: findings)]
    else:
        named = pipelines or []
        checks = store_checks(settings) if store else _checks(settings, named, at, namespace, timeout_s)
    with progress("checking", len(checks)) as step:
        findings = run_checks(checks, timeout_s, step)
    show(output, [asdict(each) for each in findings], findings_table(findings))
    if any(each.state is Severity.FAIL for each in findings):
        raise typer.Exit(ExitCode.ERROR)


def _checks(
    settings: Settings, names: Sequence[str], at: str | None, namespaces: Sequence[str], timeout_s: float
) -> list[DoctorCheck]:
    """The checks of the service and everything it depends on.

    A remote service checks its target itself and reports it, since this machine may not reach the target.
    """
    from ipa.bootstrap.doctor import settings_checks, target_checks
    from ipa.clients.http import is_service
    from ipa.service.doctor import port_findings

    pipelines = _usable(settings, names)
    checks = settings_checks(settings, pipelines)
    own = f"http://{settings.host}:{settings.port}"
    target = _target_of_service(own)
    given = at or os.environ.get("IPA_AT", "")
    default = "" if given or target is None else own
    url = given if is_service(given) else default
    if url:
        checks.append(DoctorCheck("service", lambda: service_findings(url, names, timeout_s)))
    if url in ("", own):
        listens = ok("port", f"the service listens on {settings.host}:{settings.port}")
        is_ours = target is not None
        checks.append(DoctorCheck("port", lambda: [listens] if is_ours else port_findings(settings)))
        settings = replace(settings, target=target) if url and target else settings
        checks += target_checks(settings, pipelines, namespaces)
    return checks


def _target_of_service(url: str) -> str | None:
    """The target of the service at that URL, empty if it does not report one; None if no service answers."""
    from ipa.clients.http import HttpClient

    try:
        with HttpClient(url, timeout_s=ANSWER_S) as client:
            values = {each["variable"]: each["value"] for each in client.configuration()["settings"]}
            return str(values.get("IPA_TARGET", ""))
    except UnavailableError:
        return None
    except IpaError:
        return ""


def _settings(at: str | None, timeout_s: float) -> Settings:
    """The settings, with the target that `--at` names."""
    from ipa.bootstrap.targets import target_named
    from ipa.files.targets import TARGETS

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
    pipelines = {}
    for path in sorted(settings.pipelines_dir.glob("*/pipeline.yaml")):
        try:
            pipelines[path.parent.name] = load_pipeline(path)
        except IpaError:
            continue
    return pipelines


def service_findings(url: str, names: Sequence[str], timeout_s: float) -> Iterator[Finding]:
    """Check a running service: each check of its `/readyz?verbose`, its target, and the inputs of its loops.

    Only pipelines in `names` are checked, if there are any.
    """
    import httpx

    from ipa.clients import credential
    from ipa.clients.http import HttpClient

    name, at = "service", mask_url(url)
    try:
        ready = f"{url.rstrip('/')}/readyz?verbose"
        answer = httpx.get(ready, timeout=timeout_s, trust_env=False, auth=credential.auth())
        body = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        yield fail(name, f"{at} does not answer as ipa: {error or type(error).__name__}", "ipa serve")
        return
    if not answer.is_success:
        problems = "; ".join(str(each.get("message", "")) for each in body.get("errors", []))
        yield fail(
            name, f"{at} is not ready: {problems or body.get('detail', answer.status_code)}", "ipa serve"
        )
        return
    yield ok(name, f"{at} is ready{', but degraded' if body.get('degraded') else ''}")
    if target := _target_of_service(url):
        yield ok("service: target", target)
    known: list[str] = []
    try:
        with HttpClient(url, timeout_s=timeout_s) as client:
            known = client.names()
            for pipeline in names or known:
                yield _sight(pipeline, client.status(pipeline), at)
    except IpaError as error:
        yield warn("service: pipelines", f"it refuses to list them: {error.message}", "export IPA_TOKEN=KEY")
    for check in body.get("checks", []):
        if check["name"] in known:
            continue
        title, detail = f"service: {check['name']}", check.get("detail") or "fine"
        yield ok(title, detail) if check["ok"] else warn(title, detail, f"ipa status --at {at}")


def _sight(pipeline: str, status: Mapping[str, Any], at: str) -> Finding:
    """Check that the service observes the pipeline's load, without which it cannot plan."""
    name, remedy, live = f"service: {pipeline}", f"ipa status {pipeline} --at {at}", status["live"]
    if live is None:
        return warn(name, status.get("not_runnable_because") or "its loop has not run yet", remedy)
    reason = f"{live['reason']}: {live['detail']}"
    if live["rate_rps"] is None or live["reason"].startswith("hold.metrics"):
        return fail(name, f"it observes no load: {reason}", remedy)
    if not status["healthy"]:
        return warn(name, reason, remedy)
    return ok(name, f"it sees {live['rate_rps']:g} rps")


def findings_table(findings: Sequence[Finding]) -> RenderableType:
    """The findings for people, each with its remedy below it."""
    from rich.console import Group
    from rich.text import Text

    from ipa.cli.layout import counted

    styles = {Severity.OK: "green", Severity.WARN: "yellow", Severity.FAIL: "bold red"}
    lines: list[RenderableType] = []
    for each in findings:
        line = Text(f"{each.state:<5}", style=styles[each.state])
        lines.append(line + Text(f"{each.name}: {each.seen}", style=""))
        if each.remedy:
            lines.append(Text(f"       → {each.remedy}"))
    ok, warnings, failures = (sum(each.state is state for each in findings) for state in Severity)
    lines.append(Text(f"{ok} ok, {counted(warnings, 'warning')}, {counted(failures, 'failure')}"))
    return Group(*lines)
