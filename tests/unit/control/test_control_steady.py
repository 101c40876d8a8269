"""Where time matters, the replicas that run are kept: new ones take seconds, and cores of the others."""

from __future__ import annotations

import pytest

from ipa.model.plan import StageConfig
from tests.fakes.world import scenario

# Within 2 % of the best plan at every rate that they carry.
TWO_CORES = (StageConfig("detect", "big", 1, 2.0, 1), StageConfig("read", "big", 1, 1.0, 1))


def test_a_load_that_jumps_is_met_with_more_of_the_replicas_that_run() -> None:
    made = scenario(lambda t_s: 9.0 if t_s < 22 else 25.0, configs=TWO_CORES)
    made.ticks(6)
    first, *later = made.workload.accepted
    assert [(config.cores, config.replicas) for config in first.configs] == [(2.0, 2), (1.0, 2)]
    assert not later
    # The best plan, with other cores, is worth it once there is time.
    made.ticks(10)
    assert [(config.cores, config.replicas) for config in made.workload.desired] == [(1.0, 3), (1.0, 2)]
    assert len(made.workload.accepted) == 2


@pytest.mark.parametrize(("load_rps", "kept"), [(25.0, True), (200.0, False)])
def test_replicas_are_replaced_where_others_carry_much_more(load_rps: float, kept: bool) -> None:
    made = scenario(lambda t_s: 9.0 if t_s < 22 else load_rps, configs=TWO_CORES)
    made.ticks(8)
    assert (made.workload.desired[0].cores == 2.0) is kept
