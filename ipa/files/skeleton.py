"""New pipeline and profile files for a person to go on with: commented, and checked by an editor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipa.files.dumping import FlowMapping, dump_yaml
from ipa.files.kinds import schema_text
from ipa.files.pipelines import FILE_NAME, pipeline_to_mapping
from ipa.files.profiles import load_profile
from ipa.model.errors import ConflictError, InputError, IpaError, Problem
from ipa.model.pipeline import Pipeline, Stage

# What is worth what until its owner says: an answer that is right ten, a core a tenth.
USUAL_OBJECTIVE = {"alpha": 10, "beta": 0.1}
# Above the key that they are about.
COMMENTS = {
    "sla": "What a plan must keep: the latency of so many percent of the requests, end to end.",
    "graph": "A list is a chain. Routers and combiners need a mapping of each stage to what it comes after.",
    "bounds": "What no plan may cross. cores: those of all replicas together, also while a change rolls out.",
    "objectives": "What is best: the most of alpha · accuracy − beta · cores.",
    "seldon": "The SeldonDeployment. Every variant below says how it runs there.",
    "stages": "The variants of a stage do the same task: one runs, with the replicas that the load needs.",
}
RUN_HINT = """\
# How a variant runs, for example:
#   - name: small
#     seldon: {image: registry.example/detect:1, env: {MODEL_VARIANT: small}, memory: 1GiB}
#     local: {implementation: my_package.Detect, parameters: {size: 320}}
"""
BLANK_VARIANT = """\
  - variant: {name}
    accuracy:   # a fraction, such as 0.65
    points: []  # p99 and mean: [{{cores: 1, batch: 1, latency: 50ms, latency_mean: 40ms}}]
"""


@dataclass(frozen=True, slots=True)
class Written:
    """The files that were written, and those left as they are."""

    written: tuple[Path, ...]
    kept: tuple[Path, ...]


def pipeline_text(pipeline: Pipeline, notes: tuple[str, ...] = ()) -> str:
    """The text of a new pipeline file; `notes` are comments at its head. It reads back as the pipeline.

    But for its objectives, which are the usual one.
    """
    mapping = pipeline_to_mapping(pipeline)
    mapping.pop("default_objective")
    if mapping["max_predictors"] == 1:
        mapping.pop("max_predictors")
    mapping["objectives"] = {"default": FlowMapping(USUAL_OBJECTIVE)}
    for key in ("sla", "bounds", "seldon"):
        if key in mapping:
            mapping[key] = FlowMapping(mapping[key])
    head = [f"# yaml-language-server: $schema=../{schema_name('pipeline')}\n"]
    head += [f"# {note}\n" for note in notes]
    has_runs = any(variant.seldon or variant.local for stage in pipeline.stages for variant in stage.variants)
    return "".join([*head, *_commented(mapping), "" if has_runs else RUN_HINT])


def _commented(mapping: Mapping[str, Any]) -> list[str]:
    parts = []
    for key, value in mapping.items():
        if key in COMMENTS:
            parts.append(f"# {COMMENTS[key]}\n")
        parts.append(dump_yaml({key: value}))
    return parts


def profile_text(pipeline: str, stage: Stage) -> str:
    """The text of a profile in which everything that only measuring tells is still to be filled in."""
    head = (
        f"# yaml-language-server: $schema=../{schema_name('profile')}\n"
        f"# What was measured of stage {stage.name}. `ipa profile {pipeline} --write` measures it and\n"
        "# writes this file anew; or fill in what you measured. `ipa validate` says what is missing.\n"
        f"apiVersion: ipa/v1\nkind: Profile\npipeline: {pipeline}\nstage: {stage.name}\n"
        "hardware:      # such as: 2 cores of an Intel Xeon at 2.60 GHz\n"
        "measured_on:   # the day, such as: 2026-11-24\n"
        "method:        # such as: 200 batches for each point after 20 to warm up\n"
        "variants:\n"
    )
    variants = [BLANK_VARIANT.format(name=variant.name) for variant in stage.variants]
    return head + "".join(variants)


def schema_name(kind: str) -> str:
    """The name of the schema's file beside the folders of pipelines or profiles."""
    return f"{kind}.schema.json"


def write_new(
    pipeline: Pipeline,
    pipelines_dir: Path,
    profiles_dir: Path,
    *,
    notes: tuple[str, ...] = (),
    force: bool = False,
) -> Written:
    """Write the pipeline, a profile to fill in for each stage, and the schemas that editors check them by.

    ConflictError where any of the pipeline or profiles is there and not `force`; nothing is written then. A
    profile that can be used is kept in any case: it was measured.
    """
    texts = {pipelines_dir / pipeline.name / FILE_NAME: pipeline_text(pipeline, notes)}
    for stage in pipeline.served:
        texts[profiles_dir / pipeline.name / f"{stage.name}.yaml"] = profile_text(pipeline.name, stage)
    there = [path for path in texts if path.exists()]
    if there and not force:
        raise ConflictError(
            f"pipeline {pipeline.name!r} has files already, which are left as they are",
            problems=[Problem("is there", str(path)) for path in there],
            hint="Give it another name, or write them anew with --force.",
        )
    kept = tuple(path for path in there if path.parent.parent == profiles_dir and _is_measured(path))
    for path in kept:
        texts.pop(path)
    schemas = dict(zip((pipelines_dir, profiles_dir), ("pipeline", "profile"), strict=True))
    texts |= {folder / schema_name(kind): schema_text(kind) for folder, kind in schemas.items()}
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error
    return Written(tuple(texts), kept)


def _is_measured(path: Path) -> bool:
    try:
        load_profile(path)
    except IpaError:
        return False
    return True
