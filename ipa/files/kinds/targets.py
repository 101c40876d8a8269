"""The sections of targets in a pipeline file, by the target's name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import not_
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, create_model

from ipa.files.document import Document, Pointer
from ipa.files.kinds.base import Section
from ipa.files.kinds.fields import (
    CHOICE,
    Env,
    Maybe,
    Name,
    Number,
    Parameters,
    Text,
)
from ipa.files.kinds.holdings import with_resources
from ipa.model.on_seldon import unbatched_stages
from ipa.model.pipeline import LocalRun, Pipeline, SeldonRun, SeldonTarget, Shape
from ipa.model.row_counts import batch_fault

# Cores of what runs beside the stages; more is a slip.
_BesideCores = Annotated[Number, Field(le=1000)]
_USUAL = SeldonTarget("")


class SeldonSection(Section):
    """`seldon:` of a pipeline."""

    makes: ClassVar = SeldonTarget
    name: Name
    namespace: Maybe[Name] = None
    predictor: Maybe[Name] = None
    shape: Maybe[Annotated[Shape, CHOICE]] = Field(None, exclude_if=lambda shape: shape == _USUAL.shape)
    image: Maybe[Text] = None
    orchestrator_cores: Maybe[Annotated[_BesideCores, Field(ge=0)]] = Field(
        None, exclude_if=lambda cores: cores == _USUAL.orchestrator_cores
    )
    separate_orchestrator: Maybe[bool] = Field(
        None, exclude_if=lambda separate: separate == _USUAL.separate_orchestrator
    )
    queue_cores: Maybe[Annotated[_BesideCores, Field(gt=0)]] = Field(
        None, exclude_if=lambda cores: cores == _USUAL.queue_cores
    )


class _SeldonRunKeys(Section):
    image: Maybe[Text] = None
    implementation: Maybe[Text] = None
    model_uri: Maybe[Text] = None
    env: Maybe[Env] = Field(None, exclude_if=not_)


class SeldonRunSection(with_resources(_SeldonRunKeys)):  # type: ignore[misc]
    """`seldon:` of a variant."""

    makes: ClassVar = SeldonRun


class LocalRunSection(Section):
    """`local:` of a variant."""

    makes: ClassVar = LocalRun
    implementation: Text
    parameters: Maybe[Parameters] = Field(None, exclude_if=not_)
    command: Maybe[Annotated[list[Text], Field(max_length=100)]] = Field(None, exclude_if=not_)
    env: Maybe[Env] = Field(None, exclude_if=not_)


def _check_shape(document: Document, seldon: Mapping[str, Any]) -> None:
    if seldon.get("shape") == Shape.SPLIT and "image" not in seldon:
        message = "shape split needs `image`: that of its router and queues, with ipa-serving installed"
        document.problem(("seldon", "shape"), message)


def _check_batches(document: Document, pipeline: Pipeline) -> None:
    """Note stages that ask for batches where these would give requests the rows of others."""
    why = unbatched_stages(pipeline)
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


@dataclass(frozen=True, slots=True)
class TargetSections:
    """What a target adds to pipeline files. None: it has no such section."""

    pipeline: type[Section] | None = None
    variant: type[Section] | None = None
    # Of the pipeline's section, in the schema and in new files.
    description: str | None = None
    # The variant's section in a new file.
    example: str = ""
    # Notes contradictions in the pipeline's section, of which what is not of the right form is None.
    check: Callable[[Document, Mapping[str, Any]], None] | None = None
    # Notes what of a whole pipeline the target cannot do.
    check_pipeline: Callable[[Document, Pipeline], None] | None = None


TARGET_SECTIONS: Mapping[str, TargetSections] = {
    "seldon": TargetSections(
        SeldonSection,
        SeldonRunSection,
        "Where the SeldonDeployment lives, in which shape, and what it takes beside the stages.",
        "{image: registry.example/detect:1, env: {MODEL_VARIANT: small}, memory: 1GiB}",
        _check_shape,
        _check_batches,
    ),
    "local": TargetSections(
        variant=LocalRunSection, example="{implementation: my_package.Detect, parameters: {size: 320}}"
    ),
}


def with_targets(keys: type[Section], place: Literal["pipeline", "variant"]) -> type[Section]:
    """The section with a further key for each target that has something to say there."""
    found: dict[str, Any] = {}
    for name, target in TARGET_SECTIONS.items():
        section = target.pipeline if place == "pipeline" else target.variant
        if section is not None:
            described = target.description if place == "pipeline" else None
            found[name] = (Maybe[section], Field(None, description=described))  # type: ignore[misc,valid-type]
    return create_model(f"{keys.__name__}OfTargets", __base__=keys, **found)
