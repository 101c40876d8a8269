"""The verbs that show and change a running pipeline, at a service."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ipa.cli import options
from ipa.cli.arguments import Bundle
from ipa.cli.options import Author, Place, client_at, duration_s
from ipa.cli.output import OUTPUT, Output, printer, show
from ipa.model.decision import Mode
from ipa.model.errors import (
    ConflictError,
    ExitCode,
    ForbiddenError,
    InfeasibleError,
    InputError,
    IpaError,
    UnavailableError,
    UsageError,
)
from ipa.model.pipeline import Pin

if TYPE_CHECKING:
    from ipa.clients.http import HttpClient
    from ipa.files.plans import PlanFile
    from ipa.service.service import ChangeOrder

# The errors whose exit code a hold has; all others are of guards and have 3.
HELD: dict[str, type[IpaError]] = {
    "hold.conflict": ConflictError,
    "hold.drift": ConflictError,
    "hold.in_progress": ConflictError,
    "hold.rbac": ForbiddenError,
    "hold.audit_failed": UnavailableError,
    "hold.workload_unknown": UnavailableError,
}
Json = Mapping[str, Any]
MODE = typer.Argument(metavar="MODE", help=f"one of {', '.join(Mode)}")


def status(
    pipeline: str | None = typer.Argument(None, autocompletion=options.complete_pipelines), *, place: Place
) -> None:
    """Show the state of a pipeline, or of all. Exit code 5: degraded, or rolled back."""
    from ipa.cli.views.status_text import status_table

    with place.client() as service:
        statuses = [service.status(name) for name in ([pipeline] if pipeline else service.names())]
    show(place.output, statuses[0] if pipeline else statuses, *map(status_table, statuses))
    if not all(each["healthy"] for each in statuses):
        raise typer.Exit(ExitCode.DEGRADED)


def watch_(
    pipeline: str = options.PIPELINE,
    *,
    until: str | None = typer.Option(
        None, "--until", help="settled: end once the last change is complete; changed: once a new one is"
    ),
    timeout: str | None = typer.Option(
        None, "--timeout", help="end after this time, as 90s, with exit code 6"
    ),
    place: Place,
) -> None:
    """Follow a pipeline as it changes. Exit codes with --until: 5 degraded or rolled back, 6 time-out.

    Prints a line of JSON, or a document of YAML, for each change; `ipa events` prints all that is recorded.
    """
    from ipa.cli.watching import Until, watch
    from ipa.control.loop.scheduler import SystemClock

    goal = None if until is None else options.parse_choice("--until", until, Until)
    limit_s = None if timeout is None else duration_s("--timeout", timeout)
    output = place.output
    with place.client() as service:
        console = printer(output)
        watch(service, pipeline, SystemClock(), console, until=goal, timeout_s=limit_s, output=output)


def history(
    pipeline: str = options.PIPELINE,
    *,
    limit: int = typer.Option(20, "--limit", min=1, max=500, help="most decisions to list"),
    all_: bool = typer.Option(False, "--all", help="list holds too, not only changes"),
    before: str | None = typer.Option(None, "--before", metavar="ID", help="list those before this decision"),
    verify: bool = typer.Option(False, "--verify", help="verify that no entry of the record was changed"),
    anchor: str | None = typer.Option(
        None,
        "--anchor",
        metavar="HEAD",
        help="with --verify, an earlier head of the record to verify against",
    ),
    place: Place,
) -> None:
    """List the changes of a pipeline with their reasons, newest first."""
    from ipa.cli.views.status_text import history_table

    with place.client() as service:
        if verify:
            from ipa.control.audit.record import head_of

            try:
                head = None if anchor is None else str(head_of(anchor))
            except ValueError as error:
                raise UsageError(
                    f"--anchor {error}", hint="`ipa history PIPELINE --verify` prints one."
                ) from error
            record = service.record(pipeline, head)
            lines = [f"{record['decisions']} decisions of {pipeline}, none of them changed"]
            if record["removed"]:
                lines.append(f"{record['removed']} of them, all holds, were removed by retention")
            if record["unchecked"]:
                lines.append(
                    f"{record['unchecked']} checkpoints were not checked: unsigned, or no key for them"
                )
            show(place.output, record, *lines, f"head to keep elsewhere: {record['head']}")
            return
        page = service.decisions(pipeline, limit=limit, before=before, applied_only=not all_)
    show(place.output, page, history_table(page["decisions"], is_changes=not all_))


@dataclass(frozen=True, slots=True)
class Wanted(Bundle):
    """The plan of a file, or the best one for a rate and an objective."""

    plan: Path | None = options.PLAN
    rate: float | None = options.RATE
    objective: str | None = options.OBJECTIVE

    def of(self, service: HttpClient, pipeline: str) -> PlanFile:
        """The configurations of the file, else of the best plan; InfeasibleError if there is none."""
        from ipa.files.plans import plan_in, read_plan

        if self.plan is not None:
            if self.rate is not None or self.objective is not None:
                raise UsageError("--plan cannot be given with --rate or --objective")
            given = read_plan(self.plan)
            if given.pipeline not in (None, pipeline):
                raise InputError(f"{self.plan} is a plan of pipeline {given.pipeline!r}, not of {pipeline!r}")
            return given
        best = service.plan(pipeline, self.rate, self.objective)
        if not best["stages"]:
            raise InfeasibleError(
                f"no plan for {pipeline!r} carries {best['rate_rps']:g} rps ({best['termination']})",
                hint="; ".join(f"Feasible with {move}" for move in best["relaxations"]),
            )
        return plan_in(best, "the plan")


def diff(
    pipeline: str = options.PIPELINE, *, wanted: Wanted, detailed: bool = options.DETAILED, place: Place
) -> None:
    """Compare the running configuration with the best plan, or one of a file. Exit code 3: infeasible."""
    from ipa.cli.difference import difference
    from ipa.cli.views.status_text import difference_table

    with place.client() as service:
        running = service.status(pipeline)
        change = difference(running, wanted.of(service, pipeline))
    show(place.output, asdict(change), difference_table(change))
    if detailed and change.changed:
        raise typer.Exit(ExitCode.CHANGED)


def apply(
    pipeline: str = options.PIPELINE_OR_PLAN,
    *,
    wanted: Wanted,
    confirm: bool = options.CONFIRM,
    author: Author,
    output: Output = OUTPUT,
    at: str | None = options.APPLY_AT,
) -> None:
    """Apply the best plan, or one of a file. Exit codes: 3 infeasible or held back, 4 changed meanwhile.

    A plan saved with `ipa plan --out` is refused if the pipeline, its profiles or the running configuration
    have changed since; the message names them. `ipa watch --until settled` waits until the change is ready.
    """
    from ipa.cli.difference import difference
    from ipa.cli.planning import read_saved
    from ipa.cli.views.status_text import difference_table
    from ipa.files.plans import plan_in

    plan_id = ""
    if pipeline.endswith(".json"):
        if wanted != Wanted():
            raise UsageError(
                f"{pipeline} is a plan, so --plan, --rate and --objective cannot be given with it"
            )
        place, pipeline, plan_id = read_saved(Path(pipeline))
        at = at or place
    with client_at(at or os.environ.get("IPA_AT") or options.DEFAULT_AT) as service:
        running = service.status(pipeline)
        if plan_id:
            plan, version = service.saved_plan(plan_id)
            target = plan_in(plan, "the plan")
        else:
            version, target = running["live"]["revision"], wanted.of(service, pipeline)
        if output in (Output.TEXT, Output.MD):
            show(output, None, difference_table(difference(running, target)))
        order = _order(version, author, confirm)
        if plan_id:
            decision = service.apply_saved(plan_id, order)
        else:
            decision = service.apply(pipeline, target.configs, order)
    _report(output, decision)


def rollback(
    pipeline: str = options.PIPELINE,
    *,
    to: str | None = typer.Option(
        None, "--to", metavar="REVISION", help="restore this revision of `ipa history`, or a decision's ID"
    ),
    preview: bool = typer.Option(False, "--preview", help="show the change, but do not make it"),
    confirm: bool = options.CONFIRM,
    author: Author,
    place: Place,
) -> None:
    """Take back your last change; run again, the one before it. Exit codes: 3 held back, 4 nothing is left.

    It shows the change first. Changes that others or the service made since are taken back with it. With --to
    it restores a revision instead, and may replace a change that does not get ready.
    """
    from ipa.cli.difference import difference
    from ipa.cli.views.status_text import difference_table, undo_lines
    from ipa.files.plans import plan_in

    with place.client() as service:
        running = service.status(pipeline)
        undo = service.preview_rollback(pipeline, to, by=author.by)
        if preview or place.output in (Output.TEXT, Output.MD):
            wanted = plan_in({"stages": undo["configs"]}, "the change")
            table = difference_table(difference(running, wanted))
            show(place.output, undo if preview else None, table, *undo_lines(undo))
        if preview:
            return
        order = _order(running["live"]["revision"], author, confirm)
        decision = service.rollback(pipeline, to, order)
    _report(place.output, decision)


def _order(version: str, author: Author, confirm: bool) -> ChangeOrder:
    """The author's order for a change that was decided at that version."""
    from ipa.service.service import ChangeOrder, at_revision

    return ChangeOrder(at_revision(version), author.by, author.reason, confirm)


def _report(output: Output, decision: dict[str, Any]) -> None:
    """Print the decision; exit with the code of the hold if it was not carried out."""
    text = f"{decision['reason']}: {decision['detail']}"
    if decision["decision_id"]:
        text += f"   ({decision['decision_id']})"
    show(output, decision, text)
    if decision["action"] == "apply" or decision["reason"] == "hold.no_change":
        return
    raise typer.Exit(HELD.get(decision["reason"], InfeasibleError).exit_code)


@dataclass(frozen=True, slots=True)
class Control(Bundle):
    """A change of how a service controls a pipeline."""

    pipeline: str = options.PIPELINE
    reason: str = options.REASON
    by: str = options.BY
    output: Output = OUTPUT
    at: str = options.AT

    def change(self, words: Callable[[Json], str], method: str, *path: str, body: Json | None = None) -> Json:
        """Change the pipeline's control by this author, print the answer in words, and return it."""
        attribution = {"by": self.by, "reason": self.reason}
        with client_at(self.at) as service:
            if body is None:
                now = service.control(method, self.pipeline, *path, params=attribution)
            else:
                given = {key: value for key, value in body.items() if value is not None}
                now = service.control(method, self.pipeline, *path, json={**given, **attribution})
        show(self.output, now, words(now))
        return now


def pause(
    control: Control,
    *,
    for_: str | None = typer.Option(
        None, "--for", help="duration, as 30min; until `ipa resume` if not given"
    ),
    until: str | None = typer.Option(
        None, "--until", help="end of the pause, a time with its offset, as 2026-01-31T18:00Z"
    ),
) -> None:
    """Pause the control of a pipeline; requests are still served."""
    from ipa.cli.layout import date_time

    def words(now: Json) -> str:
        end = date_time(now["paused_until"]) if now["paused_until"] else "`ipa resume`"
        return f"{control.pipeline} is paused until {end}"

    for_s = None if for_ is None else duration_s("--for", for_)
    control.change(words, "POST", "pause", body={"for_s": for_s, "until": until})


def resume(control: Control) -> None:
    """End the pause of a pipeline."""
    control.change(
        lambda now: f"{control.pipeline} is no longer paused; its mode is {now['mode']}", "POST", "resume"
    )


def mode(control: Control, mode_: Mode = MODE) -> None:
    """Set a pipeline's mode: advisory, shadow, guarded or active.

    advisory: the service decides and writes nothing. shadow: the same, each decision based on the one before.
    guarded: it writes only changes that add replicas. active: it writes every change. It warns if the
    profiles of the pipeline are not credible.
    """
    name = control.pipeline
    now = control.change(lambda now: f"{name} is {now['mode']}", "PUT", "mode", body={"mode": mode_.value})
    doubts = now["profile_doubts"] if Mode(now["mode"]).writes else ()
    for doubt in doubts:
        typer.echo(f"warning: its plans, which are now applied, may be wrong: {doubt}", err=True)
    if doubts:
        typer.echo(f"  → ipa fit {name} shows where. Until it is measured again:", err=True)
        typer.echo(f"    ipa mode {name} advisory", err=True)


def pin(
    control: Control,
    stage: str = options.STAGE,
    *,
    variant: str | None = typer.Option(None, "--variant", help="variant to pin"),
    batch: int | None = typer.Option(None, "--batch", help="batch size to pin"),
    cores: float | None = typer.Option(None, "--cores", help="cores of each replica to pin"),
    replicas: int | None = typer.Option(None, "--replicas", help="number of replicas to pin"),
) -> None:
    """Fix a part of a stage's configuration; the planner decides the rest. Replaces the stage's pin."""
    from ipa.cli.views.status_text import pin_words

    def words(now: Json) -> str:
        pinned = next(each for each in now["pins"] if each["stage"] == stage)
        return f"{stage} of {control.pipeline} is pinned: {pin_words(pinned)}"

    wanted = asdict(Pin(variant, batch, cores, replicas))
    control.change(words, "PUT", "pins", stage, body=wanted)


def unpin(control: Control, stage: str = options.STAGE) -> None:
    """Remove the pin of a stage. Pins of the pipeline's file stay."""
    control.change(lambda _: f"{stage} of {control.pipeline} is no longer pinned", "DELETE", "pins", stage)


def freeze(
    control: Control,
    *,
    from_: str | None = typer.Option(None, "--from", help="start, a time with its offset; now if not given"),
    until: str = typer.Option(..., "--until", help="end, a time with its offset, as 2026-01-31T18:00Z"),
    weekly: bool = typer.Option(
        False, "--weekly", help="repeat every week, at the same days and hours in UTC"
    ),
) -> None:
    """Forbid changes within a window of time; requests are still served."""
    words = _freezes(f"freezes of {control.pipeline}")
    control.change(words, "POST", "freezes", body={"start": from_, "end": until, "weekly": weekly})


def unfreeze(
    control: Control,
    freeze_: str | None = typer.Argument(None, metavar="ID", help="id of a freeze; all if not given"),
) -> None:
    """Remove one freeze or all, future ones included."""
    words = _freezes(f"freezes left of {control.pipeline}", f"{control.pipeline} is not frozen")
    control.change(words, "DELETE", "freezes", *([freeze_] if freeze_ else []))


def _freezes(title: str, none: str = "") -> Callable[[Json], str]:
    from ipa.cli.views.status_text import freeze_words

    def words(now: Json) -> str:
        lines = [f"  {freeze_words(each)}" for each in now["freezes"]]
        return "\n".join((f"{title}:", *lines)) if lines else none

    return words
