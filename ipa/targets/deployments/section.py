"""The section `deployments:` in pipeline files, of a pipeline and of a variant."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from ipa.files.forms import section
from ipa.files.targets import TargetSections
from ipa.model.errors import InputError
from ipa.model.forms import NUMBER, UNIQUE, Duration, Name, ValueForm, entries, text
from ipa.model.pipeline import DEFAULT_NAMESPACE, Pipeline
from ipa.model.recording import NEVER, UNLESS_DEFAULT
from ipa.targets.kubernetes.containers import ContainerRun
from ipa.targets.kubernetes.split import check_names

KEY = "deployments"
# Cores of router or queue; more is a slip.
_CORES = NUMBER.but(maximum=1000, exclusiveMinimum=0)
_Ignored = ValueForm({"enum": ["sets", "canary", "resident"], "type": "string"})
# The class is the module's, and imported in the container.
_CLASS = text(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", "a Python class as package.module.Class")


@dataclass(frozen=True, slots=True)
class DeploymentsTarget:
    """The pipeline's Deployments, whose names begin with `name`, and the cores beside the stages' replicas.

    `image` is that of router and queues. `ignores` are keys of the file that the target does not support and
    ignores instead of refusing them. Containers may `run_as_root` if the namespace's PodSecurity allows it.
    """

    name: Name
    image: str
    namespace: Name = DEFAULT_NAMESPACE
    router_cores: Annotated[float, _CORES] = 0.5
    """Of the router; 0.5 if absent."""
    queue_cores: Annotated[float, _CORES] = 0.5
    """Of the queue of each stage; 0.5 if absent."""
    hop_s: Duration | None = field(default=None, metadata=UNLESS_DEFAULT)
    """Of a request to a stage and back, beside the stage's own; 5ms if absent."""
    run_as_root: bool = field(default=False, metadata=UNLESS_DEFAULT)
    """True for images that need root; a namespace with restricted PodSecurity refuses them."""
    ignores: Annotated[tuple[str, ...], entries(_Ignored, 3, **UNIQUE)] = field(default=(), metadata=NEVER)
    """Keys of this file that are not supported here, for the sake of another target."""


def deployments_of(pipeline: Pipeline) -> DeploymentsTarget:
    """The pipeline's `deployments:` section. InputError without one."""
    own: DeploymentsTarget | None = pipeline.targets.get(KEY)
    if own is None:
        raise InputError(
            f"pipeline {pipeline.name!r} has no `{KEY}:` section",
            hint=f"Add `{KEY}: {{name: ..., namespace: ..., image: ...}}`.",
        )
    return own


SECTIONS = TargetSections(
    KEY,
    section(
        "deployments",
        DeploymentsTarget,
        "name namespace image router_cores? queue_cores? hop_s run_as_root? ignores?",
    ),
    section(
        "deployments_run",
        ContainerRun,
        "image! implementation env? memory_gib accelerators?",
        implementation=_CLASS,
    ),
    "Where the Deployments live, and what they take beside the stages.",
    "{image: registry.example/detect:1, env: {MODEL_VARIANT: small}, memory: 1GiB}",
    lambda document, _: check_names(document, KEY),
)
