"""`ipa init`: the files of a new pipeline."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

from ipa.cli.next_steps import CORES, FORCE, PERCENTILE, SLA, show_started, started
from ipa.cli.options.planning import PIPELINES_DIR, PROFILES_DIR
from ipa.cli.output import OUTPUT, Output
from ipa.model.errors import UsageError
from ipa.settings import Settings

STAGES = typer.Option(
    [],
    "--stage",
    "-s",
    metavar="NAME=VARIANT,...",
    help="a stage with its variants; repeat for each stage, in order",
)


def init(
    name: str = typer.Argument(metavar="NAME", help="name of the pipeline"),
    *,
    stage: list[str] = STAGES,
    sla: str = SLA,
    percentile: float = PERCENTILE,
    cores: float | None = CORES,
    namespace: str = typer.Option("default", "--namespace", "-n", help="its namespace on a cluster"),
    force: bool = FORCE,
    output: Output = OUTPUT,
    pipelines_dir: Path | None = PIPELINES_DIR,
    profiles_dir: Path | None = PROFILES_DIR,
) -> None:
    """Write the files of a new pipeline: a commented pipeline.yaml, and a profile to fill in for each stage.

    On a terminal it prompts for stages, SLA and cores if no --stage is given.
    """
    from ipa.files import pipeline_from_mapping

    if not stage:
        if not sys.stdin.isatty():
            raise UsageError(
                "--stage is needed", hint="For example --stage detect=small,large --stage read=base"
            )
        stage, sla, cores = _asked(sla)
    settings = Settings.from_env(pipelines_dir=pipelines_dir, profiles_dir=profiles_dir)
    pipeline = pipeline_from_mapping(_mapping(name, stage, sla, percentile, cores, namespace))
    found = started(pipeline, settings.pipelines_dir, settings.profiles_dir, force=force)
    show_started(output, found)


def _asked(sla: str) -> tuple[list[str], str, float | None]:
    """The stages, the SLA and the cores that the person types."""
    names = typer.prompt("Stages, in their order, with commas between").split(",")
    stages = []
    for name in (name.strip() for name in names):
        variants = typer.prompt(f"Variants of {name}, with commas between, the smallest first")
        stages.append(f"{name}={variants}")
    sla = typer.prompt("SLA: the latency of 99 of 100 requests", default=sla)
    cores = typer.prompt("Cores that all replicas together may use (0: no limit)", default=0.0, type=float)
    return stages, sla, cores or None


def _mapping(
    name: str, stages: list[str], sla: str, percentile: float, cores: float | None, namespace: str
) -> dict[str, Any]:
    """The pipeline as in a file; its reader checks the names."""
    from ipa.bootstrap.targets import starting_sections

    split = [_stage(text) for text in stages]
    bounds: dict[str, Any] = {"max_replicas": 8}
    return {
        "apiVersion": "ipa/v1",
        "kind": "Pipeline",
        "name": name,
        "sla": {"latency": sla, "percentile": percentile},
        "graph": [stage["name"] for stage in split],
        "bounds": bounds if cores is None else {"cores": cores, **bounds},
        "objectives": {"default": {}},
        **starting_sections(name, namespace),
        "stages": split,
    }


def _stage(text: str) -> dict[str, Any]:
    name, _, variants = text.partition("=")
    names = [variant.strip() for variant in variants.split(",") if variant.strip()]
    if not name.strip() or not names:
        raise UsageError(
            f"--stage {text!r} is not NAME=VARIANT,...", hint="For example --stage detect=small,large"
        )
    return {"name": name.strip(), "variants": [{"name": variant} for variant in names]}
