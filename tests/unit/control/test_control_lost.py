"""Replicas that are lost: a change neither counts on them nor removes them for nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.control.engine.observe import observe
from ipa.control.engine.transition import as_served, beside_lost
from ipa.control.ports import Signals, StageState, WorkloadState
from ipa.model.observation import LoadHistory, Measured, Observation
from ipa.model.parts import Configs
from ipa.model.pipeline import Bounds
from ipa.model.rolling import DEPLOYMENT
from tests.fakes.world import PIPELINE, SMALLEST

WHY = "pod a is in ImagePullBackOff"


def sized(*replicas: int) -> Configs:
    """The smallest configuration with so many replicas of each stage."""
    return tuple(replace(config, replicas=count) for config, count in zip(SMALLEST, replicas, strict=True))


def observed(running: Configs, lost: tuple[int, ...], rate_rps: float = 5.0) -> Observation:
    """The observation of a settled workload in which so many replicas of each stage are lost."""
    states = tuple(
        StageState(config, config.replicas - count, WHY if count else "")
        for config, count in zip(running, lost, strict=True)
    )
    signals = Signals(Measured(rate_rps), Measured(LoadHistory(1.0, (rate_rps,) * 60)), Measured(0.1))
    return observe(PIPELINE, signals, WorkloadState("2", states, settled=True), at_s=0.0)


@pytest.mark.parametrize(
    ("most_cores", "expected"),
    [
        # There is room for a replica beside each lost one.
        (None, (3, 2)),
        # There is none: what is lost stays.
        (sum(config.total_cores for config in sized(2, 2)), (2, 2)),
        # What is wanted needs the room of the lost ones.
        (sum(config.total_cores for config in sized(2, 1)), (2, 1)),
    ],
)
def test_lost_replicas_are_not_removed_while_there_is_room_for_them(
    most_cores: float | None, expected: tuple[int, int]
) -> None:
    pipeline = replace(PIPELINE, bounds=Bounds(cores=most_cores))
    beside = beside_lost(observed(sized(2, 2), (2, 2)), pipeline, DEPLOYMENT, sized(2, 1))
    assert beside == sized(*expected)


def test_of_fewer_replicas_the_lost_ones_go_first() -> None:
    observation = observed(sized(4, 1), (2, 0))
    counts = [
        as_served(observation, DEPLOYMENT, sized(replicas, 1))[0].replicas for replicas in (5, 4, 3, 2, 1)
    ]
    assert counts == [3, 2, 2, 2, 1]
    # A stage that is replaced loses what was lost.
    replaced = (replace(SMALLEST[0], batch_size=4, replicas=4), SMALLEST[1])
    assert as_served(observation, DEPLOYMENT, replaced) == replaced
