"""The needs of the contract of the Workload port of an adapter under test.

To put another adapter under the contract, write a harness and add its factory to HARNESSES in
test_workload_contract.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

from ipa.control.ports import Rollout, RolloutPhase, Workload
from ipa.model.decision import Change
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.targets.base import Target
from ipa.targets.seldon.target import SELDON


class WorkloadHarness(Protocol):
    """An adapter, a pipeline it can run, and the hands to disturb it with."""

    target: Target
    workload: Workload
    # One stage or more, the first with two variants or more.
    pipeline: Pipeline

    def start(self, configs: Sequence[StageConfig]) -> None:
        """Run the pipeline so; return when everything is ready."""
        ...

    def settle(self, change: Change) -> Rollout:
        """Let time pass until the change is no longer PROGRESSING (or a limit); the last Rollout."""
        ...

    def scale_by_another_hand(self, stage: str, replicas: int) -> None:
        """Change the replicas of a stage behind the adapter's back, validly."""
        ...

    def remove(self) -> None: ...

    def close(self) -> None:
        """Leave nothing behind."""
        ...


class Settling(ABC):
    """A harness that deploys and lets time pass; how often it looks before it gives up is `attempts`."""

    target: Target = SELDON
    pipeline: Pipeline
    workload: Workload
    attempts = 60

    @abstractmethod
    def deploy(self, configs: Sequence[StageConfig]) -> None:
        """Make the first of it."""

    @abstractmethod
    def let_time_pass(self) -> None:
        """A tick, or a second."""

    def start(self, configs: Sequence[StageConfig]) -> None:
        self.deploy(configs)
        for _ in range(self.attempts):
            self.let_time_pass()
            if self.workload.read(self.pipeline).settled:
                return
        raise AssertionError("the first deploy did not settle")

    def settle(self, change: Change) -> Rollout:
        for _ in range(self.attempts):
            rollout = self.workload.rollout(self.pipeline, change)
            if rollout.phase is not RolloutPhase.PROGRESSING:
                break
            self.let_time_pass()
        return rollout
