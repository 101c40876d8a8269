"""`ipa render`: the SeldonDeployment of a pipeline (of each of its parts in shape split), as YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from ipa.cli.plan import OBJECTIVE, PIPELINE, PIPELINES_DIR, PROFILES_DIR, Question, find_pipeline, plans
from ipa.model.errors import InfeasibleError, InputError, NotFoundError, Problem, UsageError
from ipa.model.on_seldon import at_cluster
from ipa.model.parts import with_share
from ipa.model.pipeline import Pipeline
from ipa.model.plan import WHOLE_PERCENT, StageConfig
from ipa.model.row_counts import unbatched_notes
from ipa.settings import Settings

# What is rendered runs on a cluster.
AT = "kubernetes"


def register(app: typer.Typer) -> None:
    """Add the verb `render`."""

    @app.command()
    def render(
        pipeline: str = PIPELINE,
        *,
        rate: float | None = typer.Option(None, "--rate", help="requests a second to plan for"),
        plan: Path | None = typer.Option(None, "--plan", help="a plan, as `ipa plan -o json` prints it"),
        objective: str | None = OBJECTIVE,
        pipelines_dir: Path | None = PIPELINES_DIR,
        profiles_dir: Path | None = PROFILES_DIR,
    ) -> None:
        """Print the SeldonDeployment that runs the pipeline: as planned, or else at its smallest.

        A plan with a mixture, or of several parts, gives a predictor for each of its configurations.
        """
        import yaml

        from ipa.adapters.kube.layouts import render_all
        from ipa.adapters.kube.manifest import smallest_configs

        if rate is not None and plan is not None:
            raise UsageError("--rate and --plan cannot both be given")
        if plan is None and rate is None and objective is not None:
            raise UsageError("--objective needs --rate")
        settings = Settings.from_env(pipelines_dir=pipelines_dir, profiles_dir=profiles_dir)
        found = rendered(pipeline, settings)
        for note in unbatched_notes(found):
            typer.echo(f"note: {note}", err=True)
        if plan is not None:
            configs = read_shares(plan) or read_plan(plan)
        elif rate is not None:
            question = Question(pipeline, objective, "tail", "free", None, pipelines_dir, profiles_dir, AT)
            configs = planned_configs(question, rate)
        else:
            configs = smallest_configs(found)
        typer.echo(yaml.safe_dump_all(render_all(found, configs), sort_keys=False), nl=False)


def rendered(name: str, settings: Settings) -> Pipeline:
    """The pipeline as it runs on a cluster, by its profiles where these can be used."""
    from ipa.adapters.files import load_profiles

    found = find_pipeline(name, settings.pipelines_dir)
    try:
        profiles = load_profiles(settings.profiles_dir, found.name)
    except (InputError, NotFoundError):
        profiles = {}
    return at_cluster(found, profiles)


def planned_configs(question: Question, rate_rps: float) -> tuple[StageConfig, ...]:
    """What the best plan for the rate runs; InfeasibleError where there is none."""
    best = plans(question, [rate_rps], explain=True)[0]
    if not best.configs:
        raise InfeasibleError(
            f"no plan for {question.pipeline!r} carries {rate_rps:g} requests a second",
            hint="; ".join(best.relaxations),
        )
    return best.configs


def read_plan(path: Path) -> tuple[StageConfig, ...]:
    """The configurations in a plan's JSON; InputError lists what is wrong with it."""
    return configs_in(_json(path), path)


def read_shares(path: Path) -> tuple[StageConfig, ...]:
    """The parts of a mixture in a plan's JSON, none where one plan is as good; InputError as `read_plan`."""
    return shares_in(_json(path), path)


def shares_in(data: Any, path: Path | str) -> tuple[StageConfig, ...]:
    """As `read_shares`, of values that are named `path` where they are wrong."""
    mixture = data.get("mixture") if isinstance(data, dict) else None
    parts = mixture.get("parts") if isinstance(mixture, dict) else None
    if not isinstance(parts, list):
        return ()
    found: list[StageConfig] = []
    for index, part in enumerate(parts):
        percent = part.get("share_percent") if isinstance(part, dict) else None
        if not isinstance(percent, int) or isinstance(percent, bool):
            where = f"{path}: mixture.parts[{index}].share_percent"
            raise InputError(f"{where} is {percent!r}, not a whole number")
        found += with_share(configs_in(part.get("plan"), path, f"mixture.parts[{index}].plan."), percent)
    return tuple(found)


def _json(path: Path) -> Any:
    from ipa.adapters.files.reading import read_json

    return read_json(path)


def configs_in(data: Any, path: Path | str, where: str = "") -> tuple[StageConfig, ...]:
    """As `read_plan`, of values that are named `path`, and `where` in it, where they are wrong."""
    stages = data.get("stages") if isinstance(data, dict) else None
    if not isinstance(stages, list | tuple) or not stages:
        raise InputError(f"{path} has no stages", hint="Write it with `ipa plan PIPELINE --rate R -o json`.")
    problems = [
        Problem(f"{where}stages[{index}]: {fault}", str(path))
        for index, stage in enumerate(stages)
        for fault in _faults(stage)
    ]
    if problems:
        raise InputError(f"{path} is not a plan", problems=problems)
    return tuple(
        StageConfig(
            stage["stage"],
            stage["variant"],
            stage["batch_size"],
            float(stage["cores"]),
            stage["replicas"],
            stage.get("share_percent", WHOLE_PERCENT),
        )
        for stage in stages
    )


_KINDS: dict[str, type | tuple[type, ...]] = {
    "stage": str,
    "variant": str,
    "batch_size": int,
    "cores": (int, float),
    "replicas": int,
}


def _faults(stage: Any) -> list[str]:
    if not isinstance(stage, dict):
        return ["is not an object"]
    kinds = _KINDS if "share_percent" not in stage else {**_KINDS, "share_percent": int}
    return [
        f"{key} is {stage.get(key)!r}, not {'a text' if kind is str else 'a number'}"
        for key, kind in kinds.items()
        if not isinstance(stage.get(key), kind) or isinstance(stage.get(key), bool)
    ]
