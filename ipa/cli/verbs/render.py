"""`ipa render`: the manifests that run a pipeline on a target, as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ipa.cli.options.planning import OBJECTIVE, PIPELINE, PIPELINES_DIR, PROFILES_DIR
from ipa.cli.plans.question import Question, plans
from ipa.model.errors import InfeasibleError, InputError, NotFoundError, UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.row_counts import unbatched_notes
from ipa.settings import Settings

if TYPE_CHECKING:
    from ipa.bootstrap.targets import Target

# What is rendered runs on a cluster.
AT = "kubernetes"


def render(
    pipeline: str = PIPELINE,
    *,
    rate: float | None = typer.Option(None, "--rate", help="requests a second to plan for"),
    plan: Path | None = typer.Option(None, "--plan", help="a plan, as `ipa plan -o json` prints it"),
    objective: str | None = OBJECTIVE,
    at: str = typer.Option(AT, "--at", metavar="TARGET", help="the target that runs what is printed"),
    pipelines_dir: Path | None = PIPELINES_DIR,
    profiles_dir: Path | None = PROFILES_DIR,
) -> None:
    """Print the manifests that run the pipeline: as planned, or else at its smallest.

    A plan with a mixture, or of several parts, has all of its configurations in them.
    """
    import yaml

    from ipa.bootstrap.targets import check_honoured, target_named
    from ipa.files.plans import read_plan

    if rate is not None and plan is not None:
        raise UsageError("--rate and --plan cannot both be given")
    if plan is None and rate is None and objective is not None:
        raise UsageError("--objective needs --rate")
    settings = Settings.from_env(pipelines_dir=pipelines_dir, profiles_dir=profiles_dir)
    target = target_named(at)
    found = rendered(target, pipeline, settings)
    check_honoured(target, [found])
    for note in unbatched_notes(found):
        typer.echo(f"note: {note}", err=True)
    if plan is not None:
        given = read_plan(plan)
        configs = given.shared or given.single
    elif rate is not None:
        question = Question(pipeline, objective, "tail", "free", None, pipelines_dir, profiles_dir, at)
        configs = planned_configs(question, rate)
    else:
        configs = target.smallest(found)
    typer.echo(yaml.safe_dump_all(target.render(found, configs), sort_keys=False), nl=False)


def rendered(target: Target, name: str, settings: Settings) -> Pipeline:
    """The pipeline as it runs on the target, by its profiles if these can be used."""
    from ipa.files import load_profiles
    from ipa.files.lookup import find_pipeline

    found = find_pipeline(name, settings.pipelines_dir)
    try:
        profiles = load_profiles(settings.profiles_dir, found.name)
    except (InputError, NotFoundError):
        profiles = {}
    return target.shape(found, profiles)


def planned_configs(question: Question, rate_rps: float) -> tuple[StageConfig, ...]:
    """The configurations of the best plan for the rate; InfeasibleError if there is none."""
    best = plans(question, [rate_rps], explain=True)[0]
    if not best.configs:
        raise InfeasibleError(
            f"no plan for {question.pipeline!r} carries {rate_rps:g} requests a second",
            hint="; ".join(best.relaxations),
        )
    return best.configs
