"""The verbs for overrides of a pipeline: mode, pin, unpin, freeze, unfreeze, release."""

from __future__ import annotations

import typer

from ipa.cli import shell_completion as completing
from ipa.cli.lookup import service_at
from ipa.cli.options.running import AT, BY, NAMESPACE, PIPELINE, REASON
from ipa.cli.output import OUTPUT, Output, show
from ipa.cli.views.status_text import freeze_words, pin_words
from ipa.model.decision import Mode
from ipa.model.errors import UsageError
from ipa.model.pipeline import Pin
from ipa.settings import Settings

STAGE = typer.Argument(metavar="STAGE", help="stage of the pipeline", autocompletion=completing.stages)
MODE = typer.Argument(metavar="MODE", help=f"one of {', '.join(Mode)}")


def mode(
    pipeline: str = PIPELINE,
    mode_: Mode = MODE,
    *,
    reason: str = REASON,
    by: str = BY,
    output: Output = OUTPUT,
    at: str = AT,
) -> None:
    """Set a pipeline's mode: advisory, shadow, guarded or active.

    advisory: the service decides and writes nothing. shadow: the same, each decision based on the one before.
    guarded: it writes only changes that add replicas. active: it writes every change.
    """
    with service_at(at, "mode") as service:
        control = service.set_mode(pipeline, mode_.value, by=by, reason=reason)
    show(output, control, f"{pipeline} is {control['mode']}")


def pin(
    pipeline: str = PIPELINE,
    stage: str = STAGE,
    *,
    variant: str | None = typer.Option(None, "--variant", help="variant to pin"),
    batch: int | None = typer.Option(None, "--batch", help="batch size to pin"),
    cores: float | None = typer.Option(None, "--cores", help="cores of each replica to pin"),
    replicas: int | None = typer.Option(None, "--replicas", help="number of replicas to pin"),
    reason: str = REASON,
    by: str = BY,
    output: Output = OUTPUT,
    at: str = AT,
) -> None:
    """Fix a part of a stage's configuration; the planner decides the rest. Replaces the stage's pin."""
    with service_at(at, "pin") as service:
        wanted = Pin(variant, batch, cores, replicas)
        control = service.pin(pipeline, stage, wanted, by=by, reason=reason)
    pinned = next(each for each in control["pins"] if each["stage"] == stage)
    show(output, control, f"{stage} of {pipeline} is pinned: {pin_words(pinned)}")


def unpin(
    pipeline: str = PIPELINE,
    stage: str = STAGE,
    *,
    reason: str = REASON,
    by: str = BY,
    output: Output = OUTPUT,
    at: str = AT,
) -> None:
    """Remove the pin of a stage. Pins of the pipeline's file stay."""
    with service_at(at, "unpin") as service:
        control = service.unpin(pipeline, stage, by=by, reason=reason)
    show(output, control, f"{stage} of {pipeline} is no longer pinned")


def freeze(
    pipeline: str = PIPELINE,
    *,
    from_: str | None = typer.Option(None, "--from", help="start, a time with its offset; now if not given"),
    until: str = typer.Option(..., "--until", help="end, a time with its offset, as 2026-01-31T18:00Z"),
    weekly: bool = typer.Option(
        False, "--weekly", help="repeat every week, at the same days and hours in UTC"
    ),
    reason: str = REASON,
    by: str = BY,
    output: Output = OUTPUT,
    at: str = AT,
) -> None:
    """Forbid changes within a window of time; requests are still served."""
    with service_at(at, "freeze") as service:
        control = service.freeze(pipeline, start=from_, end=until, weekly=weekly, by=by, reason=reason)
    found = "\n".join(f"  {freeze_words(each)}" for each in control["freezes"])
    show(output, control, f"freezes of {pipeline}:\n{found}")


def unfreeze(
    pipeline: str = PIPELINE,
    freeze_: str | None = typer.Argument(None, metavar="ID", help="id of a freeze; all if not given"),
    *,
    reason: str = REASON,
    by: str = BY,
    output: Output = OUTPUT,
    at: str = AT,
) -> None:
    """Remove one freeze or all, future ones included."""
    with service_at(at, "unfreeze") as service:
        control = service.unfreeze(pipeline, freeze_, by=by, reason=reason)
    left = "\n".join(f"  {freeze_words(each)}" for each in control["freezes"])
    show(output, control, f"freezes left of {pipeline}:\n{left}" if left else f"{pipeline} is not frozen")


def release(
    pipeline: str = PIPELINE,
    *,
    output: Output = OUTPUT,
    at: str = typer.Option(
        "kubernetes", "--at", metavar="WHERE", help="kubernetes[:KUBECONFIG]; IPA_INSTALL names the install"
    ),
    namespace: str | None = NAMESPACE,
) -> None:
    """Give up the ownership of a pipeline's objects on a cluster, so that another install may write them.

    Stop this install's service first, or set the pipeline to advisory: its next write would claim them again.
    """
    from ipa.bootstrap.one_shot import release as give_up
    from ipa.clients.http import is_target

    if not is_target(at):
        raise UsageError(f"release is for a cluster, and {at} is none", hint="Use --at kubernetes.")
    settings = Settings.from_env()
    names, install = give_up(settings, at, pipeline, namespace), settings.install
    text = f"install {install!r} gave up {', '.join(names)}" if names else f"no install owns {pipeline}"
    show(output, {"install": install, "released": names}, text)
