"""The stores in memory: of decisions, controls and what a roster keeps, and those of plans and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ipa.control.ports import Attribution, PipelineControl
from ipa.control.saved_plans import IdempotencyClaim, StoredAnswer, StoredPlan
from ipa.model.decision import Action, Decision
from ipa.model.errors import NotFoundError
from ipa.model.profile import StageProfile


class FakeGiven:
    def __init__(self) -> None:
        self.pipelines: dict[str, Any] = {}

    def all(self) -> dict[str, Any]:
        return dict(self.pipelines)

    def keep(self, name: str, mapping: Mapping[str, Any]) -> None:
        self.pipelines[name] = mapping

    def remove(self, name: str) -> None:
        self.pipelines.pop(name, None)


class FakeRecords:
    """A new record with every pipeline that is given, counted."""

    def __init__(self) -> None:
        self.begun = 0
        self.current: dict[str, str] = {}

    def of(self, name: str) -> str:
        return self.current.get(name, name)

    def read(self) -> None:
        pass

    def begin(self, name: str, namespace: str) -> str:
        self.begun += 1
        self.current[name] = f"{name}~{self.begun:012x}"
        return self.current[name]

    def adopt(self, name: str, namespace: str) -> str | None:
        return self.of(name)


class FakeStore:
    """Keeps everything; while `failing` is set, reads and writes of decisions and controls raise it."""

    def __init__(self, control: PipelineControl | None = None) -> None:
        self.recorded: list[Decision] = []
        self.controls: dict[str, PipelineControl] = {}
        self.default = control or PipelineControl()
        self.failing: Exception | None = None
        self.given = FakeGiven()
        self.records = FakeRecords()
        self._profiles: dict[str, dict[str, StageProfile]] = {}

    def record(self, decision: Decision) -> None:
        self._check()
        self.recorded.append(decision)

    def decisions(
        self, pipeline: str, *, limit: int = 50, before_tick: int | None = None, applied_only: bool = False
    ) -> Sequence[Decision]:
        self._check()
        wanted = [
            each
            for each in reversed(self.recorded)
            if each.pipeline == pipeline
            and (before_tick is None or each.tick < before_tick)
            and (not applied_only or each.action is Action.APPLY)
        ]
        return wanted[:limit]

    def decision(self, decision_id: str) -> Decision:
        self._check()
        for each in self.recorded:
            if each.decision_id == decision_id:
                return each
        raise NotFoundError(f"there is no decision {decision_id!r}", hint="`ipa history` lists them.")

    def control(self, pipeline: str, *, may_lag: bool = False) -> PipelineControl:
        self._check()
        return self.controls.get(pipeline, self.default)

    def set_control(
        self, pipeline: str, control: PipelineControl, attribution: Attribution | None = None
    ) -> None:
        self._check()
        self.controls[pipeline] = control

    def end_record(self, pipeline: str) -> None:
        self.records.current.pop(pipeline, None)
        self._profiles.pop(pipeline, None)
        self.controls.pop(pipeline, None)

    def save_profile(self, profile: StageProfile) -> None:
        self._profiles.setdefault(profile.pipeline, {})[profile.stage] = profile

    def profiles(self, pipeline: str) -> Mapping[str, StageProfile]:
        return dict(self._profiles.get(pipeline, {}))

    def _check(self) -> None:
        if self.failing is not None:
            raise self.failing


class FakePlans:
    def __init__(self) -> None:
        self.saved: dict[str, StoredPlan] = {}

    def keep(self, plan: StoredPlan) -> None:
        self.saved[plan.plan_id] = plan

    def plan(self, plan_id: str) -> StoredPlan:
        if plan_id not in self.saved:
            raise NotFoundError(
                f"there is no plan {plan_id!r}", hint="POST /v1/pipelines/PIPELINE/plans makes one."
            )
        return self.saved[plan_id]


@dataclass
class _Row:
    claim: IdempotencyClaim
    holder: str


class FakeAnswers:
    def __init__(self) -> None:
        self.rows: dict[str, _Row] = {}

    def claim(self, key: str, mark: str, holder: str, now_s: float, record: str = "") -> IdempotencyClaim:
        row = self.rows.get(key)
        if row is None:
            self.rows[key] = _Row(IdempotencyClaim(mark, now_s), holder)
            return IdempotencyClaim(mark, now_s, mine=True)
        if row.claim.answer is None and row.claim.request_digest == mark and row.holder != holder:
            row.holder = holder
            return replace(row.claim, mine=True, is_resumed=True)
        return row.claim

    def settle(self, key: str, answer: StoredAnswer) -> None:
        self.rows[key].claim = replace(self.rows[key].claim, answer=answer)

    def release(self, key: str) -> None:
        del self.rows[key]
