"""The sections of pipeline files that belong to targets, those of installed plug-ins included.

A target declares what it adds to a file as `TargetSections`: files know the keys, and nothing of their
meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from ipa.files.document import Pointer
from ipa.model.pipeline import Pipeline
from ipa.plugins import Registry

# Reads the mapping under a key with its values as text, exactly as they were written if that is known.
Texts = Callable[[str], Mapping[str, str]]
# Where in the section, and what is wrong.
Fault = tuple[Pointer, str]

# Targets by the name that the setting `target` and `--at` have for them. `seldon` is `kubernetes`.
TARGETS = Registry(
    "ipa.targets",
    "target",
    {
        "kubernetes": "ipa.targets.seldon.target:SELDON",
        "seldon": "ipa.targets.seldon.target:SELDON",
        "local": "ipa.targets.local.target:LOCAL",
        "simulated": "ipa.targets.simulated.target:SIMULATED",
    },
)


@dataclass(frozen=True, slots=True)
class TargetSection:
    """One section: how it is read into a value, written back, and described as a JSON Schema (2020-12).

    `faults` says what a schema cannot; it is given whatever the file has under the key, as far as it is a
    mapping. `read` is given what schema and `faults` let pass.
    """

    read: Callable[[Mapping[str, Any], Texts], Any]
    write: Callable[[Any], Mapping[str, Any]]
    schema: Mapping[str, Any]
    faults: Callable[[Mapping[str, Any]], Iterable[Fault]] = lambda given: ()


@dataclass(frozen=True, slots=True)
class TargetSections:
    """What a target adds to pipeline files, under its `key` in the pipeline and in each variant.

    `unbatched` are the stages that must not batch there, each with the reason (`ipa.model.row_counts`).
    """

    key: str = ""
    pipeline: TargetSection | None = None
    variant: TargetSection | None = None
    unbatched: Callable[[Pipeline], Mapping[str, str]] = lambda pipeline: {}


@cache
def target_sections() -> Mapping[str, TargetSections]:
    """The sections of every target that has some, by key. PluginError if a target cannot be loaded."""
    found = [TARGETS.load(name).sections for name in TARGETS]
    return {sections.key: sections for sections in found if sections.key}


def unbatched_stages(pipeline: Pipeline) -> Mapping[str, str]:
    """The stages that must not batch on a target whose section the pipeline has, each with the reason."""
    present = [sections for key, sections in target_sections().items() if key in pipeline.targets]
    return {stage: why for sections in present for stage, why in sections.unbatched(pipeline).items()}


def with_sections(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of pipeline files with the sections that it does not have yet."""
    levels = (schema["properties"], schema["$defs"]["variant"]["properties"])
    for key, sections in target_sections().items():
        for properties, section in zip(levels, (sections.pipeline, sections.variant), strict=True):
            if section is not None:
                properties.setdefault(key, section.schema)
    return schema


def present(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that are not None."""
    return {key: value for key, value in values.items() if value is not None}
