"""A pipeline's loop on the fake API server, over HTTP: what the real service does on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ipa.adapters.kube.client import KubeClient
from ipa.control.engine.guards import GuardSettings
from ipa.control.loop.control_loop import LoopPorts
from ipa.control.ports import PipelineControl
from ipa.model.decision import Action, Decision, Mode
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from ipa.targets.seldon.section import SeldonRun, SeldonTarget
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube, Trouble
from tests.fakes.kube.samples import create
from tests.fakes.metrics import FakeMetrics
from tests.fakes.store import FakeStore
from tests.fakes.world import PIPELINE as LOCAL
from tests.fakes.world import loop_over

Json = dict[str, Any]
PIPELINE = replace(
    LOCAL,
    targets={"seldon": SeldonTarget("pages")},
    stages=tuple(
        replace(
            stage,
            variants=tuple(
                replace(one, targets={"seldon": SeldonRun(image="model:1", env={"MODEL_VARIANT": one.name})})
                for one in stage.variants
            ),
        )
        for stage in LOCAL.stages
    ),
)
SETTINGS = GuardSettings(tick_s=5.0, rollout_deadline_s=90.0, quarantine_s=600.0)


class Looped:
    """The loop in active mode, and a cluster that moves a step with each of its ticks."""

    def __init__(
        self,
        kube: FakeKube,
        folder: Path,
        pipeline: Pipeline,
        configs: Sequence[StageConfig],
        *,
        written_as: Pipeline | None = None,
        **brain: Any,
    ) -> None:
        """`written_as`: the pipeline by which another hand wrote the object."""
        self.kube, self.pipeline, self.rate_rps = kube, pipeline, 5.0
        self.clock, self.store = VirtualClock(), FakeStore(PipelineControl(mode=Mode.ACTIVE))
        self.client = KubeClient.from_kubeconfig(str(kube.kubeconfig(folder)), 10.0, clock=self.clock)
        self.workload = KubeWorkload(self.client, layout_of)
        create(self.client, written_as or pipeline, tuple(configs))
        kube.tick(6)
        kube.writes.clear()
        self.metrics = FakeMetrics(self.clock, lambda t_s: self.rate_rps)
        ports = LoopPorts(self.clock, self.metrics, self.workload, self.store, self.store)
        self.loop = loop_over(pipeline, ports, settings=SETTINGS, **brain)

    def ticks(self, count: int) -> list[Decision]:
        made = []
        for _ in range(count):
            made.append(self.loop.tick_once())
            self.kube.tick()
            self.clock.wait(SETTINGS.tick_s)
        return made

    def running(self) -> tuple[StageConfig, ...]:
        return tuple(stage.config for stage in self.workload.read(self.pipeline).stages)


@contextmanager
def looped(
    folder: Path, pipeline: Pipeline, configs: Sequence[StageConfig], **brain: Any
) -> Iterator[Looped]:
    """The loop with this policy and these predictions, over a pipeline that runs so."""
    with FakeKube() as kube:
        made = Looped(kube, folder, pipeline, configs, **brain)
        yield made
        made.client.close()


def applied(decisions: Sequence[Decision]) -> list[Decision]:
    """Those that changed something."""
    return [decision for decision in decisions if decision.action is Action.APPLY]


def troubled(trouble: Trouble | None, variant: str) -> Callable[[Json], Trouble | None]:
    """The troubles of the pods of a variant ("": of all)."""

    def of(pod: Json) -> Trouble | None:
        for container in pod["containers"]:
            env = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
            if "MODEL_VARIANT" in env and variant in ("", env["MODEL_VARIANT"]):
                return trouble
        return None

    return of
