"""The plan store and the answer store in memory."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ipa.control.saved_plans import IdempotencyClaim, StoredAnswer, StoredPlan
from ipa.model.errors import NotFoundError


class FakePlans:
    """Keeps every plan."""

    def __init__(self) -> None:
        self.kept: dict[str, StoredPlan] = {}

    def keep(self, plan: StoredPlan) -> None:
        self.kept[plan.plan_id] = plan

    def plan(self, plan_id: str) -> StoredPlan:
        if plan_id not in self.kept:
            raise NotFoundError(
                f"there is no plan {plan_id!r}", hint="POST /v1/pipelines/PIPELINE/plans makes one."
            )
        return self.kept[plan_id]


@dataclass
class _Row:
    claim: IdempotencyClaim
    holder: str


class FakeAnswers:
    """Keeps every answer."""

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
