"""The decisions of a simulated loop, and the controls of its pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ipa.control.ports import Attribution, PipelineControl
from ipa.model.decision import Action, Decision
from ipa.model.errors import NotFoundError


class MemoryLog:
    """The DecisionLog and ControlStore ports in memory.

    `keep_inputs`: decisions as recorded in production, their inputs included, which are tens of kilobytes a
    tick. Otherwise without them and without solve times, so that equal runs are equal.
    """

    def __init__(self, control: PipelineControl, *, keep_inputs: bool = False) -> None:
        self.kept: list[Decision] = []
        self._control, self._keep_inputs = control, keep_inputs

    def record(self, decision: Decision) -> None:
        """Keep the decision."""
        if not self._keep_inputs:
            plan = decision.plan and replace(decision.plan, solve_s=0.0)
            decision = replace(decision, inputs="", inputs_digest="", plan=plan)
        self.kept.append(decision)

    def decisions(
        self, pipeline: str, *, limit: int = 50, before_tick: int | None = None, applied_only: bool = False
    ) -> Sequence[Decision]:
        """The newest decisions first."""
        wanted = [
            kept
            for kept in reversed(self.kept)
            if (before_tick is None or kept.tick < before_tick)
            and (not applied_only or kept.action is Action.APPLY)
        ]
        return wanted[:limit]

    def decision(self, decision_id: str) -> Decision:
        """The decision of that id; NotFoundError without one."""
        for kept in self.kept:
            if kept.decision_id == decision_id:
                return kept
        raise NotFoundError(f"there is no decision {decision_id!r}")

    def control(self, pipeline: str, *, may_lag: bool = False) -> PipelineControl:
        """The latest control."""
        return self._control

    def set_control(self, pipeline: str, control: PipelineControl, said: Attribution) -> None:
        """Set the control."""
        self._control = control
