"""The queueing formulas on figures worked by hand."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st

from ipa.queueing.formation import batches_in_sequence, ceil_ratio, formation_wait_s, released_wait_s

rates = st.floats(0.01, 1e4)


def test_a_batch_waits_for_its_other_items() -> None:
    assert formation_wait_s(8, 20.0) == pytest.approx(0.35)
    assert formation_wait_s(1, 20.0) == 0.0


def test_the_batch_timeout_caps_the_wait() -> None:
    assert formation_wait_s(8, 20.0, timeout_s=0.1) == 0.1
    assert formation_wait_s(2, 20.0, timeout_s=0.1) == pytest.approx(0.05)


def test_the_released_term_is_negative_and_zero_with_one_batch_size() -> None:
    assert released_wait_s(5, 3, 20.0) == pytest.approx(-0.5)
    assert released_wait_s(5, 1, 20.0) == 0.0


@pytest.mark.parametrize(
    ("items", "batch", "replicas", "expected"),
    [(1, 1, 1, 1), (1, 8, 3, 1), (6, 1, 1, 6), (6, 1, 2, 3), (6, 4, 1, 2), (6, 4, 2, 1), (2.5, 1, 1, 3)],
)
def test_the_batches_a_request_needs_one_after_the_other(
    items: float, batch: int, replicas: int, expected: int
) -> None:
    assert batches_in_sequence(items, batch, replicas) == expected


def test_a_ratio_is_not_rounded_up_for_its_last_bits() -> None:
    assert 2.1 / 0.7 > 3
    assert ceil_ratio(2.1, 0.7) == 3
