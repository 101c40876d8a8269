"""Whatever is expected, runs, is pinned or failed: shares are whole percents that their parts can carry."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ipa.control.engine.guards import bound_faults
from ipa.model.observation import Forecast, Missing, MissingReason, Observation
from ipa.model.parts import in_order, parts_of, share_of, with_share
from ipa.model.pipeline import Pin
from ipa.model.plan import StageConfig, Termination
from ipa.model.resources import NO_RESOURCES
from ipa.policies.base import PolicyState, lacking
from ipa.policies.infadapter import InfAdapter, planned_rate_rps
from ipa.policies.table import PolicyInputs
from tests.fakes.images import IMAGES, PROFILES, RATES

UNSEEN = Missing(MissingReason.NOT_ASKED)
SEEN = Observation("images", 0.0, UNSEEN, UNSEEN, UNSEEN, ())
WIDE = replace(IMAGES, bounds=replace(IMAGES.bounds, transition_cores=20.0))
POLICY = InfAdapter(PolicyInputs(WIDE, PROFILES, solver="exact").one_task())
# What is planned with of what was measured.
PLANNED_RATIO = 0.8

rates = st.floats(0.0, 300.0)
sizes = st.sampled_from([2.0, 4.0, 8.0])


@st.composite
def runs(draw: st.DrawFn) -> tuple[StageConfig, ...]:
    names = draw(st.lists(st.sampled_from(["low", "high"]), min_size=1, max_size=2, unique=True))
    first = draw(st.integers(0, 100)) if len(names) > 1 else 100
    parts = [
        with_share((StageConfig("classify", name, 1, draw(sizes), 1),), percent)
        for name, percent in zip(names, (first, 100 - first), strict=False)
    ]
    return in_order(parts)


states = st.builds(
    PolicyState,
    runs(),
    st.sampled_from([frozenset(), frozenset({("classify", "high")}), frozenset({("classify", "low")})]),
    pins=st.sampled_from([(), (("classify", Pin(variant="high")),), (("classify", Pin(cores=4.0)),)]),
    room_cores=st.sampled_from([None, 3.0, 9.0]),
    reachable=st.booleans(),
)


@given(rates, rates, states)
def test_shares_are_whole_percents_that_their_parts_carry(
    point_rps: float, more_rps: float, state: PolicyState
) -> None:
    forecast = Forecast(point_rps, point_rps + more_rps, 0.95, 60.0, "given", 1.0)
    plan = POLICY.decide(SEEN, forecast, state)
    if plan.termination is Termination.INFEASIBLE:
        return
    parts = parts_of(plan.configs)
    assert sum(share_of(part) for part in parts) == 100
    assert all(isinstance(share_of(part), int) and share_of(part) >= 1 for part in parts)
    assert bound_faults(WIDE, plan.configs) == []
    assert plan.rate_rps <= planned_rate_rps(forecast) * (1 + 1e-9)
    for (config,) in parts:
        capacity_rps = PLANNED_RATIO * RATES[config.variant][int(config.cores)]
        assert config.share_percent / 100 * plan.rate_rps <= capacity_rps * (1 + 1e-6)
    if state.reachable:
        assert lacking(state.running, plan.configs, POLICY.task.rolling, WIDE.bounds) == NO_RESOURCES
