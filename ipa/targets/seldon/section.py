"""`seldon:` in pipeline files: its values for a pipeline and for a variant, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from operator import not_
from typing import Annotated, Any, ClassVar, Literal, overload

from pydantic import Field

from ipa.files.document import Document
from ipa.files.kinds.base import Section
from ipa.files.kinds.fields import CHOICE, UNIQUE, Duration, Env, Maybe, Name, Number, Text, with_resources
from ipa.files.kinds.targets import TargetSections
from ipa.model.pipeline import DEFAULT_NAMESPACE, Pipeline, Variant
from ipa.model.recording import NEVER, UNLESS_DEFAULT

KEY = "seldon"


class Shape(StrEnum):
    """The layout of a pipeline in SeldonDeployments.

    `single`: one for all stages, each batching by itself, with Seldon's orchestrator. `split`: one each for
    our router and for every stage's queue and model.
    """

    SINGLE = "single"
    SPLIT = "split"


class WireProtocol(StrEnum):
    """The protocol of requests of clients and orchestrator: Seldon's own, or Open Inference V2."""

    SELDON = "seldon"
    V2 = "v2"


class ServerKind(StrEnum):
    """The server in a stage's container.

    `mlserver`: MLServer, which forms batches. `microservice`: Seldon's Python microservice, or another server
    that answers each request by itself; only such a one can be a router or a combiner.
    """

    MLSERVER = "mlserver"
    MICROSERVICE = "microservice"


@dataclass(frozen=True, slots=True)
class SeldonTarget:
    """Location of the pipeline's SeldonDeployment, and its cores beside the stages' replicas.

    `orchestrator_cores` are those of Seldon's orchestrator, or of our router, which has a pod of its own
    unless `separate_orchestrator` is false: then each replica of the first stage has one. `queue_cores` are
    those of each stage's queue, `image` is the image of router and queues (both for shape split). `ignores`
    are keys of the file that the shape does not carry, and that are not refused for it. Containers may
    `run_as_root` where the namespace's PodSecurity allows it.
    """

    name: str
    namespace: str = DEFAULT_NAMESPACE
    predictor: str = "default"
    shape: Shape = Shape.SINGLE
    image: str | None = None
    # The operator's default for its orchestrator: 500m.
    orchestrator_cores: float = 0.5
    separate_orchestrator: bool = True
    queue_cores: float = 0.5
    ignores: tuple[str, ...] = field(default=(), metadata=NEVER)
    run_as_root: bool = field(default=False, metadata=UNLESS_DEFAULT)
    protocol: WireProtocol = field(default=WireProtocol.V2, metadata=UNLESS_DEFAULT)
    # None: that of the shape (`HOPS_S`).
    hop_s: float | None = field(default=None, metadata=UNLESS_DEFAULT)


@dataclass(frozen=True, slots=True)
class SeldonRun:
    """A variant's settings on Seldon: the container's image, env and resources, and the model it loads.

    `server` None: that of the protocol, MLServer for v2. `told` is env that is written with the variant and
    does not tell it from others; it is in no file.
    """

    image: str | None = None
    model_uri: str | None = None
    implementation: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    memory_gib: float | None = None
    accelerators: Mapping[str, float] = field(default_factory=dict, hash=False, metadata=UNLESS_DEFAULT)
    server: ServerKind | None = field(default=None, metadata=UNLESS_DEFAULT)
    told: Mapping[str, str] = field(default_factory=dict, hash=False, metadata=NEVER)


@overload
def seldon_of(of: Pipeline) -> SeldonTarget | None: ...
@overload
def seldon_of(of: Variant) -> SeldonRun | None: ...
def seldon_of(of: Pipeline | Variant) -> SeldonTarget | SeldonRun | None:
    """The `seldon:` section of a pipeline or of a variant; None if it has none."""
    found: SeldonTarget | SeldonRun | None = of.targets.get(KEY)
    return found


def with_seldon(pipeline: Pipeline, **changes: Any) -> Pipeline:
    """The pipeline with those fields of its section changed; KeyError if it has none."""
    changed = replace(pipeline.targets[KEY], **changes)
    return replace(pipeline, targets={**pipeline.targets, KEY: changed})


def is_microservice(pipeline: Pipeline, variant: Variant) -> bool:
    """True if the variant's server forms no batches. MLServer does not speak Seldon's own protocol."""
    target, run = seldon_of(pipeline), seldon_of(variant)
    if target is not None and target.protocol is WireProtocol.SELDON:
        return True
    return run is not None and run.server is ServerKind.MICROSERVICE


# Cores of what runs beside the stages; more is a slip.
_BesideCores = Annotated[Number, Field(le=1000)]
_USUAL = SeldonTarget("")


def _usual(key: str, description: str | None = None) -> Any:
    """A key that is not written to a file while it has its usual value."""
    usual = getattr(_USUAL, key)
    return Field(None, exclude_if=lambda value: value == usual, description=description)


class SeldonSection(Section):
    """`seldon:` of a pipeline."""

    makes: ClassVar = SeldonTarget
    name: Name
    namespace: Maybe[Name] = None
    predictor: Maybe[Name] = None
    shape: Maybe[Annotated[Shape, CHOICE]] = _usual("shape")
    image: Maybe[Text] = None
    orchestrator_cores: Maybe[Annotated[_BesideCores, Field(ge=0)]] = _usual("orchestrator_cores")
    separate_orchestrator: Maybe[bool] = _usual("separate_orchestrator")
    queue_cores: Maybe[Annotated[_BesideCores, Field(gt=0)]] = _usual("queue_cores")
    protocol: Maybe[Annotated[WireProtocol, CHOICE]] = _usual(
        "protocol", "Of requests; v2 where absent. With seldon every stage's server is a microservice."
    )
    hop_s: Maybe[Duration] = Field(
        None,
        description="Of a request to a stage and back, beside the stage's own; 3ms (single), 5ms (split).",
    )
    run_as_root: Maybe[bool] = _usual(
        "run_as_root", "True for images that need root; a namespace with restricted PodSecurity refuses them."
    )
    ignores: Maybe[
        Annotated[
            list[Literal["drop_after", "sets", "canary", "resident"]],
            Field(min_length=1, max_length=5),
            UNIQUE,
        ]
    ] = Field(
        None,
        exclude_if=not_,
        description="Keys of this file that the shape does not carry, for the sake of another target.",
    )


class _SeldonRunKeys(Section):
    image: Maybe[Text] = None
    implementation: Maybe[Text] = None
    model_uri: Maybe[Text] = None
    env: Maybe[Env] = Field(None, exclude_if=not_)
    server: Maybe[Annotated[ServerKind, CHOICE]] = Field(
        None,
        description="microservice: it answers each request by itself (batch size 1); else mlserver.",
    )


class SeldonRunSection(with_resources(_SeldonRunKeys)):  # type: ignore[misc]
    """`seldon:` of a variant."""

    makes: ClassVar = SeldonRun


def _check(document: Document, seldon: Mapping[str, Any]) -> None:
    if seldon.get("shape") == Shape.SPLIT and "image" not in seldon:
        message = "shape split needs `image`: that of its router and queues, with ipa-serving installed"
        document.problem((KEY, "shape"), message)
    if seldon.get("protocol") != WireProtocol.SELDON:
        return
    for at, stage in _mappings((document.sound() or {}).get("stages")):
        for position, variant in _mappings(stage.get("variants")):
            if (variant.get(KEY) or {}).get("server") == ServerKind.MLSERVER:
                place = ("stages", at, "variants", position, KEY, "server")
                message = "MLServer does not speak protocol seldon; leave it out, or use `protocol: v2`"
                document.problem(place, message)


def _mappings(entries: Any) -> list[tuple[int, Mapping[str, Any]]]:
    """The entries of a list that are mappings, with their places."""
    return [(at, each) for at, each in enumerate(entries or ()) if isinstance(each, Mapping)]


SECTIONS = TargetSections(
    KEY,
    SeldonSection,
    SeldonRunSection,
    "Where the SeldonDeployment lives, in which shape, and what it takes beside the stages.",
    "{image: registry.example/detect:1, env: {MODEL_VARIANT: small}, memory: 1GiB}",
    _check,
)
