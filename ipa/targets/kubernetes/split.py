"""A chain as our router, and a queue and a model for each stage: one object each.

    <name>-router                 requests come here, it knows the queues
    <name>-<container>-queue      a stage's queue: central batching, early drop; it knows the model's Service
    <name>-<container>-model      the stage's model: variant, cores, replicas

The name of a model's Service leads to every ready pod, so that the queue fills each of them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from ipa.adapters.kube.transport import Json
from ipa.files.document import Document
from ipa.model.errors import DriftError, InputError
from ipa.model.parts import Configs, Overhead
from ipa.model.pipeline import Pipeline, Stage, Variant
from ipa.model.plan import StageConfig, in_millicores
from ipa.model.rolling import DEPLOYMENT
from ipa.model.serving import Rebatch, ServingSemantics
from ipa.targets.kubernetes.containers import (
    BATCH_SIZE,
    ContainerPlace,
    ContainerRun,
    check_configs,
    container_name,
)
from ipa.targets.kubernetes.layout import Layout, Objects, Running

# Our router and queues before the replicas.
SERVING = ServingSemantics(
    rolling=DEPLOYMENT,
    rebatch=Rebatch.NEW_REPLICAS,
    runs_graphs=False,
)
# Of a request through router and queue, measured on two cores (`make scorecard`).
HOP_S = 0.005
PORT = 9000
EVERYWHERE = "0.0.0.0"  # noqa: S104  (in a pod, whose network is its own)
LABEL_PIPELINE = "ipa-serving/pipeline"
LABEL_ROLE = "ipa-serving/role"
LABEL_STAGE = "ipa-serving/stage"
# The pod sleeps 10 s when it is to end, so that no request is on its way to it; then these finish theirs.
DRAIN_S = 15
GRACE_S = 30
READY = {"httpGet": {"path": "/v2/health/ready", "port": "http"}, "periodSeconds": 2}
# A Service's name is a DNS label, and begins with a letter.
LONGEST_NAME = 63
NO_REASONS: Mapping[str, str] = MappingProxyType({})


class PartRole(StrEnum):
    """The role of an object in a split pipeline."""

    ROUTER = "router"
    QUEUE = "queue"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class Part:
    """One object of a split pipeline.

    `stage` is the stage it belongs to, empty for the router; `own` is what it runs, as a stage. `service` is
    the URL of its Service.
    """

    role: PartRole
    stage: str
    name: str
    service: str
    own: Stage

    @property
    def labels(self) -> dict[str, str]:
        """Its labels of role and stage."""
        return {LABEL_ROLE: self.role.value} | ({LABEL_STAGE: self.stage} if self.stage else {})

    def config(
        self, configs: Mapping[str, StageConfig], router_cores: float, queue_cores: float
    ) -> StageConfig:
        """Its configuration in a pipeline whose stages run these configurations."""
        own = self.own
        if self.role is PartRole.ROUTER:
            return StageConfig(own.name, own.variants[0].name, 1, router_cores, 1)
        config = configs[self.stage]
        if self.role is PartRole.MODEL:
            return replace(config, batch_size=1)
        return StageConfig(own.name, own.variants[0].name, config.batch_size, queue_cores, 1)

    def run_ours(self, pod: Json, image: str) -> None:
        """Let the pod of a router or queue run it from that image, and let it finish its requests."""
        container = pod["containers"][0]
        command = ["python", "-m", f"ipa.dataplane.{self.role.value}"]
        container |= {"image": image, "command": command, "readinessProbe": dict(READY)}
        container["env"].append({"name": "IPA_DRAIN_S", "value": str(DRAIN_S)})
        pod["terminationGracePeriodSeconds"] = GRACE_S


def parts_of(
    pipeline: Pipeline,
    name: str,
    key: str,
    run: Callable[..., ContainerRun],
    service_of: Callable[[str], str],
    where: str,
) -> tuple[Part, ...]:
    """Every part: the models and queues of the stages in order, then the router.

    Router and queues have a section `key` made by `run`; `service_of` returns the URL of a part's Service.
    InputError if the graph is not a chain, which the router cannot run.
    """
    if not pipeline.is_chain:
        raise InputError(
            f"pipeline {pipeline.name!r} is not a chain of stages; {where} supports only chains",
            hint="Use a chain such as [a, b].",
        )
    common, parts = {"IPA_PIPELINE": pipeline.name, "IPA_HOST": EVERYWHERE}, list[Part]()

    def add(role: PartRole, own: Stage, stage: str = "", container: str = "") -> Part:
        whole = "-".join(filter(None, (name, container, role)))
        parts.append(Part(role, stage, whole, service_of(whole), own))
        return parts[-1]

    def ours(stage: str, container: str, env: Mapping[str, str]) -> Stage:
        """A stage for router or queue. Its image is not compared: an upgrade of it changes no decision."""
        return Stage(stage, (Variant(container, targets={key: run(env=env)}),), container=container)

    for stage in pipeline.stages:
        container = container_name(stage)
        model = add(PartRole.MODEL, replace(stage, container=container), stage.name, container)
        env = {**common, "IPA_STAGE": stage.name, "IPA_MODEL_URL": model.service, "IPA_MODEL": container}
        batching = ours(f"{stage.name}-queue", "queue", env)
        batching = replace(batching, batch_timeout_s=stage.batch_timeout_s)
        add(PartRole.QUEUE, batching, stage.name, container)
    stages = " ".join(f"{part.stage}={part.service}" for part in parts if part.role is PartRole.QUEUE)
    env = {**common, "IPA_STAGES": stages, "IPA_DROP_AFTER_S": f"{pipeline.deadline_s:g}"}
    add(PartRole.ROUTER, ours("router", "router", env))
    return tuple(parts)


def shaped(
    pipeline: Pipeline,
    overhead: Overhead,
    ignores: Collection[str],
    unbatched: Mapping[str, str] = NO_REASONS,
    **fields: Any,
) -> Pipeline:
    """The pipeline as it runs on a cluster, with these `fields` of each stage; others are as of a split one.

    The overhead counts within its bounds. Stages `unbatched` have batch size 1 only, for that reason.
    """
    usual = {"in_replica": False, "hop_s": 0.0, "request_s": 0.0, **fields}
    if "resident" in ignores:
        usual["resident"] = 1
    # Replace what another target or shape may have set before.
    stages = (replace(it, unbatched=unbatched.get(it.name, ""), **usual) for it in pipeline.stages)
    return replace(pipeline, bounds=replace(pipeline.bounds, overhead=overhead), stages=tuple(stages))


def check_names(document: Document, key: str, suffix: str = "") -> None:
    """Note names from which no name of a Service follows; `key` is the section's, each ends with `suffix`."""
    data = document.sound() or {}
    name = (data.get(key) or {}).get("name") or ""
    if name[:1].isdigit():
        document.problem((key, "name"), f"{name!r} begins the names of Services, which begin with a letter")
    for at, stage in enumerate(data.get("stages") or ()):
        own = stage and (stage.get("container") or stage.get("name"))
        # No name of another part is longer.
        service = f"{name}-{own}-{PartRole.MODEL}{suffix}"
        if name and own and len(service) > LONGEST_NAME:
            words = f"the Service {service!r} has {len(service)} characters, and may have {LONGEST_NAME}"
            remedy = f"shorten the name in `{key}`, or give the stage a shorter `container`"
            document.problem(("stages", at, "name"), f"{words}; {remedy}")


# The order of writes, see `SplitLayout.changes`.
GROWS, BIGGER_BATCH, SWITCHES, SMALLER_BATCH, SHRINKS = range(5)


class SplitLayout(Layout):
    """The objects of a router, and of a queue and a model for each stage."""

    def __init__(
        self, pipeline: Pipeline, parts: Sequence[Part], router_cores: float, queue_cores: float
    ) -> None:
        super().__init__(pipeline)
        self._parts = {part.name: part for part in parts}
        self._cores = router_cores, queue_cores

    @property
    def names(self) -> tuple[str, ...]:
        """The names of models and queues, then the router's."""
        return tuple(self._parts)

    @property
    def scaled(self) -> tuple[str, ...]:
        """The models: anybody may scale router and queues."""
        return tuple(name for name, part in self._parts.items() if part.role is PartRole.MODEL)

    @abstractmethod
    def check_variants(self) -> None:
        """InputError lists what the target cannot run of the pipeline's variants."""

    @abstractmethod
    def render_part(self, part: Part, config: StageConfig) -> list[dict[str, Any]]:
        """The objects of one part with that configuration."""

    @abstractmethod
    def place(self, part: Part, live: Json) -> ContainerPlace:
        """The place of the part's container in its object. DriftError if it has none."""

    def render(self, configs: Sequence[StageConfig]) -> list[dict[str, Any]]:
        """The objects that run the pipeline: models, queues, the router last. InputError as `changes`."""
        self.check_variants()
        check_configs(self.pipeline, configs)
        by_stage = {config.stage: config for config in configs}
        order = (PartRole.MODEL, PartRole.QUEUE, PartRole.ROUTER)
        parts = sorted(self._parts.values(), key=lambda part: order.index(part.role))
        return [
            body for part in parts for body in self.render_part(part, part.config(by_stage, *self._cores))
        ]

    def observe(self, objects: Objects) -> Running:
        """The configurations of the models, with queues and router beside them."""
        configs = self._merge(self._read_parts(objects))
        places: dict[PartRole, list[ContainerPlace]] = {role: [] for role in PartRole}
        for name, part in self._parts.items():
            places[part.role].append(self.place(part, objects[name]))
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
        self.check_variants()
        check_configs(self.pipeline, wanted)
        observed = self._read_parts(objects)
        running = {config.stage: config for config in self._merge(observed)}
        by_stage = {config.stage: config for config in in_millicores(wanted)}
        ranked: list[tuple[int, str, Json]] = []
        for name, part in self._parts.items():
            if part.role is PartRole.ROUTER:
                continue
            before, now, then = observed[name], running[part.stage], by_stage[part.stage]
            own = part.config(by_stage, *self._cores)
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
                configs[name] = self.read(name, objects[name])[0]
            except DriftError as error:
                problems += [f"{name}: {problem.message}" for problem in error.problems]
                continue
            if part.role is PartRole.MODEL and configs[name].batch_size != 1:
                problems.append(
                    f"{name}: env {BATCH_SIZE} is set, but the queue forms the batches; remove it"
                )
        if problems:
            raise self.drift(problems)
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
