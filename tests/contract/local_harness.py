"""Local processes under the contract of the Workload port: stubs that repeat what they are given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.attack.kills import STUB
from ipa.control.ports import Rollout, RolloutPhase
from ipa.model.decision import Change
from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.targets.base import Target
from ipa.targets.local.section import LocalRun
from ipa.targets.local.target import LOCAL
from ipa.targets.local.workload import LocalWorkload
from tests.fakes.waiting import until

MARKS = [pytest.mark.local, pytest.mark.xdist_group("local")]
GIVE_UP_S = 300.0


def stub_chain() -> Pipeline:
    """A chain of two stages of stubs."""

    def stage(name: str) -> Stage:
        run = LocalRun("", command=("{python}", str(STUB), "{port}", "--stage", name))
        return Stage(name, tuple(Variant(each, targets={"local": run}) for each in ("small", "large")))

    stages = chain([stage("find"), stage("read")])
    return Pipeline("shop", stages, Sla(1.0), {"default": Objective()})


class LocalHarness:
    """Processes of this machine. Another hand is another caller of the same runner."""

    target: Target = LOCAL

    def __init__(self, folder: Path) -> None:
        self.pipeline = stub_chain()
        self.processes = LocalWorkload(folder)
        self.workload = self.processes

    def start(self, configs: Sequence[StageConfig]) -> None:
        self.processes.start(self.pipeline, configs)

    def settle(self, change: Change) -> Rollout:
        def rollout() -> Rollout:
            return self.processes.rollout(self.pipeline, change)

        until(lambda: rollout().phase is not RolloutPhase.PROGRESSING, GIVE_UP_S)
        return rollout()

    def scale_by_another_hand(self, stage: str, replicas: int) -> None:
        state = self.processes.read(self.pipeline)
        running = [each.config for each in state.stages]
        by_hand = tuple(replace(it, replicas=replicas) if it.stage == stage else it for it in running)
        self.processes.write(
            self.pipeline, Change("hand", "shop", state.revision, tuple(running), by_hand, GIVE_UP_S)
        )

    def remove(self) -> None:
        self.processes.stop()

    def close(self) -> None:
        self.processes.stop()
