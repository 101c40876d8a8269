"""Any one edit, removal, exchange or addition in a record is found, whatever the record holds."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ipa.control.audit.record import Chain, Entry, EntryKind, Head, Recorded, verify_lines
from ipa.control.canonical import digest
from ipa.model.errors import RecordError

texts = st.text(max_size=8)
values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts
entries = st.builds(
    Entry,
    pipeline=st.just("ocr"),
    kind=st.sampled_from([EntryKind.DECISION, EntryKind.CHANGE, EntryKind.CONTROL]),
    what=texts,
    at=texts,
    by=texts,
    why=texts,
    was=st.dictionaries(texts, values, max_size=2),
    becomes=st.lists(values, max_size=2),
    decision_id=texts,
    facts=st.dictionaries(texts, values, max_size=2),
    content=texts,
)
records = st.lists(entries, min_size=1, max_size=6)


def chained(entries: list[Entry]) -> list[Recorded]:
    """The entries as a store keeps them."""
    recorded: list[Recorded] = []
    for number, entry in enumerate(entries, 1):
        text = entry.text(number * 3, number, recorded[-1].digest if recorded else "")
        recorded.append(Recorded(text))
    return recorded


def head_of(recorded: list[Recorded]) -> Head:
    return Head(len(recorded), recorded[-1].digest)


def verify(rows: list[tuple[str, str]], head: Head) -> int:
    """Texts and digests against the head that is kept of them, as a store does it."""
    chain = Chain("ocr")
    for text, mark in rows:
        chain.add(text, mark)
    return chain.ended(head).entries


def rows_of(recorded: list[Recorded]) -> list[tuple[str, str]]:
    return [(entry.text, entry.digest) for entry in recorded]


@given(records)
def test_what_was_written_is_whole(entries: list[Entry]) -> None:
    recorded = chained(entries)
    assert verify(rows_of(recorded), head_of(recorded)) == len(entries)
    lines = [entry.line() for entry in recorded]
    assert verify_lines(lines, {"ocr": head_of(recorded)})["ocr"].entries == len(entries)


@given(records, st.data())
def test_an_edit_is_found(entries: list[Entry], data: st.DataObject) -> None:
    recorded = chained(entries)
    rows = rows_of(recorded)
    at = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.integers(0, 1))
    row = list(rows[at])
    place = data.draw(st.integers(0, len(row[column]) - 1))
    other = data.draw(st.characters(codec="utf-8"))
    assume(other != row[column][place])
    row[column] = row[column][:place] + other + row[column][place + 1 :]
    rows[at] = (row[0], row[1])
    with pytest.raises(RecordError, match=f"entry {at + 1} was changed"):
        verify(rows, head_of(recorded))


@given(records, st.data())
def test_an_edit_with_its_digest_made_anew_is_found(entries: list[Entry], data: st.DataObject) -> None:
    recorded = chained(entries)
    at = data.draw(st.integers(0, len(recorded) - 1))
    key = data.draw(st.sampled_from(["what", "by", "why", "at", "decision_id", "previous"]))
    forged = recorded[at].values
    forged[key] = data.draw(texts.filter(lambda text: text != forged[key]))
    text = json.dumps(forged, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    rows = rows_of(recorded)
    rows[at] = (text, digest(text))
    # Its successor names it, or the head does.
    with pytest.raises(RecordError, match=f"entry ({at + 1}|{at + 2}) (was|is|does) not"):
        verify(rows, head_of(recorded))


@given(records, st.data())
def test_a_removal_is_found(entries: list[Entry], data: st.DataObject) -> None:
    recorded = chained(entries)
    rows = rows_of(recorded)
    at = data.draw(st.integers(0, len(rows) - 1))
    del rows[at]
    with pytest.raises(RecordError, match=f"entry {at + 1} was removed"):
        verify(rows, head_of(recorded))


@given(st.lists(entries, min_size=2, max_size=6), st.data())
def test_an_exchange_is_found(entries: list[Entry], data: st.DataObject) -> None:
    recorded = chained(entries)
    rows = rows_of(recorded)
    one, other = sorted(
        data.draw(st.lists(st.integers(0, len(rows) - 1), min_size=2, max_size=2, unique=True))
    )
    rows[one], rows[other] = rows[other], rows[one]
    with pytest.raises(RecordError, match=f"entry {one + 1} was removed: entry {other + 1} is in its place"):
        verify(rows, head_of(recorded))


@given(records, entries, st.data())
def test_an_addition_is_found(entries: list[Entry], forged: Entry, data: st.DataObject) -> None:
    recorded = chained(entries)
    rows = rows_of(recorded)
    at = data.draw(st.integers(0, len(rows)))
    # As good as it gets: it follows the one before it, and its digest is right.
    text = forged.text(1, at + 1, recorded[at - 1].digest if at else "")
    rows.insert(at, (text, digest(text)))
    with pytest.raises(
        RecordError, match=rf"entry {at + 2} was inserted|entry {at + 1} was inserted after the end"
    ):
        verify(rows, head_of(recorded))
