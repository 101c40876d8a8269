"""The verbs about the record: `ipa events`, `ipa audit`, `ipa replay` and `ipa verify`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ipa.cli.options import AT, PIPELINE, Place, client_at, complete_pipelines
from ipa.cli.output import OUTPUT, Output, progress, show
from ipa.model.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from ipa.cli.views.result_text import Pair
    from ipa.clients.http import HttpClient

ONE = typer.Argument(
    None,
    metavar="PIPELINE",
    help="pipeline; all if not given; NAME@POLICY for a shadow policy",
    autocompletion=complete_pipelines,
)


def events(
    pipeline: str | None = ONE,
    *,
    since: int | None = typer.Option(None, "--since", min=0, help="start after the event with this id"),
    follow: bool = typer.Option(
        True, "--follow/--no-follow", help="wait for new events, or end after the present ones"
    ),
    output: Output = OUTPUT,
    at: str = AT,
) -> None:
    """Print decisions, results of changes and actions of people as they are recorded.

    One line for each; with -o json its entry in the record. A broken stream is resumed where it ended.
    """
    from ipa.cli.watching import followed
    from ipa.control.loop.scheduler import SystemClock

    place = since if follow or since is not None else 0
    with client_at(at) as service:
        for event in followed(service, pipeline, place, SystemClock(), follow=follow):
            typer.echo(event.data if output is Output.JSON else event.words)


def audit(
    pipeline: str | None = ONE,
    *,
    after: int = typer.Option(0, "--after", min=0, help="start after the entry with this number among all"),
    check: Path | None = typer.Option(
        None, "--check", metavar="FILE", help="verify exported lines of this file; - for standard input"
    ),
    anchor: list[str] | None = typer.Option(
        None,
        "--anchor",
        metavar="PIPELINE=HEAD",
        help="with --check, an earlier head of the record to verify against",
    ),
    key: Path | None = typer.Option(
        None, "--key", metavar="FILE", help="with --check, PEM file of the key that signs checkpoints"
    ),
    output: Output = OUTPUT,
    at: str = AT,
) -> None:
    """Export the record of decisions and changes, one entry per line.

    --check verifies an export without a service: exit code 1 if an entry was changed, removed or inserted.
    """
    if check is None:
        with client_at(at) as service:
            for line in service.audit(pipeline, after=after):
                typer.echo(line)
        return
    from ipa.bootstrap.keys import signature_verifier
    from ipa.control.audit.record import verify_lines
    from ipa.files.reading import lines_of

    lines = sys.stdin if str(check) == "-" else lines_of(check)
    verifier = None if key is None else signature_verifier(key)
    verified = verify_lines(lines, _anchors(anchor or ()), verifier)
    summaries, data = [], {}
    for name, each in verified.items():
        words = f"{each.entries} entries of {name}, none of them changed"
        if each.removed:
            words += f", {each.removed} holds of them removed by retention"
        if each.unchecked:
            words += f"; {each.unchecked} checkpoints not checked, since no key was given"
        summaries.append(f"{words}; head {each.head}")
        data[name] = {
            "entries": each.entries,
            "head": str(each.head),
            "removed": each.removed,
            "unchecked": each.unchecked,
        }
    show(output, data, summaries)


def _anchors(given: Iterable[str]) -> dict[str, Any]:
    from ipa.control.audit.record import head_of

    heads = {}
    for text in given:
        pipeline, separator, head = text.rpartition("=")
        try:
            heads[pipeline] = head_of(head)
        except ValueError as error:
            raise UsageError(f"--anchor {error}", hint="`ipa history --verify` prints one.") from error
        if not separator:
            raise UsageError(f"--anchor {text!r} names no pipeline", hint="As video=42:…")
    return heads


def replay(
    pipeline: str = PIPELINE,
    decision_id: str | None = typer.Argument(
        None, metavar="[ID]", help="id of a decision; the newest ones if not given"
    ),
    *,
    policy: str | None = typer.Option(
        None, "--policy", help="decide with this policy instead, and show the differences"
    ),
    first: bool = typer.Option(
        False, "--first", help="with --policy: stop at the first decision that differs"
    ),
    limit: int = typer.Option(20, "--limit", min=1, max=500, help="most decisions to replay"),
    before: str | None = typer.Option(
        None, "--before", metavar="ID", help="replay those before this decision"
    ),
    certificate: bool = typer.Option(
        False, "--certificate", help="with ID: print its certificate, for `ipa verify`"
    ),
    place: Place,
) -> None:
    """Re-run recorded decisions from their inputs and compare the results.

    Exit code 2: a decision differs; 4: one could not be replayed: pipeline, profiles or version differ.
    """
    from ipa.cli.views.result_text import detail, listed, parted_nowhere

    if first and (policy is None or decision_id is not None):
        raise UsageError("--first needs a second policy and takes no ID", hint="Name it with --policy NAME.")
    if certificate and (decision_id is None or policy is not None):
        raise UsageError("--certificate needs the ID of a decision, and takes no --policy")
    output = place.output
    with place.client() as service:
        if decision_id is not None:
            decision = service.decision(decision_id)
            if decision["pipeline"] != pipeline:
                raise UsageError(
                    f"{decision_id} is a decision of pipeline {decision['pipeline']!r}, not of {pipeline!r}",
                    hint=f"`ipa history {pipeline} --all` lists its own.",
                )
            pairs = [_again(service, decision, policy, certificate=certificate)]
        else:
            decisions = service.decisions(pipeline, limit=limit, before=before, inputs=False)["decisions"]
            pairs = []
            with progress("taking again", len(decisions)) as step:
                # Newest first, or oldest first up to the first that differs.
                for decision in reversed(decisions) if first else decisions:
                    pairs.append(_again(service, decision, policy))
                    step(decision["decision_id"])
                    if first and _outcome(pairs[-1]) == "differs":
                        break
    if decision_id is None and not first:
        show(output, pairs, *listed(pairs, policy))
    elif decision_id is None and not (pairs and _outcome(pairs[-1]) == "differs"):
        show(output, None, *parted_nowhere(pairs, str(policy)))
    elif values := pairs[-1]["replayed"]["certificate"]:
        show(Output.JSON, values)
    else:
        show(output, pairs[-1], *detail(pairs[-1]))
    outcomes = set(map(_outcome, pairs))
    # Decisions without recorded inputs count only if one was requested by name.
    is_stale = "stale" in outcomes or (decision_id is not None and "nothing" in outcomes)
    if is_stale or "differs" in outcomes:
        raise typer.Exit(ExitCode.CHANGED if "differs" in outcomes else ExitCode.CONFLICT)


def _again(service: HttpClient, decision: dict[str, Any], policy: str | None, **options: bool) -> Pair:
    replayed = service.replay(decision["decision_id"], policy=policy, **options)
    return {"decision": {**decision, "inputs": ""}, "replayed": replayed}


def _outcome(pair: Pair) -> str:
    return str(pair["replayed"]["outcome"])


def verify(
    file: Path = typer.Argument(metavar="FILE", help="certificate"),
    *,
    key: Path | None = typer.Option(
        None, "--key", metavar="FILE", help="PEM file of the key that must have signed it"
    ),
    output: Output = OUTPUT,
) -> None:
    """Verify the certificate of a decision without a service.

    Exit code 2: it is refuted, with each claim that does not hold and the computed value.
    """
    from ipa.bootstrap.keys import signature_verifier
    from ipa.control.audit.replay import verify_certificate
    from ipa.files.reading import read_json

    found = verify_certificate(read_json(file), str(file), None if key is None else signature_verifier(key))
    words = {"refuted": found.faults, "holds": found.verified, "not checked": found.unchecked}
    lines = [f"  {each}: {claim}" for each, claims in words.items() for claim in claims]
    show(output, found, [f"{file}: {'refuted' if found.faults else 'verified'}", *lines])
    raise typer.Exit(ExitCode.CHANGED if found.faults else ExitCode.OK)
