"""Whatever sets are wanted of a simulated cluster: every request has a part to go to, and it gets there."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.model.parts import Overhead
from ipa.model.pipeline import Bounds
from ipa.model.plan import StageConfig
from ipa.model.rolling import DEPLOYMENT, SIDE_BY_SIDE, Rolling
from ipa.simulate.cluster import ClusterSettings, SimCluster
from tests.amounts import many
from tests.fakes.set_instances import sets

Configs = tuple[StageConfig, ...]
BESIDE = Overhead(0.5)
DRAIN_S = 0.7
SWITCHING = Rolling(switches=("classify",))

changes = st.lists(st.tuples(st.floats(0.0, 30.0), sets()), max_size=6)


def drain(pods: SimCluster, at_s: float) -> None:
    for slot in list(pods.shares()):
        for stage, template in pods.draining():
            pods.drained(stage, template, at_s + DRAIN_S, slot)


def checked(pods: SimCluster, rolling: Rolling) -> None:
    shares = pods.shares()
    assert sum(shares.values()) == 100
    if rolling is SIDE_BY_SIDE:
        # Requests go where something serves.
        assert all(pods.serving("classify", slot) for slot, percent in shares.items() if percent)


def to(pods: SimCluster, until_s: float, rolling: Rolling) -> None:
    while pods.next_event_s() <= until_s:
        at_s = pods.next_event_s()
        pods.advance(at_s)
        drain(pods, at_s)
        checked(pods, rolling)


@settings(max_examples=many(75), deadline=None)
@given(sets(), st.sampled_from([SIDE_BY_SIDE, DEPLOYMENT, SWITCHING]), changes)
def test_every_set_is_reached_and_requests_always_have_where_to_go(
    first: Configs, rolling: Rolling, changes: list[tuple[float, Configs]]
) -> None:
    pods = SimCluster(
        first,
        ClusterSettings(rolling),
        startup_s=lambda config: 2.0 + config.cores,
        bounds=Bounds(overhead=BESIDE),
    )
    now_s, wanted = 0.0, first
    checked(pods, rolling)
    for after_s, configs in changes:
        to(pods, now_s + after_s, rolling)
        now_s += after_s
        pods.change(configs, str(pods.revision), now_s)
        drain(pods, now_s)
        checked(pods, rolling)
        wanted = configs
    to(pods, now_s + 1000.0, rolling)
    assert pods.settled and pods.configs() == wanted
    assert [state.ready_replicas for state in pods.states()] == [1] * len(wanted)
    assert pods.cores == BESIDE.cores(wanted)
    served = {slot: pods.serving("classify", slot)[0][1].variant for slot in pods.shares()}
    assert {served[slot]: percent for slot, percent in pods.shares().items()} == {
        config.variant: config.share_percent for config in wanted
    }
