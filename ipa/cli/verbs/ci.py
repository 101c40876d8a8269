"""`ipa ci`: the effect of a change of files, before it is merged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ipa.cli.options import FORECASTER, POLICY, FileFolders
from ipa.cli.output import OUTPUT, Output, printed, show
from ipa.model.errors import ExitCode, InputError, UsageError
from ipa.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ipa.report.review import Review

MOST_SEEDS = 100


def ci(
    *,
    base: str = typer.Option(
        ..., "--base", metavar="REF", help="branch or commit that the change will be merged into"
    ),
    trace: str | None = typer.Option(
        None, "--trace", help="trace file, with options as FILE?scale=2&from=1h"
    ),
    workload: str | None = typer.Option(
        None,
        "--workload",
        help="load if there is no trace: bursty (the default), steady_low, steady_high or fluctuating",
    ),
    policy_file: Path | None = typer.Option(
        None, "--policy-file", help="file of guardrails; guardrails.yaml here or at the top if not given"
    ),
    policy: str = POLICY,
    forecaster: str | None = FORECASTER,
    seeds: int = typer.Option(3, "--seeds", min=1, max=MOST_SEEDS, help="simulated runs of each side"),
    output: Output = OUTPUT,
    comment: Path | None = typer.Option(
        None, "--comment", help="write a comment in Markdown to this file; it is empty if nothing changed"
    ),
    folders: FileFolders,
) -> None:
    """Review changed pipeline, profile and guardrails files: plan and simulate both sides of the change.

    Compares the work tree with its merge base with REF. Exit codes: 0 no change above the threshold, 2 a
    change above it, 3 a guardrail is broken, a rate has no plan or a profile changed without a measurement,
    65 a file is wrong.
    """
    from ipa.bootstrap.targets import base_checkout, default_target
    from ipa.control.canonical import plain
    from ipa.report.review import comment as comment_of
    from ipa.service.review import ReviewRequest, review_of

    if trace is not None and workload is not None:
        raise UsageError("--trace and --workload cannot both be given")
    if comment is not None and not comment.parent.is_dir():
        raise UsageError(f"there is no folder {comment.parent} to write {comment.name} to")
    settings = Settings.from_env(
        pipelines_dir=folders.pipelines_dir, profiles_dir=folders.profiles_dir, forecaster=forecaster
    )
    with base_checkout(Path.cwd(), base) as (root, commit, before):
        asked = ReviewRequest(
            root,
            before,
            base,
            commit,
            trace if trace is not None else workload,
            policy_file,
            policy,
            seeds,
            settings,
            default_target,
            lambda words: typer.echo(words, err=True),
        )
        review = review_of(asked)
    if comment is not None:
        try:
            comment.write_text(comment_of(review), encoding="utf-8", newline="\n")
        except OSError as error:
            raise InputError(f"{comment} cannot be written: {error.strerror}") from error
    if not printed(output, {**plain(review), "exit_code": int(_exit_code(review))}):
        if output is Output.MD and not review.is_silent:
            typer.echo(comment_of(review), nl=False)
        elif not review.problems:
            show(Output.TEXT, None, _lines(review))
    if review.problems:
        raise InputError("the change has files that cannot be used", problems=review.problems)
    if _exit_code(review):
        raise typer.Exit(_exit_code(review))


def _exit_code(review: Review) -> ExitCode:
    if review.problems:
        return ExitCode.INPUT
    if review.findings:
        return ExitCode.INFEASIBLE
    return ExitCode.OK if review.is_silent else ExitCode.CHANGED


def _lines(review: Review) -> Iterator[RenderableType]:
    """Yield the effects on each pipeline, then the findings."""
    from ipa.cli.layout import ViewColumn, table_of
    from ipa.report.review import cells, headline, verdict

    yield f"IPA: {headline(review)}   {verdict(review)}"
    if review.pipelines:
        rows = [{"pipeline": each.pipeline, **cells(review, each)} for each in review.pipelines]
        yield table_of(rows, *(ViewColumn(key, key) for key in rows[0]))
    for each in review.pipelines:
        for finding in each.findings:
            limit = f" (fails if {finding.rule})" if finding.rule else ""
            yield f"  ❌ {each.pipeline}: {finding.words}{limit}"
        if each.note:
            yield f"  {each.pipeline}: {each.note}"
