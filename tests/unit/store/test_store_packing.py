"""Rows that are packed, or compressed against each other, come back byte for byte."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.adapters.store import rows as packing
from ipa.adapters.store.rows import HotRow, fold, pack, restore, shorten, unfold, unpack
from ipa.adapters.store.state import DECISION
from ipa.control.audit.record import Recorded, of_decision
from ipa.control.canonical import canonical_json, digest
from ipa.model.decision import Action, Decision
from tests.amounts import many
from tests.contract.store_harness import a_decision

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
NUMBERS = st.lists(
    st.none() | st.integers(-9, 9) | st.floats(0, 100, allow_nan=False), min_size=8, max_size=12
)
VALUE = st.recursive(
    SCALAR | NUMBERS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=12,
)  # fmt: skip
FORMER = Path(__file__).parents[2] / "fixtures" / "stores" / "format-2.block"
DOCUMENT = st.dictionaries(TEXT, VALUE, max_size=4)


@st.composite
def rows(draw: st.DrawFn) -> list[Recorded]:
    """Chained rows: entries alone, decisions with and without inputs, and texts that are not canonical."""
    recorded: list[Recorded] = []
    inputs = [canonical_json(each) for each in draw(st.lists(DOCUMENT, min_size=1, max_size=3))]
    for number in range(1, draw(st.integers(1, 12)) + 1):
        before = recorded[-1].digest if recorded and draw(st.booleans()) else ""
        decision = None
        if draw(st.booleans()):
            text = draw(st.sampled_from(["", "no json", *inputs]))
            mark = digest(text) if text and draw(st.booleans()) else draw(TEXT)
            decision = canonical_json(
                {"inputs": text, "inputs_digest": mark, "tick": number, "plan": draw(VALUE)}
            )
        content = digest(decision) if decision and draw(st.booleans()) else draw(TEXT)
        entry = {"content": content, "number": number, "previous": before, "what": draw(VALUE)}
        text = canonical_json(entry)
        recorded.append(Recorded(draw(st.sampled_from([text, text, text, f" {text}", draw(TEXT)])), decision))
    return recorded


@settings(max_examples=many(20), deadline=None)
@given(rows())
def test_packed_rows_come_back_byte_for_byte(recorded: list[Recorded]) -> None:
    assert unpack(pack(recorded)) == recorded
    before = ["", *(row.digest for row in recorded)]
    assert [
        restore(shorten(row, mark), mark) for row, mark in zip(recorded, before, strict=False)
    ] == recorded


@settings(max_examples=many(20), deadline=None)
@given(rows())
def test_rows_compressed_against_each_other_come_back_byte_for_byte(recorded: list[Recorded]) -> None:
    known: HotRow | None = None
    written = []
    for number, row in enumerate(recorded, 1):
        packed, known = fold(row, number, known)
        written.append((packed, known))
    before: HotRow | None = None
    for number, (packed, wanted) in enumerate(written, 1):
        before = unfold(packed, number, before)
        assert before == wanted


def test_every_group_begins_with_a_row_that_stands_alone() -> None:
    known: HotRow | None = None
    frames = []
    for number in range(1, 2 * packing.GROUP + 2):
        _, known = fold(Recorded(f'{{"number":{number}}}'), number, known)
        frames.append(known.frame)
    assert sorted(set(frames)) == [1, packing.GROUP + 1, 2 * packing.GROUP + 1]


def decided(ticks: int) -> list[Recorded]:
    recorded: list[Recorded] = []
    for tick in range(1, ticks + 1):
        load = [float(17 * at % 23) for at in range(tick, tick + 120)]
        inputs = canonical_json({"load": load, "now_s": 10.0 * tick, "tick": tick})
        action = Action.APPLY if tick % 50 == 0 else Action.HOLD
        decision: Decision = replace(
            a_decision(tick, action=action),
            at=f"2026-11-24T{tick // 360 % 24:02d}:{tick // 6 % 60:02d}:{tick % 6}0+00:00",
            inputs=inputs,
            inputs_digest=digest(inputs),
        )
        text = DECISION.text(decision)
        before = recorded[-1].digest if recorded else ""
        recorded.append(Recorded(of_decision(decision, digest(text)).text(tick, tick, before), text))
    return recorded


def test_a_block_of_the_former_format_is_read_as_it_was_written() -> None:
    assert unpack(FORMER.read_bytes()) == decided(24)


def test_what_repeats_takes_no_room() -> None:
    recorded = decided(512)
    plain = sum(len(row.text) + len(row.decision or "") for row in recorded)
    assert plain / len(recorded) > 2000
    # Of each row only its load's newest rate, its time and its tick are new, and they follow a rule.
    assert len(pack(recorded)) / len(recorded) < 60
    known: HotRow | None = None
    sizes = []
    for number, row in enumerate(recorded, 1):
        packed, known = fold(row, number, known)
        sizes.append(len(packed))
    assert sum(sizes) / len(sizes) < 200


@given(st.data())
def test_a_damaged_block_is_a_value_error_or_other_rows(data: st.DataObject) -> None:
    block = bytearray(pack(decided(3)))
    at = data.draw(st.integers(0, len(block) - 1))
    block[at] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(1, len(block)))
    try:
        unpacked = unpack(bytes(block[:cut]))
    except ValueError:
        return
    assert all(isinstance(row, Recorded) for row in unpacked)


def test_garbage_is_no_block() -> None:
    others = [bytes([kind]) + b"garbage" for kind in range(4)]
    for garbage in (b"", b"\x01", b"\x04" + pack(decided(2))[1:], *others):
        with pytest.raises(ValueError, match=r"it cannot be read|its format"):
            unpack(garbage)
