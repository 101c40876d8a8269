"""The section `local:` of a pipeline and of a variant in files: its values, read and written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ipa.files.forms import section
from ipa.files.targets import Env, Parameters, TargetSections
from ipa.model.forms import TEXT, WHOLE, entries
from ipa.model.pipeline import Pipeline, Variant

KEY = "local"


@dataclass(frozen=True, slots=True)
class LocalRun:
    """A variant's settings on this machine.

    `implementation` and `parameters` fill MLServer's model-settings.json. `command` starts one replica; the
    words {python}, {port} and {model_dir} in it are replaced. Empty means MLServer.
    """

    implementation: str
    parameters: Parameters = field(default_factory=dict)
    command: Annotated[tuple[str, ...], entries(TEXT, 100, 0)] = ()
    env: Env = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A pipeline's settings on this machine."""

    port: Annotated[int, WHOLE.but(minimum=1, maximum=65535)]
    """Of its router, which takes the requests; by IPA_ROUTER_PORT if absent."""


def port_of(pipeline: Pipeline) -> int | None:
    """The port that the pipeline's file gives its router; None if it gives none."""
    place: LocalPlace | None = pipeline.targets.get(KEY)
    return None if place is None else place.port


def local_of(variant: Variant) -> LocalRun | None:
    """The `local:` section of a variant; None if it has none."""
    run: LocalRun | None = variant.targets.get(KEY)
    return run


SECTIONS = TargetSections(
    KEY,
    pipeline=section("local_place", LocalPlace, "port"),
    description="Where it takes requests with `--target local`.",
    variant=section("local_run", LocalRun, "implementation parameters? command? env?"),
    example="{implementation: my_package.Detect, parameters: {size: 320}}",
)
