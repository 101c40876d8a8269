"""The rows and bytes of a store by kind, as the measurements and the tests of its growth need them."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select

from ipa.adapters.store import Store
from ipa.adapters.store.database import snapshot
from ipa.adapters.store.schema import EntryRow, SegmentRow
from ipa.control.audit.record import EntryKind
from ipa.model.decision import Action


@dataclass(frozen=True, slots=True)
class StoreSizes:
    """The sealed segments, their rows and bytes, the rows that are not sealed, and the kept decisions."""

    segments: int
    sealed_rows: int
    sealed_bytes: int
    hot_rows: int
    decisions: int
    changes: int


def sizes_of(store: Store) -> StoreSizes:
    """Measure the store."""
    sums = SegmentRow.kept, SegmentRow.size_bytes, SegmentRow.held, SegmentRow.changes
    sealed = select(func.count(), *(func.coalesce(func.sum(each), 0) for each in sums))
    is_decision = EntryRow.kind == EntryKind.DECISION.value
    actions = select(EntryRow.action, func.count()).where(is_decision).group_by(EntryRow.action)
    with snapshot(store._engine) as connection:
        count, decisions, sealed_bytes, held, changes = map(int, connection.execute(sealed).one())
        hot = dict(connection.execute(actions).all())
        hot_rows = connection.scalar(select(func.count()).select_from(EntryRow)) or 0
    return StoreSizes(
        count,
        decisions,
        sealed_bytes,
        hot_rows,
        held + changes + sum(hot.values()),
        changes + hot.get(Action.APPLY.value, 0),
    )
