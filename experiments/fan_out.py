"""The worlds of experiments/fan-out: the items that the detector of `video` sends on for each frame.

Both the planner and the machine have them, so the first configuration is planned for them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

from ipa.library import SimSetup

DETECTOR = "crop"
# 2.6 with yolov5n and 18.9 with yolov5x were measured elsewhere; those between lie on a geometric line.
BY_VARIANT = MappingProxyType(
    {"yolov5n": 2.6, "yolov5s": 4.3, "yolov5m": 7.0, "yolov5l": 11.5, "yolov5x": 18.9}
)


def by_variant(setup: SimSetup) -> SimSetup:
    """A better detector sends more on."""
    return _sent_on(setup, BY_VARIANT)


def alike(setup: SimSetup, items: float = 7.0) -> SimSetup:
    """All detectors send on this many."""
    return _sent_on(setup, items)


def _sent_on(setup: SimSetup, fan_out: float | Mapping[str, float]) -> SimSetup:
    stages = tuple(
        replace(
            stage,
            after=tuple(
                replace(edge, fan_out=fan_out) if edge.parent == DETECTOR else edge for edge in stage.after
            ),
        )
        for stage in setup.pipeline.stages
    )
    return replace(setup, pipeline=replace(setup.pipeline, stages=stages), start=())
