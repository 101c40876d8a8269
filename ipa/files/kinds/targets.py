"""The sections of targets in a pipeline file, by the target's key: those of installed plug-ins too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from pydantic import Field, create_model

from ipa.files.document import Document, Pointer
from ipa.files.kinds.base import Section
from ipa.files.kinds.fields import Maybe
from ipa.model.pipeline import Pipeline
from ipa.model.serving import batch_fault
from ipa.plugins import Registry

# Targets by the name that the setting `target` and `--at` have for them; `seldon` means `kubernetes`.
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
class TargetSections:
    """Sections of a target in pipeline files, under its `key` in the pipeline and in each variant.

    Their values are in `Pipeline.targets` and `Variant.targets`. None: it has no such section.
    """

    key: str = ""
    pipeline: type[Section] | None = None
    variant: type[Section] | None = None
    # Of the pipeline's section, in the schema and in new files.
    description: str | None = None
    # The variant's section in a new file.
    example: str = ""
    # Notes contradictions in the pipeline's section, of which what is not of the right form is None.
    check: Callable[[Document, Mapping[str, Any]], None] | None = None
    # The stages that must not batch there, each with the reason (`ipa.model.serving.Unbatched`).
    unbatched: Callable[[Pipeline], Mapping[str, str]] | None = None


@cache
def target_sections() -> Mapping[str, TargetSections]:
    """The sections of every target that has some, by key. PluginError if a target cannot be loaded."""
    found = [TARGETS.load(name).sections for name in TARGETS]
    return {sections.key: sections for sections in found if sections.key}


def check_batches(document: Document, pipeline: Pipeline) -> None:
    """Note stages that ask for batches where these would give requests the rows of others on a target."""
    for sections in target_sections().values():
        if sections.unbatched is not None:
            _check_batches(document, pipeline, sections.unbatched(pipeline))


def _check_batches(document: Document, pipeline: Pipeline, why: Mapping[str, str]) -> None:
    for at, entry in enumerate(document.data["stages"]):
        name = entry["name"]
        if name not in why:
            continue
        stage = pipeline.stage(name)
        sizes = stage.limits(pipeline.bounds).batch_sizes
        if (stage.pin.batch_size or 1) > 1:
            message = batch_fault(name, stage.pin.batch_size or 1, why[name])
            document.problem(("stages", at, "pin", "batch_size"), message)
        if sizes is not None and 1 not in sizes:
            own = "batch_sizes" in entry.get("bounds", {})
            place: Pointer = (*(("stages", at) if own else ()), "bounds", "batch_sizes")
            document.problem(place, batch_fault(name, min(sizes), why[name]))


class OfTargets(Section):
    """A section with a further key for each target; their values together are the model's `targets`."""

    def given(self) -> dict[str, Any]:
        """The fields that the file has, those of targets in one mapping."""
        found = super().given()
        found["targets"] = {key: found.pop(key) for key in target_sections() if key in found}
        return found


def with_targets(keys: type[Section], place: Literal["pipeline", "variant"]) -> type[Section]:
    """The section with a further key for each target that has something to say there."""
    found: dict[str, Any] = {}
    for name, target in target_sections().items():
        section = target.pipeline if place == "pipeline" else target.variant
        if section is not None:
            described = target.description if place == "pipeline" else None
            found[name] = (Maybe[section], Field(None, description=described))  # type: ignore[misc,valid-type]
    return create_model(f"{keys.__name__}OfTargets", __base__=keys, **found)
