"""From any set to any other, also simulated: whole shares, a part for every request, within the budget."""

from __future__ import annotations

from math import inf

from hypothesis import example, given, settings
from hypothesis import strategies as st

from ipa.control.engine.transition import safe_step
from ipa.model.parts import Overhead, in_order, paired, parts_of, share_faults, share_of
from ipa.model.pipeline import Bounds
from ipa.model.plan import StageConfig
from ipa.model.rolling import DEPLOYMENT, SIDE_BY_SIDE, Rolling, change_peak
from ipa.simulate.cluster import ClusterSettings, SimCluster
from tests.amounts import many
from tests.fakes.set_instances import parts_of_two_stages, sets

Configs = tuple[StageConfig, ...]
BESIDE = Overhead(0.5)


@given(sets(), sets())
def test_predictors_serve_before_they_are_sent_requests_and_the_set_is_reached(
    running: Configs, wanted: Configs
) -> None:
    bounds = Bounds(cores=80.0, overhead=BESIDE)
    for _ in range(2):
        if running == wanted:
            break
        before = {part[0].variant: part[0] for part in parts_of(running)}
        step = safe_step(running, wanted, DEPLOYMENT, bounds)
        assert step.configs != running and share_faults(step.configs) == []
        is_alone = len(parts_of(running)) == len(parts_of(step.configs)) == 1
        for (config,) in parts_of(step.configs):
            old = before.get(config.variant)
            # One alone is replaced by its Deployment, which keeps the old pods till the new ones serve.
            assert old is not None or config.share_percent == 0 or is_alone
            if old is not None and config.share_percent > old.share_percent:
                # More requests come only where no pods are still to grow.
                assert config.total_cores <= old.total_cores
        assert change_peak(running, step.configs, DEPLOYMENT, Bounds(overhead=BESIDE)).cpu_cores <= 80.0
        running = step.configs
    assert running == wanted


@given(sets(), sets(), st.sampled_from([12.0, 16.0, 24.0]))
def test_side_by_side_a_set_is_reached_at_once_or_not_at_all(
    running: Configs, wanted: Configs, cores: float
) -> None:
    step = safe_step(running, wanted, SIDE_BY_SIDE, Bounds(cores=cores, overhead=BESIDE))
    peak_cores = change_peak(running, wanted, SIDE_BY_SIDE, Bounds(overhead=BESIDE)).cpu_cores
    most_cores = max(cores, BESIDE.cores(running))
    if len(parts_of(running)) > 1 or len(parts_of(wanted)) > 1:
        assert step.configs == (wanted if peak_cores <= most_cores + 1e-9 else running)
        assert (step.lacking.cpu_cores > 0) == (peak_cores > most_cores + 1e-9)


@given(sets(), sets())
def test_pairs_are_of_every_part_once(running: Configs, wanted: Configs) -> None:
    pairs = paired(running, wanted)
    assert in_order([new for _, new in pairs if new is not None]) == wanted
    assert in_order([old for old, _ in pairs if old is not None]) == running
    assert sum(share_of(new) for _, new in pairs if new) == 100


def capacity_rps(config: StageConfig, replicas: int) -> float:
    """Made up: more cores and batches carry more, a large variant less."""
    each = {"small": 10.0, "large": 3.0}[config.variant]
    return replicas * each * config.cores * (1.0 if config.batch_size == 1 else 1.7)


def carried_rps(configs: Configs) -> float:
    """The most requests a second that all parts carry at their shares."""
    return min(
        capacity_rps(config, config.replicas) * 100 / config.share_percent
        for config in configs
        if config.share_percent
    )


def carried_meanwhile_rps(running: Configs, step: Configs) -> float:
    """The least that is carried while Deployments change, with the new shares from the start."""
    least = inf
    for before, after in paired(running, step):
        for at, new in enumerate(after or ()):
            if not new.share_percent:
                continue
            old = before[at] if before else None
            now = 0.0 if old is None else capacity_rps(old, min(old.replicas, new.replicas))
            if old is not None and DEPLOYMENT.keeps_replicas(old, new):
                later = now
            else:
                later = capacity_rps(new, new.replicas)
            least = min(least, min(now, later) * 100 / new.share_percent)
    return least


def both(batch_size: int, percent: int) -> Configs:
    small = (StageConfig("detect", "small", batch_size, 1.0, 2, percent),)
    return in_order([small, (StageConfig("detect", "large", 1, 1.0, 9, 100 - percent),)])


# Batches carry more on the same cores, so they must be there before the requests are.
@example(both(1, 50), both(4, 80))
@given(parts_of_two_stages(), parts_of_two_stages())
def test_no_step_carries_less_than_what_runs_and_what_is_wanted_do(running: Configs, wanted: Configs) -> None:
    load_rps = min(carried_rps(running), carried_rps(wanted))
    for _ in range(4):
        if running == wanted:
            break
        step = safe_step(running, wanted, DEPLOYMENT, Bounds()).configs
        assert step != running and share_faults(step) == []
        assert carried_meanwhile_rps(running, step) >= load_rps * (1 - 1e-9)
        running = step
    assert running == wanted


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
    assert pods.settled and tuple(it.config for it in pods.states()) == wanted
    assert [state.ready_replicas for state in pods.states()] == [1] * len(wanted)
    assert pods.cores == BESIDE.cores(wanted)
    served = {slot: pods.serving("classify", slot)[0][1].variant for slot in pods.shares()}
    assert {served[slot]: percent for slot, percent in pods.shares().items()} == {
        config.variant: config.share_percent for config in wanted
    }
