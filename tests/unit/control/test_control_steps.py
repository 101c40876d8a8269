"""The way from what runs to what is wanted, step by step."""

from __future__ import annotations

from dataclasses import replace
from math import ceil

from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.control.engine.transition import make_room, safe_step
from ipa.model.parts import Overhead
from ipa.model.pipeline import Bounds
from ipa.model.plan import StageConfig
from ipa.model.resources import NO_RESOURCES
from ipa.model.rolling import DEPLOYMENT, SIDE_BY_SIDE, Rolling, only_replicas, stage_peak
from tests.amounts import many

A8 = StageConfig("a", "small", 1, 1.0, 8)
A2 = StageConfig("a", "big", 1, 2.0, 2)
B3 = StageConfig("b", "small", 4, 1.0, 3)
B3_BIG = StageConfig("b", "big", 4, 1.0, 3)
FREE = Bounds()


def cores(most: float, *, transition: float | None = None, overhead: Overhead | None = None) -> Bounds:
    return Bounds(cores=most, transition_cores=transition, overhead=overhead or Overhead())


def test_without_a_limit_local_replicas_change_in_one_step() -> None:
    step = safe_step((A8, B3), (A2, B3_BIG), SIDE_BY_SIDE, FREE)
    assert step.configs == (A2, B3_BIG) and not step.later


def test_a_deployment_is_replaced_by_as_many_as_it_has_before_it_shrinks() -> None:
    """Else it would take old replicas away first, before new ones are ready.

    Never by more than have the cores of the larger end: that is the product of both.
    """
    as_large = StageConfig("a", "big", 1, 1.0, 2)
    step = safe_step((A8, B3), (as_large, B3), DEPLOYMENT, FREE)
    assert step.configs == (replace(as_large, replicas=8), B3)
    step = safe_step((A8, B3), (A2, B3), DEPLOYMENT, FREE)
    assert step.configs == (StageConfig("a", "big", 1, 2.0, 4), B3)
    assert str(A2) in step.later
    assert safe_step(step.configs, (A2, B3), DEPLOYMENT, FREE).configs == (A2, B3)


def test_what_suffices_with_fewer_replicas_loses_them_first() -> None:
    step = safe_step((A8, B3), (A2, B3), DEPLOYMENT, FREE, lambda configs: configs[0].replicas >= 2)
    assert step.configs == (StageConfig("a", "small", 1, 1.0, 2), B3)
    assert safe_step(step.configs, (A2, B3), DEPLOYMENT, FREE).configs == (A2, B3)


def test_stages_wait_for_each_other_where_there_is_no_room_for_all() -> None:
    step = safe_step((A8, B3), (StageConfig("a", "big", 1, 1.0, 8), B3_BIG), DEPLOYMENT, cores(12.0))
    # 11 run; b needs one more while it changes, a two.
    assert step.configs == (A8, B3_BIG)
    assert "a=big" in step.later and step.lacking == NO_RESOURCES


def test_what_no_stage_has_room_for_says_how_much_is_lacking() -> None:
    step = safe_step((A8, B3), (A8, B3_BIG), SIDE_BY_SIDE, cores(12.0))
    assert step.configs == (A8, B3)
    assert round(step.lacking.cpu_cores, 6) == 2.0
    more = cores(12.0, transition=14.0)
    assert safe_step((A8, B3), (A8, B3_BIG), SIDE_BY_SIDE, more).configs == (A8, B3_BIG)


def test_what_runs_above_a_budget_that_shrank_may_still_get_smaller() -> None:
    step = safe_step((A8, B3), (StageConfig("a", "small", 1, 1.0, 4), B3), DEPLOYMENT, cores(6.0))
    assert step.configs[0].replicas == 4


def test_a_batch_size_that_the_queue_is_told_needs_no_room() -> None:
    full, wanted = cores(A8.total_cores), (replace(A8, batch_size=4),)
    assert safe_step((A8,), wanted, SIDE_BY_SIDE, full).configs == wanted
    assert safe_step((A8,), wanted, DEPLOYMENT, full).configs == (A8,)
    # A record from before that was so is replayed as it was.
    assert safe_step((A8,), wanted, Rolling(), full).configs == (A8,)


def test_what_runs_beside_the_replicas_takes_room_too() -> None:
    beside = Overhead(0.5, (("b", 0.5),))
    # 11 + 0.5 + 3 × 0.5 run; a fourth b beside the old ones takes 1.5.
    assert safe_step((A8, B3), (A8, B3_BIG), DEPLOYMENT, cores(14.5, overhead=beside)).configs[1] == B3_BIG
    assert safe_step((A8, B3), (A8, B3_BIG), DEPLOYMENT, cores(14.4, overhead=beside)).configs[1] == B3


def test_room_is_made_where_most_is_kept() -> None:
    wanted = (StageConfig("a", "big", 1, 1.0, 8), B3_BIG)
    # Of 11 cores all are in use; a keeps 6 of 8 (6 + 2 beside), b 2 of 3.
    assert make_room((A8, B3), wanted, DEPLOYMENT, cores(11.0)) == (
        StageConfig("a", "small", 1, 1.0, 6),
        B3,
    )
    # With that room it is replaced as it is, to grow afterwards.
    assert make_room((StageConfig("a", "small", 1, 1.0, 6), B3), wanted, DEPLOYMENT, cores(11.0)) == (
        StageConfig("a", "big", 1, 1.0, 6),
        B3,
    )


def test_where_no_room_can_be_made_what_runs_stays() -> None:
    one = (StageConfig("a", "small", 1, 1.0, 1),)
    assert make_room(one, (StageConfig("a", "big", 1, 4.0, 1),), SIDE_BY_SIDE, cores(2.0)) == one


configs = st.builds(
    lambda variant, batch, size, replicas: (variant, batch, size, replicas),
    st.sampled_from(["small", "big"]),
    st.sampled_from([1, 4]),
    st.sampled_from([0.5, 1.0, 2.0]),
    st.integers(1, 9),
)
pipelines = st.lists(st.tuples(configs, configs), min_size=1, max_size=3)


def rolled(old: StageConfig, new: StageConfig, rolling: Rolling) -> tuple[float, int]:
    """The peak of cores and the fewest ready replicas of a change, replica by replica."""
    is_told = rolling.rebatches and only_replicas(replace(old, batch_size=new.batch_size), new)
    if only_replicas(old, new) or is_told:
        return max(old.total_cores, new.total_cores), min(old.replicas, new.replicas)
    if not rolling.shrinks_first:
        return old.total_cores + new.total_cores, min(old.replicas, new.replicas)
    # The Deployment first scales the old replicas to the new number, then replaces them one by one.
    olds, news, peak, fewest = new.replicas, 0, new.replicas * old.cores, min(old.replicas, new.replicas)
    room = new.replicas + ceil(rolling.surge_ratio * new.replicas)
    while olds or news < new.replicas:
        while olds + news < room and news < new.replicas:
            news += 1
            peak = max(peak, olds * old.cores + news * new.cores)
        # All new ones are ready by now; old ones go while enough are left.
        fewest = min(fewest, olds + news)
        olds = max(0, new.replicas - news)
    return peak, fewest


@settings(max_examples=many(150), deadline=None, derandomize=True)
@given(pairs=pipelines, most=st.floats(1.0, 40.0), rolling=st.sampled_from([SIDE_BY_SIDE, DEPLOYMENT]))
def test_every_step_keeps_the_budget_and_the_replicas_and_they_come_to_an_end(
    pairs: list, most: float, rolling: Rolling
) -> None:
    running = tuple(StageConfig(f"s{at}", *old) for at, (old, _) in enumerate(pairs))
    wanted = tuple(StageConfig(f"s{at}", *new) for at, (_, new) in enumerate(pairs))
    bounds = cores(most)
    limit = max(most, sum(config.total_cores for config in running)) + 1e-6
    for _ in range(2 * len(pairs) + 2):
        step = safe_step(running, wanted, rolling, bounds)
        peak_all = 0.0
        for old, new, want in zip(running, step.configs, wanted, strict=True):
            peak, fewest = rolled(old, new, rolling) if old != new else (old.total_cores, old.replicas)
            most = stage_peak(old, new, rolling, Bounds()).cpu_cores
            assert peak <= most + 1e-9 or old == new
            peak_all += most if old != new else old.total_cores
            if not only_replicas(old, new):
                assert fewest >= min(old.replicas, want.replicas)
        assert peak_all <= limit
        if step.configs == running:
            break
        running = step.configs
    assert running == wanted or safe_step(running, wanted, rolling, bounds).lacking.cpu_cores > 0


def test_room_is_made_for_the_wanted_number_of_replicas_if_that_is_smaller() -> None:
    """16 old replicas and 6 new ones exceed 21 cores by one: one old replica goes first, not half of them."""
    old = (StageConfig("a", "medium", 1, 1.0, 16),)
    wanted = (StageConfig("a", "small", 1, 1.0, 6),)
    assert make_room(old, wanted, SIDE_BY_SIDE, cores(21.0)) == (replace(old[0], replicas=15),)
    # A Deployment removes old replicas as soon as it is asked for fewer.
    assert make_room(old, wanted, DEPLOYMENT, cores(16.0)) == (replace(old[0], replicas=12),)
