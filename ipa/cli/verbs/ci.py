"""`ipa ci`: the effect of a change of files, before it is merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ipa.cli.options import FORECASTER, POLICY, FileFolders
from ipa.cli.output import OUTPUT, Output, say, show
from ipa.model.errors import ExitCode, UsageError
from ipa.settings import Settings

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ipa.service.review import Reviewed

MOST_SEEDS = 20


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
    fail_if: list[str] = typer.Option(
        [],
        "--fail-if",
        metavar="RULE",
        help='a figure of `ipa simulate -o json`, <, <=, > or >=, and a number, as "violation_ratio > 0.01"; '
        "with _increase at its end, how much it grows; may be repeated",
    ),
    policy: str = POLICY,
    forecaster: str | None = FORECASTER,
    seeds: int = typer.Option(3, "--seeds", min=1, max=MOST_SEEDS, help="simulated runs of each side"),
    output: Output = OUTPUT,
    folders: FileFolders,
) -> None:
    """Review changed pipeline and profile files: simulate both sides of the change on the same requests.

    Compares the work tree with its merge base with REF. Exit codes: 3 a rule is broken, nothing carries the
    load's first rate, or a profile changed without a measurement; 65 a file is wrong.
    """
    from ipa.bootstrap.targets import base_checkout, default_target
    from ipa.service.review import ReviewRequest, review_of, rule_of

    if trace is not None and workload is not None:
        raise UsageError("--trace and --workload cannot both be given")
    rules = [rule_of(text) for text in fail_if]
    settings = Settings.from_env(
        pipelines_dir=folders.pipelines_dir, profiles_dir=folders.profiles_dir, forecaster=forecaster
    )
    load = trace or workload or "bursty"
    with base_checkout(Path.cwd(), base) as (root, commit, before):
        request = ReviewRequest(root, before, load, rules, policy, seeds, settings, default_target, say)
        reviewed = review_of(request)
    code = ExitCode.INFEASIBLE if any(each.findings for each in reviewed) else ExitCode.OK
    values = {"base": base, "commit": commit, "load": load, "seeds": seeds, "policy": policy}
    show(output, {**values, "pipelines": reviewed, "exit_code": int(code)}, _lines(reviewed))
    if code:
        raise typer.Exit(code)


def _lines(reviewed: Sequence[Reviewed]) -> Iterator[RenderableType]:
    """Yield the effects on each pipeline, then the findings."""
    from ipa.cli.layout import ViewColumn, delta, make_table
    from ipa.model.resources import DIMENSIONS

    if not reviewed:
        yield "No pipeline has changed."
        return
    known = [name for each in reviewed for side in (each.before, each.after) for name in side or ()]
    headings = {f"{each.attribute}_mean": each.heading for each in DIMENSIONS}
    others = {name for name in known if name.endswith("_mean")} - {"cores_mean", "pas_mean", "accuracy_mean"}

    def column(heading: str, name: str, form: str, *, relative: bool = False) -> ViewColumn:
        def value(each: Reviewed) -> str:
            old, new = ((side or {}).get(name) for side in (each.before, each.after))
            return delta(old, new, form, relative=relative)

        return ViewColumn(heading, value)

    yield make_table(
        reviewed,
        ViewColumn("pipeline", "pipeline"),
        ViewColumn("change", lambda each: each.status.value),
        column("cores", "cores_mean", ".1f", relative=True),
        *(column(headings.get(name, name), name, ".1f", relative=True) for name in sorted(others)),
        *([column("USD/h", "usd_per_hour", ".3f")] if "usd_per_hour" in known else []),
        column("PAS", "pas_mean", ".3f"),
        column("late or lost", "violation_ratio", ".2%"),
        column("p99 s", "latency_p99_s", ".3f", relative=True),
    )
    for each in reviewed:
        for words in (*(f"❌ {finding}" for finding in each.findings), each.note):
            if words:
                yield f"  {each.pipeline}: {words}"
