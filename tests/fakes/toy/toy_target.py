"""A target in one folder with one entry point: pipelines that run in a JSON file each, at a given load.

    toy: {load: 8rps}      in pipeline.yaml

Replicas are ready at the second look after a change. `ipa serve --target toy`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ipa.control.ports import Load, Rollout, RolloutPhase, Signals, StageSignals, StageState, WorkloadState
from ipa.files.forms import section
from ipa.files.targets import TargetSections
from ipa.model.decision import Change
from ipa.model.errors import ConflictError, NotFoundError
from ipa.model.forms import Rate
from ipa.model.observation import LoadHistory, Measured
from ipa.model.parts import Overhead
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.model.rolling import SIDE_BY_SIDE
from ipa.model.serving import ServingSemantics
from ipa.targets.base import Profiles, Site, Target, World

# What the toy itself takes beside the replicas of a pipeline.
OWN_CORES = 0.25
FOLDER = Path("runs/toy")


@dataclass(frozen=True, slots=True)
class ToyPlace:
    """`toy:` of a pipeline: the load that its metrics tell of."""

    load_rps: Rate


class ToyWorkload:
    """The Workload port over a folder of JSON files."""

    rolling = SIDE_BY_SIDE

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, pipeline: Pipeline) -> WorkloadState:
        """The contents of the file; it counts the looks at it."""
        with self._changing(pipeline) as state:
            state["looks"] += 1
            is_ready = state["looks"] > 1
            configs = [StageConfig(**config) for config in state["configs"]]
            stages = tuple(StageState(config, config.replicas if is_ready else 0) for config in configs)
            return WorkloadState(str(state["revision"]), stages, is_ready, state["by"])

    def create(self, pipeline: Pipeline, configs: Sequence[StageConfig]) -> str:
        """The first revision. ConflictError if it runs already."""
        path = self._path(pipeline)
        if path.exists():
            raise ConflictError(f"{path} is there already")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"revision": 0, "looks": 0, "by": "", "configs": []}))
        return self.put(pipeline, configs, "")

    def write(self, pipeline: Pipeline, change: Change) -> str:
        """The new revision. ConflictError if it is not the one that the change was decided on."""
        with self._changing(pipeline) as state:
            revision = str(state["revision"])
            is_same = [StageConfig(**config) for config in state["configs"]] == list(change.configs)
        if revision != change.revision:
            raise ConflictError(f"{pipeline.name} is at {revision}, not at {change.revision}")
        return revision if is_same else self.put(pipeline, change.configs, "")

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        """Ready with the second look."""
        state = self.read(pipeline)
        if tuple(stage.config for stage in state.stages) != tuple(change.configs):
            return Rollout(RolloutPhase.READY, "another writer replaced the change")
        return Rollout(RolloutPhase.READY if state.settled else RolloutPhase.PROGRESSING)

    def put(self, pipeline: Pipeline, configs: Sequence[StageConfig], by: str) -> str:
        """The revision after these configurations are written, `by` somebody else if it is not empty."""
        with self._changing(pipeline) as state:
            state |= {"revision": state["revision"] + 1, "looks": 0, "by": by}
            state["configs"] = [asdict(config) for config in configs]
            return str(state["revision"])

    def remove(self, pipeline: Pipeline) -> None:
        self._path(pipeline).unlink()

    def why_not(self, pipeline: Pipeline) -> str:
        return ""

    def close(self) -> None:
        """Nothing is open."""

    def _path(self, pipeline: Pipeline) -> Path:
        return self._folder / f"{pipeline.name}.json"

    @contextmanager
    def _changing(self, pipeline: Pipeline) -> Iterator[dict[str, Any]]:
        path = self._path(pipeline)
        try:
            state = json.loads(path.read_text())
        except FileNotFoundError as error:
            raise NotFoundError(f"there is no {path}") from error
        yield state
        path.write_text(json.dumps(state))


class ToyMetrics:
    """The Metrics port: each pipeline has the load of its section, and half its SLA as latency."""

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        """That load and latency, for each stage too."""
        load, latency = Measured(_load_rps(pipeline)), Measured(pipeline.sla.latency_s / 2)
        stage_latency = Measured(latency.value / len(pipeline.served))
        stages = {stage.name: StageSignals(load, stage_latency, Measured(0.0)) for stage in pipeline.served}
        return Signals(load, self.load(pipeline, window_s), latency, stages)

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        """The same rate at each second."""
        rates = (_load_rps(pipeline),) * int(window_s)
        return Measured(LoadHistory(1.0, rates, end_s=time.time()))


def _load_rps(pipeline: Pipeline) -> float:
    place = pipeline.targets.get("toy")
    return place.load_rps if place else 1.0


class Toy(Target):
    """Pipelines in JSON files."""

    name = "toy"
    title = "target toy"
    sections = TargetSections("toy", section("toy", ToyPlace, "load_rps"))

    def serving(self, pipeline: Pipeline) -> ServingSemantics:
        """A queue that drops nothing."""
        return ServingSemantics(drops_late=False, runs_graphs=False, most_parts=2)

    def shape(self, pipeline: Pipeline, profiles: Profiles) -> Pipeline:
        """With the toy's own cores."""
        return replace(pipeline, bounds=replace(pipeline.bounds, overhead=Overhead(OWN_CORES)))

    def unfit(self, pipeline: Pipeline) -> str:
        """Those given over the API run too."""
        return "; ".join(map(str, self.unhonoured(pipeline)))

    def open(self, site: Site) -> World:
        """A folder with what each pipeline starts with."""
        workload = ToyWorkload(site.folder)
        for pipeline in site.pipelines.values():
            try:
                workload.read(pipeline)
            except NotFoundError:
                workload.create(pipeline, site.start(pipeline))
        return World(workload, ToyMetrics())

    def render(self, pipeline: Pipeline, configs: Sequence[StageConfig]) -> list[dict[str, Any]]:
        """The would-be contents of the file."""
        return [{"pipeline": pipeline.name, "configs": [asdict(config) for config in configs]}]


TOY = Toy()
