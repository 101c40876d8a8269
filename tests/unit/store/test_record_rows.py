"""A row of the record is later among all than the one before it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ipa.adapters.store.segments import check_row
from ipa.control.audit.record import Chain, Entry, EntryKind, Recorded
from ipa.model.errors import RecordError


@pytest.mark.parametrize(("before", "is_later"), [(0, True), (6, True), (7, False), (8, False)])
def test_a_row_that_is_not_later_than_the_one_before_was_moved(before: int, is_later: bool) -> None:
    entry = Entry("pages", EntryKind.CONTROL, "pause", "2026-01-01T00:00:00+00:00", by="ann")
    row = Recorded(entry.text(seq=7, number=1, previous=""))
    found = SimpleNamespace(seq=7, number=1, kind="control", decision_id="", digest=row.digest)
    chain = Chain("pages")
    if is_later:
        check_row(chain, found, row, before)
        assert chain.head.number == 1
        return
    with pytest.raises(RecordError, match="entry 1 was moved before another"):
        check_row(chain, found, row, before)
