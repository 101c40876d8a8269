"""What runs now, from a JSON (or YAML) file: a plan as `ipa plan -o json` prints it, or a list of stages."""

from __future__ import annotations

import json
from dataclasses import fields
from math import isfinite
from pathlib import Path
from typing import Any

from ipa.files.document import Document, Pointer, parse, read_text, to_json_pointer
from ipa.files.words import unknown
from ipa.model.errors import InputError, NotFoundError
from ipa.model.pipeline import Pipeline
from ipa.model.plan import WHOLE_PERCENT, StageConfig, StagePlan

# A change from several that share the load has no price: the file is of one configuration alone.
SHARE = "share_percent"
KEYS = tuple(field.name for field in fields(StageConfig) if field.name != SHARE)
# A plan says more of a stage than what runs.
KNOWN = tuple(field.name for field in fields(StagePlan))


def load_running(path: Path, pipeline: Pipeline) -> tuple[StageConfig, ...]:
    """What each stage runs, in the order of the pipeline; stages that the file leaves out are unknown.

    InputError lists every problem with its line and key; NotFoundError where there is no such file.
    """
    text = read_text(path)
    if path.suffix == ".json":
        try:
            json.loads(text)
        except (ValueError, RecursionError) as error:
            why = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
            raise InputError(f"{path} is not JSON: {why}") from error
    document = parse(text, str(path))
    pointer, entries = _entries(document, pipeline)
    configs: dict[str, StageConfig] = {}
    for index, entry in enumerate(entries):
        config = _config(document, (*pointer, index), entry, pipeline)
        if config is None:
            continue
        if config.stage in configs:
            _note(document, (*pointer, index, "stage"), f"stage {config.stage!r} is there twice")
        configs[config.stage] = config
    document.raise_problems()
    return tuple(configs[stage.name] for stage in pipeline.served if stage.name in configs)


def _entries(document: Document, pipeline: Pipeline) -> tuple[Pointer, list[Any]]:
    """Where the stages stand, and what stands there."""
    pointer: Pointer = ()
    data = document.data
    if isinstance(data, dict):
        name = data.get("pipeline", pipeline.name)
        if name != pipeline.name:
            _note(document, ("pipeline",), f"it is a plan of pipeline {name!r}, not of {pipeline.name!r}")
        if data.get("mixture"):
            _note(document, ("mixture",), "several configurations run; give the one that the change is from")
        pointer, data = ("stages",), data.get("stages")
    if not isinstance(data, list) or not data:
        wanted = f"expected a plan with stages, or a list of stages, each with {', '.join(KEYS)}"
        _note(document, pointer, f"no stages: {wanted}")
        document.raise_problems()
    return pointer, data if isinstance(data, list) else []


def _config(document: Document, at: Pointer, entry: Any, pipeline: Pipeline) -> StageConfig | None:
    """The configuration of one entry, None where it has a problem."""
    if not isinstance(entry, dict):
        _note(document, at, f"{document.shown(at, entry)} is not a stage; expected {', '.join(KEYS)}")
        return None
    before = len(document.problems)
    if entry.get(SHARE, WHOLE_PERCENT) != WHOLE_PERCENT:
        _note(document, (*at, SHARE), "several configurations run; give the one that the change is from")
    for key in entry:
        if key not in KNOWN:
            _note(document, (*at, key), f"unknown key; {unknown(key, KEYS)}", at_key=True)
    for key in KEYS:
        fault = _fault(key, entry[key]) if key in entry else "is missing"
        if fault:
            shown = f"{document.shown((*at, key), entry[key])} " if key in entry else ""
            _note(document, (*at, key), f"{shown}{fault}")
    if len(document.problems) == before:
        try:
            pipeline.stage(entry["stage"]).variant(entry["variant"])
        except NotFoundError as error:
            key = "variant" if entry["stage"] in {stage.name for stage in pipeline.stages} else "stage"
            _note(document, (*at, key), f"{error.message}. {error.hint}")
    if len(document.problems) > before:
        return None
    return StageConfig(
        entry["stage"], entry["variant"], int(entry["batch_size"]), float(entry["cores"]), entry["replicas"]
    )


def _note(document: Document, pointer: Pointer, message: str, *, at_key: bool = False) -> None:
    """Note a problem by the key's path as well: such files are often one line."""
    prefix = f"{to_json_pointer(pointer)}: " if pointer else ""
    document.problem(pointer, prefix + message, at_key=at_key)


def _fault(key: str, value: Any) -> str:
    """What is wrong with the value of a key, empty for nothing."""
    if key in ("stage", "variant"):
        return "" if isinstance(value, str) else "is not a name"
    number = isinstance(value, int | float) and not isinstance(value, bool) and isfinite(value)
    if key == "cores":
        return "" if number and value > 0 else "is not a number above 0"
    return "" if number and isinstance(value, int) and value > 0 else "is not a whole number above 0"
