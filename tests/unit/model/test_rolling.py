"""The most that old and new replicas use together while one is replaced by the other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.model.plan import StageConfig
from ipa.model.resources import Resources
from ipa.model.rolling import PROCESSES, SIDE_BY_SIDE, Rolling, peak_of

IN_PLACE = replace(PROCESSES, switches=("detect",))
QUARTER = Rolling(shrinks_first=True, surge_ratio=0.25)


@pytest.mark.parametrize(
    ("rolling", "old", "new", "peak_cores"),
    [
        (SIDE_BY_SIDE, (4, 2.0), (4, 3.0), 20.0),
        # One of four is added: four old and one new, or four new and one old.
        (QUARTER, (4, 2.0), (4, 3.0), 14.0),
        (QUARTER, (4, 3.0), (4, 2.0), 14.0),
        # As many as the larger number, and a quarter of them, rounded up, beside them.
        (QUARTER, (2, 1.0), (5, 4.0), 22.0),
        (QUARTER, (5, 4.0), (2, 1.0), 22.0),
        (QUARTER, (1, 10.0), (1, 1.0), 11.0),
        # As many as fit the cores of the larger end: five of eight cores would be more than either end has.
        (QUARTER, (5, 1.0), (1, 8.0), 9.0),
        (QUARTER, (5, 8.0), (1, 9.0), 44.0),
        # Replicas that stay grow before others go, and shrink once others are there.
        (IN_PLACE, (1, 0.5), (1, 1.0), 1.0),
        (IN_PLACE, (1, 0.5), (2, 0.25), 0.75),
        (IN_PLACE, (2, 0.25), (1, 0.5), 0.75),
        (IN_PLACE, (2, 0.25), (3, 0.5), 1.5),
        # Two threads.
        (IN_PLACE, (1, 1.0), (1, 1.5), 2.5),
    ],
)
def test_the_peak_of_a_change(
    rolling: Rolling, old: tuple[int, float], new: tuple[int, float], peak_cores: float
) -> None:
    configs = [
        StageConfig("detect", variant, 1, cores, replicas)
        for variant, (replicas, cores) in (("small", old), ("large", new))
    ]
    each = [Resources(cpu_cores=cores, memory_gib=cores / 2) for _, cores in (old, new)]
    peak = peak_of(configs[0], each[0], configs[1], each[1], rolling)
    assert (peak.cpu_cores, peak.memory_gib) == pytest.approx((peak_cores, peak_cores / 2))
