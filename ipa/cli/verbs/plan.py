"""`ipa plan`, `explain`, `fleet` and `render`: the best configurations for a load."""

from __future__ import annotations

from dataclasses import asdict
from math import inf
from pathlib import Path

import typer

from ipa.cli import options
from ipa.cli.options import FileFolders, accelerator_counts, memory_gib, parse_pairs
from ipa.cli.output import OUTPUT, Output, show
from ipa.cli.planning import EXIT_CODES, Question, planned, propose
from ipa.model.errors import ExitCode, InfeasibleError, UsageError
from ipa.model.pipeline import Bounds
from ipa.model.serving import unbatched_notes
from ipa.settings import Settings

FLEET = typer.Argument(metavar="PIPELINE=RATE", help="pipelines, each with its requests a second")


def plan(
    *,
    rate: float = options.PLAN_RATE,
    sets: bool | None = typer.Option(
        None, "--sets/--no-sets", help="let several variants of the only stage share its load"
    ),
    out: Path | None = typer.Option(
        None, "--out", metavar="FILE", help="save the plan for `ipa apply FILE`; needs --at URL"
    ),
    detailed: bool = options.DETAILED,
    question: Question,
) -> None:
    """Show the best plan for a rate. Exit code 3: none is feasible, and what would be; 6: out of time.

    The file or --sets choose a single configuration or a set of variants.
    --out saves where the service keeps the plan: `ipa apply` refuses it once an input of it has changed.
    """
    from ipa.cli.views.result_text import plan_lines
    from ipa.clients.http import is_service
    from ipa.profiling.findings import doubts
    from ipa.service.measuring import worth_of_measuring

    if question.at is not None and is_service(question.at):
        code, is_change = propose(question, rate, sets, out)
        raise typer.Exit(code or (ExitCode.CHANGED if detailed and is_change else 0))
    if out is not None or detailed:
        raise UsageError(
            "--out and --detailed-exitcode compare with the running configuration, so they need a service",
            hint="Give its URL with --at.",
        )
    best = planned(question, rate, sets)
    show(question.output, best.to_json(), plan_lines(best))
    pipeline, profiles, settings = question.files
    if doubtful := doubts(pipeline.served, profiles):
        each = ", ".join(f"{doubt.stage} ({'; '.join(doubt.reasons)})" for doubt in doubtful)
        remedy = f"ipa fit {pipeline.name}"
        typer.echo(f"warning: the plan rests on profiles that are not credible: {each}: {remedy}", err=True)
        solver = question.solver or settings.solver
        worth = worth_of_measuring(question.at_rate(rate), best, solver, settings.solver_deadline_s)
        typer.echo("".join(f"  → {words}\n" for words in worth), err=True, nl=False)
    raise typer.Exit(EXIT_CODES.get(best.termination, 0))


def explain(
    *,
    rate: float = options.PLAN_RATE,
    deadline_s: float = typer.Option(10.0, "--deadline", help="most seconds for the explanation"),
    question: Question,
) -> None:
    """Explain the best plan for a rate: what limits it, its alternatives, and what would change it.

    Exit code 3: no plan is feasible, and what would be; 6: out of time.
    """
    from ipa.cli.views.result_text import explanation_lines
    from ipa.optimize.explain import explain as explain_plan

    if not deadline_s > 0:
        raise UsageError(f"--deadline must be above 0 seconds, not {deadline_s:g}")
    plan = question.plan(rate, explain=False)
    explained = explain_plan(question.at_rate(rate).problem(), plan, deadline_s)
    show(question.output, explained.to_json(), explanation_lines(explained))
    raise typer.Exit(EXIT_CODES.get(plan.termination, 0))


def render(
    pipeline: str = options.FILE_PIPELINE,
    *,
    rate: float | None = typer.Option(None, "--rate", help="requests a second to plan for"),
    plan: Path | None = options.PLAN,
    objective: str | None = options.OBJECTIVE,
    at: str | None = typer.Option(
        None, "--at", metavar="TARGET", help="the target that runs it, by default that of its file's section"
    ),
    folders: FileFolders,
) -> None:
    """Print the manifests that run the pipeline: with a plan's configuration, else with the smallest one.

    A plan of several configurations side by side has all of them in its manifests.
    """
    import yaml

    from ipa.bootstrap.targets import check_honoured, cluster_target, target_named, usable_profiles
    from ipa.files.pipelines import find_pipeline
    from ipa.files.plans import read_plan

    if rate is not None and plan is not None:
        raise UsageError("--rate and --plan cannot both be given")
    if plan is None and rate is None and objective is not None:
        raise UsageError("--objective needs --rate")
    described = find_pipeline(pipeline, folders.settings.pipelines_dir)
    target = target_named(at) if at else cluster_target(folders.settings, described)
    described = target.shape(described, usable_profiles(folders.settings, described.name))
    check_honoured(target, [described])
    if not described.runnable:
        typer.echo(f"note: planned only: {described.not_runnable_because}", err=True)
    for note in unbatched_notes(described):
        typer.echo(f"note: {note}", err=True)
    if plan is not None:
        configs = read_plan(plan).configs
    elif rate is not None:
        best = Question(pipeline, objective, at=target.name, **asdict(folders)).plan(rate)
        if not best.configs:
            raise InfeasibleError(
                f"no plan for {pipeline!r} carries {rate:g} requests a second",
                hint="; ".join(best.relaxations),
            )
        configs = best.configs
    else:
        configs = target.smallest(described)
    typer.echo(yaml.safe_dump_all(target.render(described, configs), sort_keys=False), nl=False)


def fleet(
    pipelines: list[str] = FLEET,
    *,
    cores: float = typer.Option(..., "--cores", help="budget of cores for all pipelines together"),
    memory: str | None = typer.Option(
        None, "--memory", metavar="SIZE", help="budget of memory, such as 64GiB; unlimited if not given"
    ),
    accelerators: list[str] = typer.Option(
        [],
        "--accelerators",
        metavar="KIND=COUNT",
        help="budget of a kind, such as nvidia.com/gpu=4; unlimited if not given; repeatable",
    ),
    weight: list[str] = typer.Option(
        [], "--weight", metavar="PIPELINE=W", help="weight of a pipeline's objective; 1 if not given"
    ),
    objective: str | None = options.OBJECTIVE,
    compat: str | None = options.COMPAT,
    allocation: str = options.ALLOCATION,
    deadline_s: float | None = typer.Option(
        None, "--deadline", help="most seconds; IPA_SOLVER_DEADLINE_S if not given"
    ),
    output: Output = OUTPUT,
    folders: FileFolders,
) -> None:
    """Plan many pipelines together under one budget of cores, memory and accelerators.

    Exit code 3: the budget holds no plans of all pipelines, and how much of which resource is missing.
    """
    from ipa.cli.views.result_text import fleet_lines
    from ipa.optimize.fleet.plan import Member, plan_fleet

    if not 0 < cores < inf:
        raise UsageError(f"--cores must be above 0 and finite, not {cores:g}")
    if deadline_s is not None and not deadline_s > 0:
        raise UsageError(f"--deadline must be above 0 seconds, not {deadline_s:g}")
    limits = Bounds(
        memory_gib=None if memory is None else memory_gib("--memory", memory),
        accelerators=accelerator_counts(accelerators),
    ).limits
    rates = parse_pairs("PIPELINE=RATE", pipelines)
    weights = parse_pairs("--weight", weight, known=list(rates))
    members = []
    for name, rate_rps in rates.items():
        question = Question(name, objective, compat, allocation, **asdict(folders))
        problem = question.at_rate(rate_rps).problem()
        members.append(Member(problem, weights.get(name, 1.0)))
    within_s = Settings.from_env().solver_deadline_s if deadline_s is None else deadline_s
    planned = plan_fleet(members, cores, within_s, limits)
    show(output, planned.to_json(), fleet_lines(planned))
