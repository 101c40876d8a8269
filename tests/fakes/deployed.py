"""The pipeline `video` on the fake API server, and the settings of a service beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ipa.files import load_pipelines
from ipa.model.plan import StageConfig
from ipa.settings import Settings
from ipa.targets.seldon.manifest import render
from ipa.targets.seldon.section import seldon_of
from tests.fakes.kube import FakeKube


@dataclass(frozen=True)
class Deployed:
    """The running parts, their place, and a service; no second tick comes by itself within a test."""

    kube: FakeKube
    settings: Settings
    place: tuple[str, str]
    configs: tuple[StageConfig, ...]


@contextmanager
def deployed(root: Path, folder: Path) -> Iterator[Deployed]:
    """Everything ready with the first variants; Prometheus does not answer."""
    pipeline = load_pipelines(root / "pipelines")["video"]
    configs = tuple(StageConfig(stage.name, stage.variants[0].name, 1, 1.0, 2) for stage in pipeline.stages)
    assert seldon_of(pipeline) is not None
    with FakeKube() as kube:
        kube.store.create("seldondeployments", seldon_of(pipeline).namespace, render(pipeline, configs))
        kube.tick(4)
        settings = Settings(
            pipelines_dir=root / "pipelines",
            profiles_dir=root / "profiles",
            store_url=f"sqlite:///{folder}/ipa.sqlite3",
            target="kubernetes",
            kubeconfig=str(kube.kubeconfig(folder)),
            prometheus_url="http://127.0.0.1:9",
            solver="exact",
            tick_s=3600.0,
        )
        yield Deployed(kube, settings, (seldon_of(pipeline).namespace, seldon_of(pipeline).name), configs)
