"""`ipa init` and `ipa import`: the files of a pipeline, new or made from a workload."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

import typer

from ipa.cli.options import FileFolders
from ipa.cli.output import OUTPUT, Output, show
from ipa.model.errors import UsageError
from ipa.model.masking import mask_url
from ipa.model.observation import known
from ipa.model.pipeline import Pipeline, Sla
from ipa.model.plan import StageConfig
from ipa.model.profile import StageProfile
from ipa.settings import Settings

SLA = typer.Option("1s", "--sla", help="latency SLA, end to end")
CORES = typer.Option(
    None, "--cores", min=0.1, help="most cores of all replicas together; no limit if not given"
)
ACCURACY = typer.Option(
    [],
    "--accuracy",
    metavar="STAGE=A",
    help="accuracy of a stage, or of STAGE/VARIANT, as 0.78; may be repeated",
)
FORCE = typer.Option(False, "--force", help="overwrite existing files")
STAGES = typer.Option(
    [],
    "--stage",
    "-s",
    metavar="NAME=VARIANT,...",
    help="a stage with its variants; repeat for each stage, in order",
)


def _write(
    output: Output,
    pipeline: Pipeline,
    settings: Settings,
    *,
    notes: tuple[str, ...] = (),
    running: tuple[StageConfig, ...] = (),
    force: bool = False,
    profiles: Iterable[StageProfile] = (),
    has_models: bool = False,
) -> None:
    """Write the files, check them, and print what remains to be done. ConflictError as `write_new`."""
    from ipa.files.check import check_files
    from ipa.files.pipelines import FILE_NAME, write_new
    from ipa.files.profiles import dump_profile

    folder, name = settings.pipelines_dir, pipeline.name
    home = settings.profiles_dir / name
    beside = {home / f"{it.stage}.yaml": dump_profile(it) for it in profiles}
    files = write_new(pipeline, folder, notes=notes, force=force, has_models=has_models, beside=beside)
    checked = check_files([folder / name / FILE_NAME], folder, settings.profiles_dir)
    problems = [str(it) for each in checked for it in each.problems]
    steps = [f"ipa plan {name} --rate 10"]
    if problems:
        steps.insert(0, f"ipa validate {folder / name}" if has_models else f"ipa profile {name} --write")
    lines = [f"wrote {path}" for path in files]
    lines += [f"runs  {config}" for config in running]
    lines += [f"note: {note}" for note in notes]
    if problems:
        lines.append("still missing (`ipa profile` measures it, if the models run on this machine):")
        lines += [f"  {problem}" for problem in problems]
    lines.append("next: " + "; then ".join(steps))
    values = {
        "pipeline": name,
        "written": list(map(str, files)),
        "missing": problems,
        "next": steps,
        "notes": notes,
        "running": [asdict(config) for config in running],
    }
    show(output, values, *lines)


def init(
    name: str = typer.Argument(metavar="NAME", help="name of the pipeline"),
    *,
    stage: list[str] = STAGES,
    sla: str = SLA,
    cores: float | None = CORES,
    namespace: str = typer.Option("default", "--namespace", "-n", help="its namespace on a cluster"),
    force: bool = FORCE,
    output: Output = OUTPUT,
    folders: FileFolders,
) -> None:
    """Write the files of a new pipeline, with a constant model that runs and can be measured at once.

    They are a commented pipeline.yaml, runtime.py and bench.py.
    """
    from ipa.bootstrap.targets import targets
    from ipa.files import pipeline_from_mapping
    from ipa.files.pipelines import with_constant_models

    if not stage:
        raise UsageError("--stage is needed", hint="For example --stage detect=small,large --stage read=base")
    settings = folders.settings
    split = [_stage(text) for text in stage]
    bounds: dict[str, Any] = {"max_replicas": 8}
    # As in a file, whose reader checks the names.
    mapping = {
        "apiVersion": "ipa/v1",
        "kind": "Pipeline",
        "name": name,
        "sla": {"latency": sla},
        "graph": [each["name"] for each in split],
        "bounds": bounds if cores is None else {"cores": cores, **bounds},
        "objectives": {"default": {}},
        "stages": split,
    }
    with_constant_models(mapping, settings.pipelines_dir)
    mapping |= {
        target.sections.key: section
        for target in targets()
        if (section := target.starting_section(name, namespace))
    }
    _write(output, pipeline_from_mapping(mapping), settings, force=force)


def _stage(text: str) -> dict[str, Any]:
    name, _, variants = text.partition("=")
    names = [variant.strip() for variant in variants.split(",") if variant.strip()]
    if not name.strip() or not names:
        raise UsageError(
            f"--stage {text!r} is not NAME=VARIANT,...", hint="For example --stage detect=small,large"
        )
    return {"name": name.strip(), "variants": [{"name": variant} for variant in names]}


def import_(
    workloads: list[str] = typer.Argument(
        None, metavar="[WORKLOAD]...", help="its name; of a chain of stock Deployments all, in their order"
    ),
    *,
    file: Path | None = typer.Option(None, "--file", "-f", help="a YAML or JSON file that holds it"),
    at: str = typer.Option(
        "kubernetes", "--at", metavar="WHERE", help="kubernetes, deployments or scale, and :KUBECONFIG"
    ),
    namespace: str | None = typer.Option(None, "--namespace", "-n", help="namespace; default if not given"),
    name: str | None = typer.Option(None, "--name", help="name of the pipeline; the workload's if not given"),
    predictor: str = typer.Option("", "--predictor", help="predictor to read; the busiest if not given"),
    sla: str = SLA,
    cores: float | None = CORES,
    rate: float | None = typer.Option(
        None, "--rate", min=0, help="requests a second that it gets now; what Prometheus has if not given"
    ),
    accuracy: list[str] = ACCURACY,
    force: bool = FORCE,
    output: Output = OUTPUT,
    folders: FileFolders,
) -> None:
    """Write a pipeline's files from its workload on a cluster: graph, images, env, batching, configuration.

    Notes list what the workload does not tell. The workload is not changed. Profiles that are not there are
    assumed by what runs, so that plans need no measurement first.
    """
    from ipa.bootstrap.targets import ImportRequest, target_named
    from ipa.cli.options import duration_s, parse_pairs
    from ipa.files import pipeline_from_mapping, pipeline_to_mapping
    from ipa.files.check import check_files
    from ipa.files.targets import TARGETS
    from ipa.optimize.graph import graph_of
    from ipa.profiling.priors import assumed_profiles

    settings = folders.settings
    request = ImportRequest(
        Sla(duration_s("--sla", sla)),
        pipeline=name or "",
        part=predictor,
        workloads=tuple(workloads or ()),
        namespace=namespace,
        file=file,
    )
    kind, _, where = at.partition(":")
    if kind not in TARGETS:
        raise UsageError(
            f"--at {mask_url(at)!r} is not a cluster",
            hint="Use kubernetes, deployments or scale, each also with :~/.kube/config",
        )
    target = target_named(kind)
    imported = target.imported(settings, where, request)
    pipeline = replace(imported.pipeline, bounds=replace(imported.pipeline.bounds, cores=cores))
    # Read it as a file, so that every fault that a file may have is reported.
    pipeline = pipeline_from_mapping(pipeline_to_mapping(pipeline))
    running, graph = tuple(imported.configs), graph_of(pipeline.stages)
    names, latencies_s = [stage.name for stage in pipeline.stages], dict[str, float | None]()
    if rate is None and file is None and running:
        signals = target.signals(settings, pipeline)
        rate = known(signals.arrival_rate_rps)
        latencies_s = {name: known(it.latency_s) for name, it in signals.stages.items()}
    of_stages = ((it.name, *(f"{it.name}/{each.name}" for each in it.variants)) for it in pipeline.stages)
    accuracies = parse_pairs(
        "--accuracy", accuracy, kind="STAGE", known=list(chain.from_iterable(of_stages)), most=1.0
    )
    checked = check_files([settings.profiles_dir], settings.pipelines_dir, settings.profiles_dir)
    pipeline, profiles, assumed = assumed_profiles(
        pipeline,
        running or target.smallest(pipeline),
        {} if rate is None else {name: rate * share for name, share in zip(names, graph.reach, strict=True)},
        latencies_s,
        [each.profile for each in checked if each.profile],
        accuracies,
        [[names[at] for at in path] for path in graph.paths],
        datetime.now(UTC).date(),
    )
    goal = pipeline.sla
    notes = (
        *imported.notes,
        f"the SLA is {goal.latency_s:g} s at p{goal.percentile:g} (--sla)",
        "each stage has the one variant that runs: add those that could run instead",
        *assumed,
    )
    _write(
        output,
        pipeline,
        settings,
        notes=notes,
        running=running,
        profiles=profiles,
        force=force,
        has_models=True,
    )
