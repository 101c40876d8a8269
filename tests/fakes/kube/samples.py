"""A pipeline whose variants differ in every way that variants can, and the objects of any pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import ResourceKind
from ipa.model.pipeline import Objective, OutputRows, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.targets.deployments.section import KEY, DeploymentsTarget
from ipa.targets.kubernetes.containers import ContainerRun
from ipa.targets.kubernetes.layout import ANNOTATION, revision_of
from ipa.targets.kubernetes.target import KubernetesTarget
from ipa.targets.seldon.section import SeldonRun, SeldonTarget
from ipa.targets.seldon.target import SELDON

SERVICE = ResourceKind("", "v1", "services", "Service")


def sample_pipeline() -> Pipeline:
    """Three stages: by image and memory; by env keys that not all have; by model URI of a shared server."""

    def variant(name: str, **run: object) -> Variant:
        return Variant(name, targets={"seldon": SeldonRun(**run)})  # type: ignore[arg-type]

    detect = (
        variant("d-s", image="registry.example/detect:s", memory_gib=1.0),
        variant("d-l", image="registry.example/detect:l", memory_gib=2.0),
    )
    read = (
        variant("r-s", image="registry.example/read:1", env={"MODEL": "s"}),
        variant("r-m", image="registry.example/read:1", env={"MODEL": "m", "PRECISION": "int8"}),
        variant("r-l", image="registry.example/read:1", env={"MODEL": "l", "TILES": "4", "A_FLAG": "1"}),
    )
    sort = (
        variant("c-s", implementation="SKLEARN_SERVER", model_uri="s3://models/sort/s"),
        variant("c-l", implementation="SKLEARN_SERVER", model_uri="s3://models/sort/l"),
    )
    return Pipeline(
        "sample",
        chain(
            [
                Stage("detect", detect, batch_timeout_s=0.02, output_rows=OutputRows.PER_ITEM),
                Stage("read", read, container="reader"),
                Stage("sort", sort),
            ],
            [3.0],
        ),
        Sla(1.0),
        {"default": Objective()},
        targets={"seldon": SeldonTarget("sample", "models", "main")},
    )


def sample_configs() -> tuple[StageConfig, ...]:
    """Its smallest variants, one replica each."""
    return (
        StageConfig("detect", "d-s", 1, 1.0, 1),
        StageConfig("read", "r-s", 1, 0.5, 2),
        StageConfig("sort", "c-s", 4, 0.25, 1),
    )


def as_deployments(pipeline: Pipeline, image: str = "registry.example/ipa:1", **section: Any) -> Pipeline:
    """The same pipeline on plain Deployments, with these fields of its section; a model's URI is env."""

    def run_of(run: SeldonRun) -> ContainerRun:
        uri = {"MLSERVER_MODEL_URI": run.model_uri} if run.model_uri else {}
        of_model = run.image or "registry.example/server:1"
        return ContainerRun(of_model, env={**run.env, **uri}, memory_gib=run.memory_gib)

    def moved(variant: Variant) -> Variant:
        return replace(variant, targets={KEY: run_of(variant.targets["seldon"])})

    seldon: SeldonTarget = pipeline.targets["seldon"]
    own = DeploymentsTarget(seldon.name, image, seldon.namespace, **section)
    stages = tuple(replace(it, variants=tuple(map(moved, it.variants))) for it in pipeline.stages)
    return replace(pipeline, stages=stages, targets={KEY: own})


def create(
    client: KubeClient,
    pipeline: Pipeline,
    configs: Sequence[StageConfig],
    install: str = "",
    target: KubernetesTarget = SELDON,
) -> str:
    """Create the pipeline's objects as `ipa render | kubectl apply -f -` does, and return their revision.

    They are claimed by the install, if there is one.
    """
    layout = target.layout_of(pipeline)
    made = {}
    for body in layout.render(configs):
        if body["kind"] != layout.kind.kind:
            client.create(SERVICE, layout.namespace, body)
            continue
        if install:
            body["metadata"]["annotations"] = {ANNOTATION: install}
        made[body["metadata"]["name"]] = client.create(layout.kind, layout.namespace, body)
    return revision_of([made[name] for name in layout.names])
