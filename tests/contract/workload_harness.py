"""What the contract of the Workload port needs of an adapter under test.

To put another adapter under the contract, write a harness and add its factory to HARNESSES in
test_workload_contract.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ipa.control.ports import Rollout, Workload
from ipa.model.decision import Change
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig


class WorkloadHarness(Protocol):
    """An adapter, a pipeline it can run, and the hands to disturb it with."""

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

    def remove(self) -> None:
        """Take the pipeline away."""
        ...

    def close(self) -> None:
        """Leave nothing behind."""
        ...
