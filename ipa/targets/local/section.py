"""`local:` of a pipeline and of a variant in files: their values, and how they are read and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import not_
from typing import Annotated, ClassVar

from pydantic import Field

from ipa.files.kinds.base import Section
from ipa.files.kinds.fields import WHOLE, Env, Maybe, Parameters, Text
from ipa.files.kinds.targets import TargetSections
from ipa.model.pipeline import Pipeline, Variant

KEY = "local"


@dataclass(frozen=True, slots=True)
class LocalRun:
    """A variant's settings on this machine.

    `implementation` and `parameters` fill MLServer's model-settings.json. `command` starts one replica; the
    words {python}, {port} and {model_dir} in it are replaced. Empty means MLServer.
    """

    implementation: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A pipeline's settings on this machine: the port of its router."""

    port: int


def port_of(pipeline: Pipeline) -> int | None:
    """The port that the pipeline's file gives its router; None if it gives none."""
    found: LocalPlace | None = pipeline.targets.get(KEY)
    return None if found is None else found.port


def local_of(variant: Variant) -> LocalRun | None:
    """The `local:` section of a variant; None if it has none."""
    found: LocalRun | None = variant.targets.get(KEY)
    return found


class LocalRunSection(Section):
    """`local:` of a variant."""

    makes: ClassVar = LocalRun
    implementation: Text
    parameters: Maybe[Parameters] = Field(None, exclude_if=not_)
    command: Maybe[Annotated[list[Text], Field(max_length=100)]] = Field(None, exclude_if=not_)
    env: Maybe[Env] = Field(None, exclude_if=not_)


class LocalPlaceSection(Section):
    """`local:` of a pipeline."""

    makes: ClassVar = LocalPlace
    port: Annotated[int, Field(ge=1, le=65535), WHOLE]
    """Of its router, which takes the requests; by IPA_ROUTER_PORT where absent."""


SECTIONS = TargetSections(
    KEY,
    pipeline=LocalPlaceSection,
    description="Where it takes requests with `--target local`.",
    variant=LocalRunSection,
    example="{implementation: my_package.Detect, parameters: {size: 320}}",
)
