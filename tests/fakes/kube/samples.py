"""A pipeline whose variants differ in every way that variants can, and the objects of any pipeline."""

from __future__ import annotations

from collections.abc import Sequence

from ipa.adapters.kube.client import KubeClient
from ipa.model.pipeline import Objective, OutputRows, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.targets.kubernetes.layout import ANNOTATION, revision_of
from ipa.targets.seldon.layouts import layout_of
from ipa.targets.seldon.section import SeldonRun, SeldonTarget


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


def create(client: KubeClient, pipeline: Pipeline, configs: Sequence[StageConfig], install: str = "") -> str:
    """Create the pipeline's objects as `ipa render | kubectl apply -f -` does, and return their revision.

    They are claimed by the install, if there is one.
    """
    layout = layout_of(pipeline)
    made = {}
    for body in layout.render(configs):
        if install:
            body["metadata"]["annotations"] = {ANNOTATION: install}
        made[body["metadata"]["name"]] = client.create(layout.kind, layout.namespace, body)
    return revision_of([made[name] for name in layout.names])
