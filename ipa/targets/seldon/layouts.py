"""The SeldonDeployments of a pipeline in the shape that its file asks for.

Shape single is one for all stages. Shape split has several:

    <name>-router                 ipa's router: requests come here, it knows the queues
    <name>-<container>-queue      a stage's queue: central batching, early drop; it knows the model's Service
    <name>-<container>-model      the stage's model: variant, cores, replicas

Each is a SeldonDeployment of one node without Seldon's orchestrator (`seldon.io/no-engine`). The operator
gives each a Service `<SeldonDeployment>-<predictor>` on the port of its first container, 9000. That of a
model is headless, so that its name leads to every ready pod and the queue fills each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.transport import Json
from ipa.model.errors import DriftError, InputError, Problem
from ipa.model.parts import Configs
from ipa.model.pipeline import Bounds, Pipeline, Stage, StageBounds, StageKind, Variant
from ipa.model.plan import StageConfig, in_millicores
from ipa.targets.kubernetes.layout import (
    Layout,
    Objects,
    Running,
    at,
    enforced_pod_security,
    with_hand,
)
from ipa.targets.seldon import manifest
from ipa.targets.seldon.locate import (
    KEDA_LABEL,
    LONGEST_NAME,
    REMOVE_IT,
    SELDON_DEPLOYMENT,
    StageLocation,
    container_name,
    drift,
    locate,
    orchestrators,
    target_of,
)
from ipa.targets.seldon.manifest import check_configs, read_named, read_predictor
from ipa.targets.seldon.section import SeldonRun, SeldonTarget, Shape, is_split
from ipa.targets.seldon.variants import (
    BATCH_SIZE,
    BATCH_TIME,
    check_variants,
)

# What the operator's webhook gives the first container of a predictor.
PORT = 9000
EVERYWHERE = "0.0.0.0"  # noqa: S104  (in a pod, whose network is its own)
LABEL_ROLE = "ipa-serving/role"
LABEL_STAGE = "ipa-serving/stage"
# The pod sleeps 10 s when it is to end, so that no request is on its way to it; then these finish theirs.
DRAIN_S = 15
GRACE_S = 30
READY = {"httpGet": {"path": "/v2/health/ready", "port": "http"}, "periodSeconds": 2}


class PartRole(StrEnum):
    """The role of a SeldonDeployment in a split pipeline."""

    ROUTER = "router"
    QUEUE = "queue"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Part:
    """One SeldonDeployment of a split pipeline, handled as a pipeline of one stage.

    `stage` is the stage it belongs to, empty for the router.
    """

    role: PartRole
    stage: str
    pipeline: Pipeline

    @property
    def name(self) -> str:
        """The SeldonDeployment's name."""
        return target_of(self.pipeline).name

    @property
    def service(self) -> str:
        """The URL of its Service."""
        target = target_of(self.pipeline)
        return f"http://{target.name}-{target.predictor}.{target.namespace}:{PORT}"

    def config(self, target: SeldonTarget, configs: Mapping[str, StageConfig]) -> StageConfig:
        """Its configuration in a pipeline with that section whose stages run these configurations."""
        own = self.pipeline.stages[0]
        if self.role is PartRole.ROUTER:
            return StageConfig(own.name, own.variants[0].name, 1, target.orchestrator_cores, 1)
        config = configs[self.stage]
        if self.role is PartRole.MODEL:
            return replace(config, batch_size=1)
        return StageConfig(own.name, own.variants[0].name, config.batch_size, target.queue_cores, 1)


def parts_of(pipeline: Pipeline) -> tuple[Part, ...]:
    """Every part: the models and queues of the stages in order, then the router.

    InputError if the graph is not a chain, which the router cannot run, or a name is too long for a Service.
    """
    if not pipeline.is_chain:
        raise InputError(
            f"pipeline {pipeline.name!r} is not a chain of stages; shape split supports only chains",
            hint="Remove `shape: split`, or use a chain such as [a, b].",
        )
    name, common = target_of(pipeline).name, {"IPA_PIPELINE": pipeline.name, "IPA_HOST": EVERYWHERE}
    parts: list[Part] = []
    for stage in pipeline.stages:
        container = container_name(stage)
        served = alone(pipeline, f"{name}-{container}-model", replace(stage, container=container))
        model = Part(PartRole.MODEL, stage.name, served)
        env = {**common, "IPA_STAGE": stage.name, "IPA_MODEL_URL": model.service, "IPA_MODEL": container}
        batching = _stage(f"{stage.name}-queue", "queue", env)
        batching = replace(batching, batch_timeout_s=stage.batch_timeout_s)
        queue = alone(pipeline, f"{name}-{container}-queue", batching)
        parts += [model, Part(PartRole.QUEUE, stage.name, queue)]
    stages = " ".join(f"{part.stage}={part.service}" for part in parts if part.role is PartRole.QUEUE)
    env = {**common, "IPA_STAGES": stages, "IPA_DROP_AFTER_S": f"{pipeline.deadline_s:g}"}
    router = alone(pipeline, f"{name}-router", _stage("router", "router", env))
    parts.append(Part(PartRole.ROUTER, "", router))
    names = (part.service.removeprefix("http://").split(".")[0] for part in parts)
    problems = [
        Problem(f"the name {name!r} of a Service would be longer than {LONGEST_NAME} characters")
        for name in names
        if len(name) > LONGEST_NAME
    ]
    if problems:
        raise InputError(
            f"pipeline {pipeline.name!r} has names too long for shape split",
            problems=problems,
            hint="Shorten `seldon.name`, `seldon.predictor` or a stage's `container`.",
        )
    return tuple(parts)


def _stage(name: str, container: str, env: Mapping[str, str]) -> Stage:
    """A stage for router or queue. Its image is not compared: an upgrade of it changes no decision."""
    return Stage(name, (Variant(container, targets={"seldon": SeldonRun(env=env)}),), container=container)


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


# The order of writes, see `SplitLayout.changes`.
GROWS, BIGGER_BATCH, SWITCHES, SMALLER_BATCH, SHRINKS = range(5)


class SeldonLayout(Layout):
    """The SeldonDeployments of a pipeline."""

    kind = SELDON_DEPLOYMENT

    def __init__(self, pipeline: Pipeline, pipelines: Mapping[str, Pipeline]) -> None:
        super().__init__(pipeline)
        # By the name of each SeldonDeployment, the pipeline as which it alone is read.
        self._pipelines = pipelines
        # The SeldonDeployments that no autoscaler may scale.
        self._scaled = self.names

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

    def check_autoscalers(self, running: Running, autoscalers: Sequence[Json]) -> None:
        """DriftError names every stage whose Deployment, or SeldonDeployment, another controller scales.

        Each would undo the other's changes. KEDA's ScaledObjects need no check of their own: each creates a
        HorizontalPodAutoscaler.
        """
        stages = {place.deployment: place.title for place in running.places}
        problems = []
        for autoscaler in autoscalers:
            target = at(autoscaler, "spec", "scaleTargetRef") or {}
            kind, name = target.get("kind"), str(target.get("name", ""))
            scaled = at(autoscaler, "metadata", "labels", KEDA_LABEL)
            made_by = f" (of KEDA's ScaledObject {scaled!r})" if scaled else ""
            title = stages.get(name) if kind == "Deployment" else None
            if kind == SELDON_DEPLOYMENT.kind and name in self._scaled:
                title = "every stage"
            if title is not None:
                words = f"HorizontalPodAutoscaler {autoscaler['metadata']['name']!r}{made_by}"
                problems.append(f"{title}: {words} scales {kind} {name}: {REMOVE_IT}")
        if problems:
            raise drift(self.pipeline, problems)


class SingleLayout(SeldonLayout):
    """One SeldonDeployment for all stages; each part of a set is one of its predictors."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(pipeline, {target_of(pipeline).name: pipeline})

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


class SplitLayout(SeldonLayout):
    """A router, and a queue and a model for each stage: a SeldonDeployment each."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._parts = {part.name: part for part in parts_of(pipeline)}
        super().__init__(pipeline, {name: part.pipeline for name, part in self._parts.items()})
        # Anybody may scale router and queues.
        self._scaled = tuple(name for name, part in self._parts.items() if part.role is PartRole.MODEL)

    def render(self, configs: Sequence[StageConfig]) -> list[dict[str, Any]]:
        """The SeldonDeployments that run the pipeline: models, queues, the router last.

        InputError as `manifest.render`, and if there is no image for router and queues.
        """
        pipeline, target = self.pipeline, target_of(self.pipeline)
        if target.image is None:
            raise InputError(
                f"pipeline {pipeline.name!r} has no image for its router and queues",
                hint="Set `seldon: {shape: split, image: ...}` to an image with ipa-serving installed.",
            )
        check_variants(pipeline)
        check_configs(pipeline, configs)
        by_stage = {config.stage: config for config in configs}
        order = (PartRole.MODEL, PartRole.QUEUE, PartRole.ROUTER)
        parts = sorted(self._parts.values(), key=lambda part: order.index(part.role))
        return [_object(part, part.config(target, by_stage), target.image) for part in parts]

    def observe(self, objects: Objects) -> Running:
        """The configurations of the models, with queues and router beside them."""
        configs = self._merge(self._read_parts(objects))
        places: dict[PartRole, list[StageLocation]] = {role: [] for role in PartRole}
        for name, part in self._parts.items():
            places[part.role] += locate(part.pipeline, objects[name])
        beside = (*places[PartRole.QUEUE], *places[PartRole.ROUTER])
        return Running(configs, ("",) * len(configs), tuple(places[PartRole.MODEL]), beside)

    def changes(self, objects: Objects, wanted: Sequence[StageConfig]) -> Objects:
        """Each changed object in its new form, in an order of writes that may stop anywhere.

        The rule (docs/adr/0004): changes that only add capacity go first and those that only remove it last;
        a bigger batch goes before its model, a smaller one after it. Then, as long as a bigger batch or more
        cores do not make a replica slower, each stage carries after every single write at least its old or
        its new load, whichever is less, and no stage is smaller than before until every stage that grows has
        grown.
        """
        pipeline = self.pipeline
        check_variants(pipeline)
        check_configs(pipeline, wanted)
        observed = self._read_parts(objects)
        running = {config.stage: config for config in self._merge(observed)}
        by_stage = {config.stage: config for config in in_millicores(wanted)}
        ranked: list[tuple[int, str, Json]] = []
        for name, part in self._parts.items():
            if part.role is PartRole.ROUTER:
                continue
            before, now, then = observed[name], running[part.stage], by_stage[part.stage]
            own = part.config(target_of(pipeline), by_stage)
            if part.role is PartRole.QUEUE:
                # It keeps the cores and replicas that somebody gave it.
                own = replace(before, batch_size=own.batch_size)
                rank = BIGGER_BATCH if then.batch_size > now.batch_size else SMALLER_BATCH
            else:
                grows = own.cores >= before.cores and own.replicas >= before.replicas
                shrinks = own.cores <= before.cores and own.replicas <= before.replicas
                is_sized = own.variant == before.variant and grows != shrinks
                size_rank = GROWS if grows else SHRINKS
                rank = size_rank if is_sized else SWITCHES
            if own != before:
                ranked.append((rank, name, self.changed(name, objects[name], (own,))))
        return {name: changed for _, name, changed in sorted(ranked, key=lambda each: each[0])}

    def _read_parts(self, objects: Objects) -> dict[str, StageConfig]:
        """The configuration of each object, by its name. DriftError lists the problems of all of them."""
        configs: dict[str, StageConfig] = {}
        problems: list[str] = []
        for name, part in self._parts.items():
            try:
                configs[name] = read_predictor(part.pipeline, objects[name])[0]
            except DriftError as error:
                problems += [f"{name}: {problem.message}" for problem in error.problems]
                continue
            if part.role is PartRole.MODEL and configs[name].batch_size != 1:
                problems.append(
                    f"{name}: env {BATCH_SIZE} is set, but the queue forms the batches; remove it"
                )
        if problems:
            raise drift(self.pipeline, problems)
        return configs

    def _merge(self, by_name: Mapping[str, StageConfig]) -> Configs:
        """The configuration of every stage, from its model's and its queue's configurations."""
        configs: dict[str, StageConfig] = {}
        for name, part in self._parts.items():
            own = by_name[name]
            if part.role is PartRole.MODEL:
                configs[part.stage] = own
            elif part.role is PartRole.QUEUE:
                configs[part.stage] = replace(configs[part.stage], batch_size=own.batch_size)
        return tuple(configs.values())


def _object(part: Part, config: StageConfig, image: str) -> dict[str, Any]:
    """The SeldonDeployment of the part, with the additional fields of router and queues."""
    body = manifest.render(part.pipeline, [config])
    body["metadata"]["labels"] |= {LABEL_ROLE: part.role.value}
    body["metadata"]["labels"] |= {LABEL_STAGE: part.stage} if part.stage else {}
    predictor = body["spec"]["predictors"][0]
    pod = predictor["componentSpecs"][0]["spec"]
    container = pod["containers"][0]
    is_model = part.role is PartRole.MODEL
    body["spec"]["annotations"] = {"seldon.io/headless-svc": "true"} if is_model else {}
    predictor["annotations"] = {"seldon.io/no-engine": "true"}
    if part.role is not PartRole.QUEUE:
        # Batches are formed in the queue alone.
        container["env"] = [one for one in container["env"] if one["name"] not in (BATCH_SIZE, BATCH_TIME)]
    if not is_model:
        module = f"ipa.dataplane.{part.role.value}"
        container |= {"image": image, "command": ["python", "-m", module], "readinessProbe": dict(READY)}
        container["env"].append({"name": "IPA_DRAIN_S", "value": str(DRAIN_S)})
        pod["terminationGracePeriodSeconds"] = GRACE_S
    return body


def layout_of(pipeline: Pipeline) -> SeldonLayout:
    """The layout of the pipeline's shape. InputError as `target_of` and `parts_of`."""
    return SplitLayout(pipeline) if is_split(pipeline) else SingleLayout(pipeline)
