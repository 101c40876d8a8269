"""The sections of targets in a pipeline file, by the target's key, including those of plug-ins."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

from ipa.files.document import Document, Pointer
from ipa.model.forms import ValueForm, mapping, text
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
        "deployments": "ipa.targets.deployments.target:DEPLOYMENTS",
        "local": "ipa.targets.local.target:LOCAL",
        "simulated": "ipa.targets.simulated.target:SIMULATED",
        "scale": "ipa.targets.scale.target:SCALE",
    },
)

_WRITTEN = ValueForm(
    {"title": "text, a number or a boolean", "type": ["string", "number", "boolean"]},
    lambda value: value if isinstance(value, str) else str(value).lower(),
    as_written=True,
)
# Types of fields of sections.
Env = Annotated[
    Mapping[str, str],
    mapping(text("[A-Za-z_][A-Za-z0-9_]*", "the name of an environment variable"), _WRITTEN, least=0),
]
Parameters = Annotated[
    Mapping[str, str],
    mapping(text("[A-Za-z_][A-Za-z0-9_.-]*", "the name of a parameter"), _WRITTEN, least=0),
]


@dataclass(frozen=True, slots=True)
class TargetSections:
    """The sections of a target in pipeline files, under its `key` in the pipeline and in each variant.

    Their values are in `Pipeline.targets` and `Variant.targets`. None: it has no such section.
    """

    key: str = ""
    pipeline: ValueForm | None = None
    variant: ValueForm | None = None
    # Of the pipeline's section, in the schema and in new files.
    description: str = ""
    # The variant's section in a new file.
    example: str = ""
    # Notes contradictions in the pipeline's section, of which what is not of the right form is None.
    check: Callable[[Document, Mapping[str, Any]], None] | None = None
    # The stages that must not batch there, each with the reason (`ipa.model.serving.Unbatched`).
    unbatched: Callable[[Pipeline], Mapping[str, str]] | None = None


@cache
def target_sections() -> Mapping[str, TargetSections]:
    """The sections of every target that has some, by key. PluginError if a target cannot be loaded."""
    return {it.key: it for name in TARGETS if (it := TARGETS.load(name).sections).key}


def check_batches(document: Document, pipeline: Pipeline) -> None:
    """Note stages whose batches would mix up requests on a target."""
    reasons = [each.unbatched(pipeline) for each in target_sections().values() if each.unbatched is not None]
    for at, entry in enumerate(document.data["stages"]):
        stage, name = pipeline.stage(entry["name"]), entry["name"]
        for why in (each for each in reasons if name in each):
            sizes = stage.limits(pipeline.bounds).batch_sizes
            if (stage.pin.batch_size or 1) > 1:
                message = batch_fault(name, stage.pin.batch_size or 1, why[name])
                document.problem(("stages", at, "pin", "batch_size"), message)
            if sizes is not None and 1 not in sizes:
                own = "batch_sizes" in entry.get("bounds", {})
                place: Pointer = (*(("stages", at) if own else ()), "bounds", "batch_sizes")
                document.problem(place, batch_fault(name, min(sizes), why[name]))
