"""Each pipeline in the shape that its file asks for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ipa.adapters.kube.client import KubeClient
from ipa.control.ports import Rollout, WorkloadState
from ipa.model.decision import Change
from ipa.model.parts import parts_of as shared_parts
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig, in_millicores
from ipa.model.rolling import DEPLOYMENT
from ipa.targets.seldon.manifest import check_configs
from ipa.targets.seldon.manifest_edit import Manifest
from ipa.targets.seldon.predictors import render_mixture
from ipa.targets.seldon.split import changed_config, config_of, is_split, merged, parts_of, render_split
from ipa.targets.seldon.split_workload import SplitWorkload
from ipa.targets.seldon.workload import SeldonWorkload


class KubeWorkload:
    """The Workload port over a cluster: one SeldonDeployment a pipeline, or one for each of its parts."""

    rolling = DEPLOYMENT

    def __init__(self, client: KubeClient) -> None:
        self._single, self._split = SeldonWorkload(client), SplitWorkload(client)

    def of(self, pipeline: Pipeline) -> SeldonWorkload | SplitWorkload:
        """The workload of the pipeline's shape."""
        return self._split if is_split(pipeline) else self._single

    def read(self, pipeline: Pipeline) -> WorkloadState:
        """The state of the workload; errors as those of the shape's workload."""
        return self.of(pipeline).read(pipeline)

    def create(self, pipeline: Pipeline, configs: Sequence[StageConfig]) -> str:
        """The revision of what was created; errors as those of the shape's workload."""
        return self.of(pipeline).create(pipeline, configs)

    def as_written(self, pipeline: Pipeline, configs: Sequence[StageConfig]) -> tuple[StageConfig, ...]:
        """The configurations as they read back once written; InputError lists what must not be written."""
        return as_written(pipeline, configs)

    def write(self, pipeline: Pipeline, change: Change) -> str:
        """The new revision; errors as those of the shape's workload."""
        return self.of(pipeline).write(pipeline, change)

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        """The state of the rollout of a written change."""
        return self.of(pipeline).rollout(pipeline, change)


def as_written(pipeline: Pipeline, configs: Sequence[StageConfig]) -> tuple[StageConfig, ...]:
    """The configurations as they read back once written; InputError lists what must not be written."""
    for part in shared_parts(configs):
        check_configs(pipeline, part)
    return in_millicores(configs)


def render_all(pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[dict[str, Any]]:
    """Every SeldonDeployment that runs the pipeline so; InputError as `render` and `render_split`."""
    return render_split(pipeline, configs) if is_split(pipeline) else [render_mixture(pipeline, configs)]


class SplitManifest:
    """The text of a file with every SeldonDeployment of a split pipeline. Errors as those of Manifest."""

    def __init__(self, pipeline: Pipeline, text: str, path: str) -> None:
        self._pipeline, self._text, self._path = pipeline, text, path
        self._parts = parts_of(pipeline)
        self._manifests = {part.name: Manifest(part.pipeline, text, path) for part in self._parts}

    def configs(self) -> tuple[StageConfig, ...]:
        """Configurations of the manifest. DriftError lists values outside the pipeline's configurations."""
        return merged(self._parts, self._found())

    def changed(self, wanted: Sequence[StageConfig]) -> str:
        """The text that asks for these, as `Manifest.changed`."""
        found, text = self._found(), self._text
        by_stage = {config.stage: config for config in wanted}
        for part in self._parts:
            after = changed_config(part, found[part.name], config_of(self._pipeline, part, by_stage))
            text = Manifest(part.pipeline, text, self._path).changed([after])
        return text

    def _found(self) -> dict[str, StageConfig]:
        return {name: manifest.configs()[0] for name, manifest in self._manifests.items()}


def manifest_of(pipeline: Pipeline, text: str, path: str) -> Manifest | SplitManifest:
    """The file's manifest of the pipeline, in its shape."""
    return SplitManifest(pipeline, text, path) if is_split(pipeline) else Manifest(pipeline, text, path)
