"""The SeldonDeployments of a pipeline in the shape that its file asks for.

Shape single is one for all stages. Shape split has one for the router, and for each stage's queue and model
(`ipa.targets.kubernetes.split`).

Each is a SeldonDeployment of one node without Seldon's orchestrator (`seldon.io/no-engine`). The operator
gives each a Service `<SeldonDeployment>-<predictor>` on the port of its first container, 9000. That of a
model is headless, so that its name leads to every ready pod and the queue fills each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.transport import Json
from ipa.model.errors import DriftError, InputError
from ipa.model.parts import Configs
from ipa.model.pipeline import Bounds, Pipeline, Stage, StageBounds, StageKind
from ipa.model.plan import StageConfig
from ipa.targets.kubernetes.containers import BATCH_SIZE, BATCH_TIME
from ipa.targets.kubernetes.layout import (
    Layout,
    Objects,
    Running,
    enforced_pod_security,
    with_hand,
)
from ipa.targets.kubernetes.split import PORT, Part, PartRole, SplitLayout
from ipa.targets.kubernetes.split import parts_of as split_parts
from ipa.targets.seldon import manifest
from ipa.targets.seldon.locate import (
    SELDON_DEPLOYMENT,
    StageLocation,
    drift,
    locate,
    orchestrators,
    target_of,
)
from ipa.targets.seldon.manifest import read_named, read_predictor
from ipa.targets.seldon.section import KEY, SeldonRun, SeldonTarget, Shape, is_split
from ipa.targets.seldon.variants import check_variants


def parts_of(pipeline: Pipeline) -> tuple[Part, ...]:
    """The SeldonDeployments of shape split. InputError as `split.parts_of`, and without a section."""
    target = target_of(pipeline)

    def service_of(name: str) -> str:
        return f"http://{name}-{target.predictor}.{target.namespace}:{PORT}"

    return split_parts(pipeline, target.name, KEY, SeldonRun, service_of, "shape split")


def alone(pipeline: Pipeline, name: str, stage: Stage) -> Pipeline:
    """The stage as a pipeline of its own, in a SeldonDeployment of that name beside the pipeline's."""
    target = target_of(pipeline)
    # The decision kept its bounds; called alone, every kind of stage is called as a model.
    alone = replace(stage, after=(), kind=StageKind.MODEL, bounds=StageBounds())
    own = SeldonTarget(name, target.namespace, target.predictor)
    # The resources of its variants come along.
    bounds = Bounds(measured=pipeline.bounds.measured)
    return Pipeline(
        pipeline.name, (alone,), pipeline.sla, pipeline.objectives, bounds, targets={"seldon": own}
    )


class SeldonLayout(Layout):
    """The SeldonDeployments of a pipeline."""

    kind, target = SELDON_DEPLOYMENT, "kubernetes"

    # By the name of each SeldonDeployment, the pipeline as which it alone is read.
    _pipelines: Mapping[str, Pipeline]

    @property
    def names(self) -> tuple[str, ...]:
        """The name in the section `seldon:`; split those of models and queues, then the router's."""
        return tuple(self._pipelines)

    @property
    def namespace(self) -> str:
        """The namespace in the pipeline's `seldon:` section."""
        return target_of(self.pipeline).namespace

    def admission_fault(self, client: KubeClient) -> str:
        """The reason why the namespace's PodSecurity refuses its pods, with the remedy; else empty."""
        target = target_of(self.pipeline)
        is_refused = target.shape is Shape.SINGLE or target.run_as_root
        if not is_refused or enforced_pod_security(client, target.namespace) != "restricted":
            return ""
        what = f"namespace {target.namespace!r} enforces restricted PodSecurity, which refuses"
        if target.run_as_root:
            return f"{what} containers that run as root; leave out `seldon: {{run_as_root: true}}`"
        remedy = "use `seldon: {shape: split}`, or a namespace that enforces baseline"
        return f"{what} Seldon's orchestrator, so that shape single never serves there; {remedy}"

    def read(self, name: str, live: Json) -> Configs:
        """The configurations in one of the SeldonDeployments."""
        return manifest.read(self._pipelines[name], live)

    def changed(self, name: str, live: Json, wanted: Sequence[StageConfig]) -> Json:
        """One of the SeldonDeployments, changed to run these configurations."""
        return manifest.changed(self._pipelines[name], live, wanted)

    def drift(self, problems: Sequence[str]) -> DriftError:
        """The error for SeldonDeployments that do not match the pipeline."""
        return drift(self.pipeline, problems)


class SingleLayout(SeldonLayout):
    """One SeldonDeployment for all stages; each part of a set is one of its predictors."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(pipeline)
        self._pipelines = {target_of(pipeline).name: pipeline}

    def render(self, configs: Sequence[StageConfig]) -> list[dict[str, Any]]:
        """The SeldonDeployment. InputError as `manifest.render`."""
        return [manifest.render(self.pipeline, configs)]

    def observe(self, objects: Objects) -> Running:
        """The predictors of the pipeline, with their orchestrators."""
        (sdep,) = objects.values()
        try:
            named = read_named(self.pipeline, sdep)
        except DriftError as error:
            raise with_hand(error, sdep) from error
        places = tuple(place for each, _ in named for place in locate(each, sdep))
        configs = tuple(config for _, part in named for config in part)
        names = [target_of(each).predictor if len(named) > 1 else "" for each, part in named for _ in part]
        beside = tuple(orchestrators(sdep, places))
        return Running(configs, tuple(names), places, beside)

    def changes(self, objects: Objects, wanted: Sequence[StageConfig]) -> Objects:
        """The SeldonDeployment, if anything differs."""
        ((name, sdep),) = objects.items()
        after = self.changed(name, sdep, wanted)
        return {} if after == sdep else {name: after}


class SeldonSplit(SeldonLayout, SplitLayout):
    """A router, and a queue and a model for each stage: a SeldonDeployment each."""

    def __init__(self, pipeline: Pipeline) -> None:
        parts, target = parts_of(pipeline), target_of(pipeline)
        SplitLayout.__init__(self, pipeline, parts, target.orchestrator_cores, target.queue_cores)
        self._pipelines = {part.name: alone(pipeline, part.name, part.own) for part in parts}

    def check_variants(self) -> None:
        """InputError if variants are indistinguishable or set reserved env."""
        check_variants(self.pipeline)

    def read(self, name: str, live: Json) -> Configs:
        """The configuration in one of the SeldonDeployments."""
        return read_predictor(self._pipelines[name], live)

    def place(self, part: Part, live: Json) -> StageLocation:
        """The place of the part's container. DriftError if it has none."""
        (place,) = locate(self._pipelines[part.name], live)
        return place

    def render_part(self, part: Part, config: StageConfig) -> list[dict[str, Any]]:
        """The SeldonDeployment of the part, with the additional fields of router and queues.

        InputError as `manifest.render`, and if there is no image for router and queues.
        """
        image = target_of(self.pipeline).image
        if image is None:
            raise InputError(
                f"pipeline {self.pipeline.name!r} has no image for its router and queues",
                hint="Set `seldon: {shape: split, image: ...}` to an image with ipa-serving installed.",
            )
        body = manifest.render(self._pipelines[part.name], [config])
        body["metadata"]["labels"] |= part.labels
        predictor = body["spec"]["predictors"][0]
        pod = predictor["componentSpecs"][0]["spec"]
        container = pod["containers"][0]
        is_model = part.role is PartRole.MODEL
        body["spec"]["annotations"] = {"seldon.io/headless-svc": "true"} if is_model else {}
        predictor["annotations"] = {"seldon.io/no-engine": "true"}
        if part.role is not PartRole.QUEUE:
            # Batches are formed in the queue alone.
            container["env"] = [
                one for one in container["env"] if one["name"] not in (BATCH_SIZE, BATCH_TIME)
            ]
        if not is_model:
            part.run_ours(pod, image)
        return [body]


def layout_of(pipeline: Pipeline) -> SeldonLayout:
    """The layout of the pipeline's shape. InputError as `target_of` and `parts_of`."""
    return SeldonSplit(pipeline) if is_split(pipeline) else SingleLayout(pipeline)
