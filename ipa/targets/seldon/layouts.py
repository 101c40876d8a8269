"""The SeldonDeployments of a pipeline in the shape that its file asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.preflight import enforced_pod_security
from ipa.adapters.kube.responses import with_hand
from ipa.model.errors import DriftError
from ipa.model.external import with_replicas_of
from ipa.model.parts import Configs
from ipa.model.parts import parts_of as shared_parts
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig, in_millicores
from ipa.targets.kubernetes.layout import Draft, Layout, ObjectChange, Objects, Running
from ipa.targets.seldon.locate import (
    SELDON_DEPLOYMENT,
    StageLocation,
    check_autoscalers,
    drift,
    locate,
    orchestrators,
    target_of,
)
from ipa.targets.seldon.manifest import check_configs, read
from ipa.targets.seldon.predictors import (
    draft_change,
    read_named,
    read_predictors,
    render_predictors,
)
from ipa.targets.seldon.residents import served_variant
from ipa.targets.seldon.section import Shape
from ipa.targets.seldon.split import PartRole, is_split, parts_of, render_split, steps
from ipa.targets.seldon.variants import BATCH_SIZE, Json, check_variants


class SeldonLayout(Layout):
    """The SeldonDeployments of a pipeline."""

    kind = SELDON_DEPLOYMENT

    @property
    def namespace(self) -> str:
        """That of the pipeline's section."""
        return target_of(self.pipeline).namespace

    def as_written(self, configs: Sequence[StageConfig]) -> Configs:
        """The configurations with cores in whole millicores; InputError if they do not fit the pipeline."""
        for part in shared_parts(configs):
            check_configs(self.pipeline, part)
        return in_millicores(configs)

    def admission_fault(self, client: KubeClient) -> str:
        """The refusal of its pods by the namespace's PodSecurity, with the remedy; empty if there is none."""
        target = target_of(self.pipeline)
        if target.shape is not Shape.SINGLE and not target.run_as_root:
            return ""
        if enforced_pod_security(client, target.namespace) != "restricted":
            return ""
        what = f"namespace {target.namespace!r} enforces restricted PodSecurity, which refuses"
        if target.run_as_root:
            return f"{what} containers that run as root; leave out `seldon: {{run_as_root: true}}`"
        remedy = "use `seldon: {shape: split}`, or a namespace that enforces baseline"
        return f"{what} Seldon's orchestrator, so that shape single never serves there; {remedy}"

    def read(self, name: str, found: Json) -> Configs:
        """The configurations that one of the SeldonDeployments asks for."""
        return read_predictors(self._pipeline_of(name), found)

    def draft(self, name: str, live: Json, wanted: Sequence[StageConfig]) -> Draft:
        """The draft that takes one of the SeldonDeployments to these."""
        return draft_change(self._pipeline_of(name), live, wanted)

    def check_autoscalers(self, running: Running, autoscalers: Sequence[Json]) -> None:
        """DriftError names every stage that one of these scales, but those whose replicas are external."""
        places = [place for place in running.places if isinstance(place, StageLocation)]
        check_autoscalers(self.pipeline, self._scaled, places, autoscalers)

    @property
    def _scaled(self) -> tuple[str, ...]:
        """The SeldonDeployments that no autoscaler may scale."""
        return self.names

    def _pipeline_of(self, name: str) -> Pipeline:
        """The pipeline that the SeldonDeployment of that name alone reads as."""
        return self.pipeline


class SingleLayout(SeldonLayout):
    """One SeldonDeployment for all stages; each part of a set is one of its predictors."""

    @property
    def names(self) -> tuple[str, ...]:
        """That of the pipeline's section."""
        return (target_of(self.pipeline).name,)

    def render(self, configs: Sequence[StageConfig]) -> list[dict[str, Any]]:
        """The SeldonDeployment. InputError as `render_predictors`."""
        return [render_predictors(self.pipeline, configs)]

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
        beside = orchestrators(sdep, places)
        # Without a Deployment of its own an orchestrator is in the pods of the first componentSpec.
        first = tuple(place for place in places if place.stage == places[0].stage)
        return Running(configs, tuple(names), places, beside, beside or first)

    def changes(self, objects: Objects, wanted: Sequence[StageConfig]) -> list[ObjectChange]:
        """The one change, if anything differs."""
        ((name, sdep),) = objects.items()
        draft = self.draft(name, sdep, wanted)
        return [ObjectChange(name, self.read(name, sdep), tuple(wanted), draft)] if draft.changes else []


class SplitLayout(SeldonLayout):
    """A router, and a queue and a model for each stage: a SeldonDeployment each.

    A change is written in an order in which every prefix is safe (`split.steps`).
    """

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(pipeline)
        self._parts = {part.name: part for part in parts_of(pipeline)}

    @property
    def names(self) -> tuple[str, ...]:
        """Those of the stages' models and queues, then the router's."""
        return tuple(self._parts)

    def render(self, configs: Sequence[StageConfig]) -> list[dict[str, Any]]:
        """The SeldonDeployments. InputError as `render_split`."""
        return render_split(self.pipeline, configs)

    def observe(self, objects: Objects) -> Running:
        """The models, with queues and router beside them."""
        configs = self._merge(self._read_parts(objects))
        places: dict[PartRole, list[StageLocation]] = {role: [] for role in PartRole}
        for name, part in self._parts.items():
            places[part.role] += locate(part.pipeline, objects[name])
        routers = tuple(places[PartRole.ROUTER])
        beside = (*places[PartRole.QUEUE], *routers)
        return Running(configs, ("",) * len(configs), tuple(places[PartRole.MODEL]), beside, routers)

    def changes(self, objects: Objects, wanted: Sequence[StageConfig]) -> list[ObjectChange]:
        """A change for each object that differs, in the order of `steps`."""
        pipeline = self.pipeline
        check_variants(pipeline)
        check_configs(pipeline, wanted)
        found = self._read_parts(objects)
        running = self._merge(found)
        after = with_replicas_of(pipeline.external, in_millicores(wanted), running)
        by_stage = {config.stage: config for config in after}
        by_step = {(part.role, part.stage): name for name, part in self._parts.items()}
        asked = {
            part.stage: (found[name].variant, part.groups)
            for name, part in self._parts.items()
            if part.role is PartRole.QUEUE and part.groups
        }
        changes = []
        for step in steps(running, after, asked, pipeline.bounds):
            name = by_step[step]
            before, then = found[name], self._parts[name].config(target_of(pipeline), by_stage)
            if self._parts[name].role is not PartRole.MODEL:
                # A queue keeps the cores and replicas that somebody gave it.
                then = replace(before, variant=then.variant, batch_size=then.batch_size)
            draft = self.draft(name, objects[name], (then,))
            changes.append(ObjectChange(name, (before,), (then,), draft))
        return changes

    def _read_parts(self, objects: Objects) -> dict[str, StageConfig]:
        """The configuration of each object, by its name. DriftError lists the problems of all of them."""
        found: dict[str, StageConfig] = {}
        problems: list[str] = []
        for name, part in self._parts.items():
            try:
                found[name] = read(part.pipeline, objects[name])[0]
            except DriftError as error:
                problems += [f"{name}: {problem.message}" for problem in error.problems]
                continue
            if part.role is PartRole.MODEL and found[name].batch_size != 1:
                problems.append(
                    f"{name}: env {BATCH_SIZE} is set, but the queue forms the batches; remove it"
                )
        if problems:
            raise drift(self.pipeline, problems)
        return found

    def _merge(self, found: Mapping[str, StageConfig]) -> Configs:
        """The configuration of every stage, from those of its model and its queue.

        Between two writes the queue may ask for what the model has not loaded.
        """
        configs: dict[str, StageConfig] = {}
        for name, part in self._parts.items():
            own = found[name]
            if part.role is PartRole.MODEL:
                configs[part.stage] = own
            elif part.role is PartRole.QUEUE:
                variant = configs[part.stage].variant
                if part.groups:
                    variant = served_variant(part.groups, variant, own.variant)
                configs[part.stage] = replace(configs[part.stage], variant=variant, batch_size=own.batch_size)
        return tuple(configs.values())

    @property
    def _scaled(self) -> tuple[str, ...]:
        """The models: router and queues may be scaled by anybody."""
        return tuple(name for name, part in self._parts.items() if part.role is PartRole.MODEL)

    def _pipeline_of(self, name: str) -> Pipeline:
        return self._parts[name].pipeline


def layout_of(pipeline: Pipeline) -> SeldonLayout:
    """The layout of the pipeline's shape. InputError as `target_of` and `parts_of`."""
    return SplitLayout(pipeline) if is_split(pipeline) else SingleLayout(pipeline)
