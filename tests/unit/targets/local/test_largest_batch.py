"""The bound of batch growth of a local stage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.model.pipeline import Pin, StageBounds
from ipa.targets.local.runner import largest_batch
from tests.fakes.world import PIPELINE


@pytest.mark.parametrize(
    ("allowed", "own", "pin", "largest"),
    [
        (None, None, Pin(), 2),
        ((1, 2, 4, 8), None, Pin(), 8),
        ((1, 2, 4, 8), (1, 4), Pin(), 4),
        ((1, 2, 4, 8), None, Pin(variant="big"), 8),
        ((1, 2, 4, 8), None, Pin(batch_size=2), 2),
    ],
)
def test_batches_grow_up_to_the_largest_that_the_file_allows_unless_it_pins_one(
    allowed: tuple[int, ...] | None, own: tuple[int, ...] | None, pin: Pin, largest: int
) -> None:
    bounds = replace(PIPELINE.bounds, batch_sizes=allowed)
    stage = replace(PIPELINE.stages[0], pin=pin, bounds=StageBounds(batch_sizes=own))
    assert largest_batch(stage, bounds, 2) == largest
