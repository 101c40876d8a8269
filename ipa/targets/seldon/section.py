"""The section `seldon:` in pipeline files: its values for a pipeline and for a variant, read and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Annotated, Any, overload

from ipa.files.document import Document
from ipa.files.forms import section
from ipa.files.targets import TargetSections
from ipa.model.forms import (
    NUMBER,
    UNIQUE,
    Duration,
    Name,
    ValueForm,
    entries,
)
from ipa.model.pipeline import DEFAULT_NAMESPACE, Pipeline, Variant
from ipa.model.recording import NEVER, UNLESS_DEFAULT
from ipa.targets.kubernetes.containers import ContainerRun
from ipa.targets.kubernetes.split import check_names

KEY = "seldon"


class Shape(StrEnum):
    """The layout of a pipeline in SeldonDeployments.

    `single`: one for all stages, each of which batches by itself, with Seldon's orchestrator. `split`: one
    each for ipa's router and for every stage's queue and model.
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
    that answers each request by itself; only such a server can be a router or a combiner.
    """

    MLSERVER = "mlserver"
    MICROSERVICE = "microservice"


# Cores of orchestrator, router or queue; more is a slip.
_CORES = NUMBER.but(maximum=1000)
_Ignored = ValueForm({"enum": ["drop_after", "sets", "canary", "resident"], "type": "string"})


@dataclass(frozen=True, slots=True)
class SeldonTarget:
    """The pipeline's SeldonDeployment, and the cores of its containers other than the stages' replicas.

    `orchestrator_cores` are those of Seldon's orchestrator or of ipa's router, which has a pod of its own
    unless `separate_orchestrator` is false: then each replica of the first stage has one. `queue_cores` are
    those of each stage's queue, `image` is the image of router and queues (both for shape split). `ignores`
    are keys of the file that the shape does not support and the target ignores instead of refusing them.
    Containers may `run_as_root` if the namespace's PodSecurity allows it.
    """

    name: Name
    namespace: Name = DEFAULT_NAMESPACE
    predictor: Name = "default"
    shape: Shape = Shape.SINGLE
    image: str | None = None
    # The operator's default for its orchestrator: 500m.
    orchestrator_cores: Annotated[float, _CORES.but(minimum=0)] = 0.5
    separate_orchestrator: bool = True
    queue_cores: Annotated[float, _CORES.but(exclusiveMinimum=0)] = 0.5
    ignores: Annotated[tuple[str, ...], entries(_Ignored, 5, **UNIQUE)] = field(default=(), metadata=NEVER)
    """Keys of this file that the shape does not carry, for the sake of another target."""
    run_as_root: bool = field(default=False, metadata=UNLESS_DEFAULT)
    """True for images that need root; a namespace with restricted PodSecurity refuses them."""
    protocol: WireProtocol = field(default=WireProtocol.V2, metadata=UNLESS_DEFAULT)
    """Of requests; v2 if absent. With seldon every stage's server is a microservice."""
    # None: that of the shape (`HOPS_S`).
    hop_s: Duration | None = field(default=None, metadata=UNLESS_DEFAULT)
    """Of a request to a stage and back, beside the stage's own; 3ms (single), 5ms (split)."""


@dataclass(frozen=True, slots=True)
class SeldonRun(ContainerRun):
    """A variant's settings on Seldon: its container and the model it loads.

    `server` None: the protocol's own, MLServer for v2.
    """

    model_uri: str | None = None
    server: ServerKind | None = field(default=None, metadata=UNLESS_DEFAULT)
    """microservice: it answers each request by itself (batch size 1); else mlserver."""

    @property
    def node(self) -> Mapping[str, str | None]:
        """The model's URI, and the prepackaged server (MLFLOW_SERVER); a class in an image has a dot."""
        server = self.implementation
        is_class = server is not None and "." in server
        return {"implementation": None if is_class else server, "modelUri": self.model_uri}


@overload
def seldon_of(of: Pipeline) -> SeldonTarget | None: ...
@overload
def seldon_of(of: Variant) -> SeldonRun | None: ...
def seldon_of(of: Pipeline | Variant) -> SeldonTarget | SeldonRun | None:
    """The `seldon:` section of a pipeline or of a variant; None if it has none."""
    section: SeldonTarget | SeldonRun | None = of.targets.get(KEY)
    return section


def is_split(pipeline: Pipeline) -> bool:
    """True if the pipeline's file chooses the shape split."""
    target = seldon_of(pipeline)
    return target is not None and target.shape is Shape.SPLIT


def with_seldon(pipeline: Pipeline, **changes: Any) -> Pipeline:
    """The pipeline with those fields of its section changed; KeyError if it has none."""
    changed = replace(pipeline.targets[KEY], **changes)
    return replace(pipeline, targets={**pipeline.targets, KEY: changed})


def is_microservice(pipeline: Pipeline, variant: Variant) -> bool:
    """True if the variant's server forms no batches. MLServer does not support Seldon's own protocol."""
    target, run = seldon_of(pipeline), seldon_of(variant)
    if target is not None and target.protocol is WireProtocol.SELDON:
        return True
    return run is not None and run.server is ServerKind.MICROSERVICE


def _check(document: Document, seldon: Mapping[str, Any]) -> None:
    if seldon.get("shape") == Shape.SPLIT:
        check_names(document, KEY, f"-{seldon.get('predictor') or 'default'}")
        if "image" not in seldon:
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
    """The entries of a list that are mappings, with their indices."""
    return [(at, each) for at, each in enumerate(entries or ()) if isinstance(each, Mapping)]


SECTIONS = TargetSections(
    KEY,
    section(
        "seldon",
        SeldonTarget,
        "name namespace predictor shape? image orchestrator_cores? separate_orchestrator? queue_cores? "
        "protocol? hop_s run_as_root? ignores?",
    ),
    section(
        "seldon_run",
        SeldonRun,
        "image implementation model_uri env? server memory_gib accelerators?",
    ),
    "Where the SeldonDeployment lives, in which shape, and what it takes beside the stages.",
    "{image: registry.example/detect:1, env: {MODEL_VARIANT: small}, memory: 1GiB}",
    _check,
)
