"""The ports of a shadow policy: it reads everything that the controlling policy reads, and writes nothing.

Its loop is in shadow mode: it continues from its own decisions as if they had been carried out. They are
recorded under the pipeline's name with the policy's after an @, which no pipeline's name contains.
"""

from __future__ import annotations

from dataclasses import replace

from ipa.control.loop.control_loop import LoopPorts
from ipa.control.ports import (
    Attribution,
    ControlStore,
    Load,
    Metrics,
    NoEvents,
    PipelineControl,
    Rollout,
    Signals,
    Workload,
    WorkloadState,
)
from ipa.model.decision import Change, Mode
from ipa.model.errors import ForbiddenError
from ipa.model.pipeline import Pipeline
from ipa.model.rolling import Rolling


def shadow_world(world: LoopPorts, pipeline: Pipeline, policy: str) -> tuple[Pipeline, LoopPorts]:
    """The pipeline under its record name, and its ports without writes, overrides or events."""
    other = replace(pipeline, name=f"{pipeline.name}@{policy}")
    read_only = replace(
        world,
        metrics=_SameMetrics(world.metrics, pipeline),
        workload=_OnlyRead(world.workload, pipeline),
        controls=_InShadow(world.controls, pipeline.name),
        events=NoEvents(),
    )
    return other, read_only


class _SameMetrics:
    def __init__(self, metrics: Metrics, pipeline: Pipeline) -> None:
        self._metrics, self._pipeline = metrics, pipeline

    def read(self, pipeline: Pipeline, window_s: float) -> Signals:
        return self._metrics.read(self._pipeline, window_s)

    def load(self, pipeline: Pipeline, window_s: float) -> Load:
        return self._metrics.load(self._pipeline, window_s)


class _OnlyRead:
    """The workload, read only and always settled: rollouts of the controlling policy do not matter here."""

    def __init__(self, workload: Workload, pipeline: Pipeline) -> None:
        self._workload, self._pipeline = workload, pipeline

    @property
    def rolling(self) -> Rolling:
        return self._workload.rolling

    def read(self, pipeline: Pipeline) -> WorkloadState:
        return replace(self._workload.read(self._pipeline), settled=True)

    def write(self, pipeline: Pipeline, change: Change) -> str:
        raise ForbiddenError(f"{pipeline.name} is a shadow policy, which writes nothing")

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        return self._workload.rollout(self._pipeline, change)


class _InShadow:
    """The overrides of a shadow policy: the pipeline's pins. It writes nothing, so it is never paused."""

    def __init__(self, controls: ControlStore, pipeline: str) -> None:
        self._controls, self._pipeline = controls, pipeline

    def control(self, pipeline: str, *, may_lag: bool = False) -> PipelineControl:
        control = self._controls.control(self._pipeline, may_lag=may_lag)
        return PipelineControl(mode=Mode.SHADOW, pins=control.pins)

    def set_control(self, pipeline: str, control: PipelineControl, attribution: Attribution) -> None:
        raise ForbiddenError(f"{pipeline} is a shadow policy; its mode cannot be changed")
