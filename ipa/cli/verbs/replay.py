"""`ipa replay`: re-run recorded decisions, with the policy that took them or another one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from ipa.cli.lookup import client_at
from ipa.cli.options.running import AT, NAMESPACE, PIPELINE
from ipa.cli.output import OUTPUT, Output, show
from ipa.model.errors import UsageError
from ipa.model.exits import ExitCode

if TYPE_CHECKING:
    from ipa.clients.base import PipelineClient

# A decision and the result of its replay, as JSON values.
Pair = dict[str, Any]


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
    output: Output = OUTPUT,
    at: str = AT,
    namespace: str | None = NAMESPACE,
) -> None:
    """Re-run recorded decisions from their inputs and compare the results.

    Exit code 2: a decision differs; 4: one could not be replayed, as its pipeline or profiles have changed.
    """
    from ipa.cli.views.replay_text import detail, listed, parted_nowhere

    if first and policy is None:
        raise UsageError("--first is for two policies", hint="Name the other one with --policy NAME.")
    if first and decision_id is not None:
        raise UsageError("--first looks through several decisions, so no ID goes with it")
    with client_at(at, namespace) as service:
        if decision_id is not None:
            found = [_again(service, _one(service, pipeline, decision_id), policy)]
        else:
            decisions = _newest(service, pipeline, limit, before)
            found = _all(service, decisions, policy, stop_at_first=first)
    if decision_id is not None:
        show(output, found[0], *detail(found[0]))
    elif not first:
        show(output, found, *listed(found, policy))
    elif found and _outcome(found[-1]) == "differs":
        show(output, found[-1], *detail(found[-1]))
    else:
        show(output, None, *parted_nowhere(found, str(policy)))
    code = _exit_code(found, is_one=decision_id is not None)
    if code is not ExitCode.OK:
        raise typer.Exit(code)


def _one(service: PipelineClient, pipeline: str, decision_id: str) -> dict[str, Any]:
    decision = service.decision(decision_id)
    if decision["pipeline"] != pipeline:
        raise UsageError(
            f"{decision_id} is a decision of pipeline {decision['pipeline']!r}, not of {pipeline!r}",
            hint=f"`ipa history {pipeline} --all` lists its own.",
        )
    return decision


def _newest(service: PipelineClient, pipeline: str, limit: int, before: str | None) -> list[dict[str, Any]]:
    return list(service.decisions(pipeline, limit=limit, before=before, inputs=False)["decisions"])


def _all(
    service: PipelineClient, decisions: Sequence[dict[str, Any]], policy: str | None, *, stop_at_first: bool
) -> list[Pair]:
    """Each with what came of it: newest first, or oldest first up to the first that differs."""
    from ipa.cli.progress import progress

    found = []
    with progress("taking again", len(decisions)) as step:
        for decision in reversed(decisions) if stop_at_first else decisions:
            found.append(_again(service, decision, policy))
            step(decision["decision_id"])
            if stop_at_first and _outcome(found[-1]) == "differs":
                break
    return found


def _again(service: PipelineClient, decision: dict[str, Any], policy: str | None) -> Pair:
    replayed = service.replay(decision["decision_id"], policy)
    return {"decision": {**decision, "inputs": ""}, "replayed": replayed}


def _outcome(pair: Pair) -> str:
    return str(pair["replayed"]["outcome"])


def _exit_code(found: Iterable[Pair], *, is_one: bool) -> ExitCode:
    """The exit code. Decisions of other kinds than ticks count only if requested by name."""
    outcomes = {_outcome(pair) for pair in found}
    if "differs" in outcomes:
        return ExitCode.CHANGED
    if "stale" in outcomes or (is_one and "nothing" in outcomes):
        return ExitCode.CONFLICT
    return ExitCode.OK
