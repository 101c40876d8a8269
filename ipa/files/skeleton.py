"""New pipeline files for a person to go on with: commented, and checked by an editor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ipa.files.forms import FlowMapping, described, dump_yaml, schema_text
from ipa.files.pipelines import FILE_NAME, pipeline_form, pipeline_to_mapping
from ipa.files.targets import target_sections
from ipa.model.errors import ConflictError, InputError, Problem
from ipa.model.pipeline import Pipeline

# A model that runs, and the requests to measure it with.
MODEL_FILES = ("runtime.py", "bench.py")
# Beside the folders of pipelines.
SCHEMA = "pipeline.schema.json"
EXAMPLE_FILES = Path(__file__).parent / "example"
# What is worth what until its owner says: an answer that is right ten, a core a tenth.
USUAL_OBJECTIVE = {"alpha": 10, "beta": 0.1}


def pipeline_text(pipeline: Pipeline, notes: tuple[str, ...] = ()) -> str:
    """The text of a new pipeline file; `notes` are comments at its head. It reads back as the pipeline.

    But for its objectives, which are the usual one.
    """
    mapping = pipeline_to_mapping(pipeline)
    mapping.pop("default_objective")
    mapping["objectives"] = {"default": FlowMapping(USUAL_OBJECTIVE)}
    for key in ("sla", "bounds", *target_sections()):
        if key in mapping:
            mapping[key] = FlowMapping(mapping[key])
    head = [f"# yaml-language-server: $schema=../{SCHEMA}\n"]
    head += [f"# {note}\n" for note in notes]
    variants = (variant for stage in mapping["stages"] for variant in stage["variants"])
    has_runs = any(key in target_sections() for variant in variants for key in variant)
    return "".join([*head, *_commented(mapping), *(() if has_runs else _run_hint())])


def with_constant_models(mapping: dict[str, Any], pipelines_dir: Path) -> None:
    """Have each variant run on this machine with the constant model that `write_new` writes."""
    module = f"{pipelines_dir.resolve().name}.{mapping['name']}.runtime"
    for stage in mapping["stages"]:
        for variant in stage["variants"]:
            variant["local"] = {"implementation": f"{module}.Constant"}


def _commented(mapping: Mapping[str, Any]) -> Iterator[str]:
    """Each key with what its declaration says of it."""
    words = {key: text for key, _, text in described(pipeline_form())}
    for key, value in mapping.items():
        if words.get(key):
            yield f"# {words[key]}\n"
        yield dump_yaml({key: value})


def _run_hint() -> Iterator[str]:
    yield "# How a variant runs, for example:\n#   - name: small\n"
    for name, target in target_sections().items():
        if target.example:
            yield f"#     {name}: {target.example}\n"


def write_new(
    pipeline: Pipeline,
    pipelines_dir: Path,
    *,
    notes: tuple[str, ...] = (),
    force: bool = False,
    has_models: bool = False,
) -> tuple[Path, ...]:
    """Write the pipeline and the schema that editors check it by; return the paths.

    Unless it `has_models` also runtime.py and bench.py, to measure and run at once. ConflictError where any
    of these but the schema is there and not `force`; nothing is written then.
    """
    texts = {pipelines_dir / pipeline.name / FILE_NAME: pipeline_text(pipeline, notes)}
    for name in () if has_models else MODEL_FILES:
        text = EXAMPLE_FILES.joinpath("new", name).with_suffix(".txt").read_text(encoding="utf-8")
        texts[pipelines_dir / pipeline.name / name] = text
    there = [path for path in texts if path.exists()]
    if there and not force:
        raise ConflictError(
            f"pipeline {pipeline.name!r} already has files, which are left as they are",
            problems=[Problem("is there", str(path)) for path in there],
            hint="Choose another name, or overwrite them with --force.",
        )
    texts[pipelines_dir / SCHEMA] = schema_text("pipeline")
    for path, text in texts.items():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}") from error
    return tuple(texts)
