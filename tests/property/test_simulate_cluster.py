"""Whatever is wanted of a simulated cluster: it gets there, within its room, and serves on meanwhile."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.model.plan import StageConfig
from ipa.model.rolling import DEPLOYMENT, PROCESSES, SIDE_BY_SIDE
from ipa.simulate.cluster import ClusterSettings, SimCluster
from tests.amounts import many
from tests.unit.simulate.test_simulate_world import ready, settle_drains

DRAIN_S = 0.7

configs = st.builds(
    StageConfig,
    st.just("detect"),
    st.sampled_from(["small", "big"]),
    st.sampled_from([1, 4]),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(1, 6),
)
changes = st.lists(st.tuples(st.floats(0.0, 30.0), configs), max_size=6)
switching = [replace(rolling, switches=("detect",)) for rolling in (SIDE_BY_SIDE, DEPLOYMENT, PROCESSES)]
rules = st.builds(
    ClusterSettings, st.sampled_from([SIDE_BY_SIDE, DEPLOYMENT, *switching]), rebatch_restarts=st.booleans()
)


def cluster(first: StageConfig, settings: ClusterSettings) -> SimCluster:
    return SimCluster([first], settings, startup_s=lambda config: 2.0 + config.cores)


def to(pods: SimCluster, until_s: float, wanted: int, most_cores: float = inf) -> float:
    """Everything until then; a Deployment's and a local runtime's promises hold at each event."""
    at_s = 0.0
    while pods.next_event_s() <= until_s:
        at_s = pods.next_event_s()
        before, paid = ready(pods), pods.resource_seconds(at_s).cpu_cores
        pods.advance(at_s)
        settle_drains(pods, at_s, DRAIN_S)
        assert ready(pods) >= min(before, wanted)
        assert pods.cores <= most_cores
        assert pods.resource_seconds(at_s).cpu_cores == paid
    return at_s


@settings(max_examples=many(100), deadline=None)
@given(configs, rules, changes)
def test_with_room_everything_wanted_runs_in_the_end(
    first: StageConfig, rules: ClusterSettings, changes: list[tuple[float, StageConfig]]
) -> None:
    pods, now_s, wanted = cluster(first, rules), 0.0, first
    for after_s, config in changes:
        to(pods, now_s + after_s, wanted.replicas)
        now_s, before = now_s + after_s, ready(pods)
        pods.change((config,), str(pods.revision), now_s)
        settle_drains(pods, now_s, DRAIN_S)
        assert ready(pods) >= min(before, config.replicas)
        wanted = config
    to(pods, now_s + 1000.0, wanted.replicas)
    assert pods.settled
    assert sum(config.replicas for _, config in pods.serving("detect")) == wanted.replicas
    assert pods.cores == wanted.total_cores


@settings(max_examples=many(100), deadline=None)
@given(configs, rules, changes, st.floats(0.0, 6.0))
def test_no_more_cores_are_held_than_there_are(
    first: StageConfig, rules: ClusterSettings, changes: list[tuple[float, StageConfig]], spare: float
) -> None:
    room = first.total_cores + spare
    limited = ClusterSettings(rules.rolling, room, rules.rebatch_restarts)
    pods, now_s = cluster(first, limited), 0.0
    for after_s, config in changes:
        to(pods, now_s + after_s, 0, room)
        now_s += after_s
        pods.change((config,), str(pods.revision), now_s)
        settle_drains(pods, now_s, DRAIN_S)
        assert pods.cores <= room
    # What finds no room waits; it says so, or all that is wanted runs.
    to(pods, now_s + 1000.0, 0, room)
    assert pods.settled or pods.rollout(now_s + 1000.0).lacks_room
