"""The decision log and the control store in memory."""

from __future__ import annotations

from collections.abc import Sequence

from ipa.control.ports import PipelineControl, Said
from ipa.model.decision import Action, Decision
from ipa.model.errors import IpaError, NotFoundError


class FakeStore:
    """Keeps everything; while `failing` is set every call raises it."""

    def __init__(self, control: PipelineControl | None = None) -> None:
        self.kept: list[Decision] = []
        self.controls: dict[str, PipelineControl] = {}
        self.default = control or PipelineControl()
        self.failing: IpaError | None = None

    def record(self, decision: Decision) -> None:
        self._check()
        self.kept.append(decision)

    def decisions(
        self, pipeline: str, *, limit: int = 50, before_tick: int | None = None, applied_only: bool = False
    ) -> Sequence[Decision]:
        self._check()
        wanted = [
            kept
            for kept in reversed(self.kept)
            if kept.pipeline == pipeline
            and (before_tick is None or kept.tick < before_tick)
            and (not applied_only or kept.action is Action.APPLY)
        ]
        return wanted[:limit]

    def decision(self, decision_id: str) -> Decision:
        self._check()
        for kept in self.kept:
            if kept.decision_id == decision_id:
                return kept
        raise NotFoundError(f"there is no decision {decision_id!r}")

    def control(self, pipeline: str) -> PipelineControl:
        self._check()
        return self.controls.get(pipeline, self.default)

    def set_control(self, pipeline: str, control: PipelineControl, said: Said | None = None) -> None:
        self._check()
        self.controls[pipeline] = control

    def _check(self) -> None:
        if self.failing is not None:
            raise self.failing
