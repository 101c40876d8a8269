"""A pipeline as SeldonDeployments of its own parts (shape split), and back.

    <name>-router                 our router: requests come here, it knows the queues
    <name>-<container>-queue      a stage's queue: central batching, early drop; it knows the model's Service
    <name>-<container>-model      the stage's model: variant, cores, replicas

Of a stage with resident variants the model has a group of them loaded, and the queue says which one runs.

Each is a SeldonDeployment of one node without Seldon's orchestrator (`seldon.io/no-engine`). The operator
gives each a Service `<SeldonDeployment>-<predictor>` on the port of its first container, 9000. That of a
model is headless, so that its name leads to every ready pod and the queue fills each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from ipa.model.errors import InputError, Problem
from ipa.model.pipeline import Bounds, Pipeline, Stage, StageBounds, StageKind, Variant
from ipa.model.plan import StageConfig
from ipa.model.resident import is_lighter
from ipa.targets.seldon.locate import LONGEST_NAME, container_name, target_of
from ipa.targets.seldon.manifest import check_configs, render
from ipa.targets.seldon.residents import (
    COMMAND,
    Groups,
    check_resident,
    container_variants,
    group_named,
    groups_of,
    model_template,
    queue_variants,
)
from ipa.targets.seldon.section import SeldonRun, SeldonTarget, Shape, seldon_of
from ipa.targets.seldon.variants import BATCH_SIZE, BATCH_TIME, check_variants

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
    """One SeldonDeployment, as a pipeline of one stage: it is rendered, read and patched as others are.

    `stage` is the stage it belongs to, empty for the router; `groups` are its resident variants, if any.
    """

    role: PartRole
    stage: str
    pipeline: Pipeline
    groups: Groups = ()

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
        """Its configuration in a pipeline of that section whose stages run these configurations."""
        own = self.pipeline.stages[0]
        if self.role is PartRole.ROUTER:
            return StageConfig(own.name, own.variants[0].name, 1, target.orchestrator_cores, 1)
        config = configs[self.stage]
        if self.role is PartRole.MODEL:
            return replace(config, variant=group_named(self.groups, config.variant), batch_size=1)
        variant = config.variant if self.groups else own.variants[0].name
        return StageConfig(own.name, variant, config.batch_size, target.queue_cores, 1)


def is_split(pipeline: Pipeline) -> bool:
    """True if the pipeline's file asks for the shape split."""
    target = seldon_of(pipeline)
    return target is not None and target.shape is Shape.SPLIT


def parts_of(pipeline: Pipeline) -> tuple[Part, ...]:
    """Every part: the models and queues of the stages in order, then the router.

    InputError where the graph is no chain, which the router cannot run, a name is too long for a Service, or
    variants that are to be resident cannot share a container.
    """
    if not pipeline.is_chain:
        raise InputError(
            f"pipeline {pipeline.name!r} is not a chain of stages; shape split supports only chains",
            hint="Remove `shape: split`, or use a chain such as [a, b].",
        )
    name = target_of(pipeline).name
    parts: list[Part] = []
    for stage in pipeline.stages:
        check_resident(pipeline, stage)
        container, groups = container_name(stage), groups_of(pipeline, stage)
        variants = container_variants(pipeline, stage, container, groups) if groups else stage.variants
        served = replace(stage, container=container, variants=variants)
        served_alone = alone(pipeline, f"{name}-{container}-model", served)
        model = Part(PartRole.MODEL, stage.name, served_alone, groups)
        env = {
            **{"IPA_PIPELINE": pipeline.name, "IPA_STAGE": stage.name, "IPA_HOST": EVERYWHERE},
            **{"IPA_MODEL": container, "IPA_MODEL_URL": model.service},
        }
        queue = _stage(f"{stage.name}-queue", "queue", env)
        if groups:
            env["IPA_MODEL"] = model_template(container)
            queue = replace(queue, variants=queue_variants(pipeline, stage, groups, env))
        queue = replace(queue, batch_timeout_s=stage.batch_timeout_s)
        queue_alone = alone(pipeline, f"{name}-{container}-queue", queue)
        parts += [model, Part(PartRole.QUEUE, stage.name, queue_alone, groups)]
    stages = " ".join(f"{part.stage}={part.service}" for part in parts if part.role is PartRole.QUEUE)
    env = {"IPA_PIPELINE": pipeline.name, "IPA_STAGES": stages, "IPA_HOST": EVERYWHERE}
    env["IPA_DROP_AFTER_S"] = f"{pipeline.deadline_s:g}"
    router = alone(pipeline, f"{name}-router", _stage("router", "router", env))
    parts.append(Part(PartRole.ROUTER, "", router))
    names = (part.service.removeprefix("http://").split(".")[0] for part in parts)
    problems = [
        Problem(f"Service {name!r} would be longer than {LONGEST_NAME} characters")
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
    """A stage of our own. Its image is nobody's variant: who upgrades it changes no decision."""
    return Stage(name, (Variant(container, targets={"seldon": SeldonRun(env=env)}),), container=container)


def alone(pipeline: Pipeline, name: str, stage: Stage) -> Pipeline:
    """The stage as a pipeline of its own, in a SeldonDeployment of that name beside the pipeline's."""
    target = target_of(pipeline)
    # Its bounds were kept by whoever decided; called alone, every kind of stage is called as a model.
    alone = replace(stage, after=(), kind=StageKind.MODEL, bounds=StageBounds())
    own = SeldonTarget(name, target.namespace, target.predictor)
    # The resources of its variants come along.
    bounds = Bounds(measured=pipeline.bounds.measured)
    return Pipeline(
        pipeline.name, (alone,), pipeline.sla, pipeline.objectives, bounds, targets={"seldon": own}
    )


def render_split(pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[dict[str, Any]]:
    """The SeldonDeployments that run the pipeline so: models, queues, the router last.

    InputError as `render`, and where there is no image for router and queues.
    """
    target = target_of(pipeline)
    if target.image is None:
        raise InputError(
            f"pipeline {pipeline.name!r} has no image for its router and queues",
            hint="Set `seldon: {shape: split, image: ...}` to an image with ipa-serving installed.",
        )
    check_variants(pipeline)
    check_configs(pipeline, configs)
    by_stage = {config.stage: config for config in configs}
    parts = parts_of(pipeline)
    return [
        _object(part, part.config(target, by_stage), target.image)
        for role in (PartRole.MODEL, PartRole.QUEUE, PartRole.ROUTER)
        for part in parts
        if part.role is role
    ]


def _object(part: Part, config: StageConfig, image: str) -> dict[str, Any]:
    body = render(part.pipeline, [config])
    body["metadata"]["labels"] |= {
        LABEL_ROLE: part.role.value,
        **({LABEL_STAGE: part.stage} if part.stage else {}),
    }
    spec = body["spec"]
    predictor = spec["predictors"][0]
    pod = predictor["componentSpecs"][0]["spec"]
    container = pod["containers"][0]
    spec["annotations"] = {"seldon.io/headless-svc": "true"} if part.role is PartRole.MODEL else {}
    predictor["annotations"] = {"seldon.io/no-engine": "true"}
    if part.role is not PartRole.QUEUE:
        # Batches are formed in the queue alone.
        container["env"] = [one for one in container["env"] if one["name"] not in (BATCH_SIZE, BATCH_TIME)]
    if part.role is PartRole.MODEL and part.groups:
        # It is ready once it has all of its variants loaded.
        container |= {"command": list(COMMAND), "readinessProbe": dict(READY)}
    if part.role is not PartRole.MODEL:
        module = f"ipa.dataplane.{part.role.value}"
        container |= {"image": image, "command": ["python", "-m", module], "readinessProbe": dict(READY)}
        container["env"].append({"name": "IPA_DRAIN_S", "value": str(DRAIN_S)})
        pod["terminationGracePeriodSeconds"] = GRACE_S
    return body


# The order of writes, see `steps`.
GROWS, BIGGER_BATCH, SWITCHES, SMALLER_BATCH, SHRINKS = range(5)


# The variant that its queue asks for, and the groups of variants, of each stage with resident variants.
Asked = Mapping[str, tuple[str, Groups]]
NONE_ASKED: Asked = MappingProxyType({})
UNMEASURED = Bounds()


def steps(
    running: Sequence[StageConfig],
    wanted: Sequence[StageConfig],
    asked: Asked = NONE_ASKED,
    bounds: Bounds = UNMEASURED,
) -> tuple[tuple[PartRole, str], ...]:
    """Role and stage of the objects that differ, in an order of writes that may stop anywhere.

    The rule (docs/adr/0004): what only adds capacity goes first and what only takes it away last; a bigger
    batch goes before its model, a smaller one after it. Then, as long as a replica does not get slower by a
    bigger batch or by more cores, each stage carries after every single write at least what it carried before
    or what it is to carry after, whichever is less, and no stage is smaller than before until every stage
    that grows has grown. A queue goes before its model if it switches to a lighter variant, else after it.
    """
    found: list[tuple[int, tuple[PartRole, str]]] = []
    for now, then in zip(running, wanted, strict=True):
        variant, groups = asked.get(now.stage, (then.variant, ()))
        if (now.batch_size, variant) != (then.batch_size, then.variant):
            is_more = then.batch_size > now.batch_size
            if variant != then.variant:
                is_more = is_lighter(bounds, now.stage, variant, then.variant)
            found.append((BIGGER_BATCH if is_more else SMALLER_BATCH, (PartRole.QUEUE, now.stage)))
        old, new = ((group_named(groups, it.variant), it.cores, it.replicas) for it in (now, then))
        if old != new:
            grows = then.cores >= now.cores and then.replicas >= now.replicas
            shrinks = then.cores <= now.cores and then.replicas <= now.replicas
            rank = SWITCHES if old[0] != new[0] else GROWS if grows else SHRINKS if shrinks else SWITCHES
            found.append((rank, (PartRole.MODEL, now.stage)))
    return tuple(step for _, step in sorted(found, key=lambda each: each[0]))
