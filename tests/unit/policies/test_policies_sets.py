"""InfAdapter and its rival of one variant at a time, on figures that can be checked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.model.observation import Forecast, Missing, MissingReason, Observation
from ipa.model.pipeline import Pin
from ipa.model.plan import StageConfig, Termination
from ipa.policies.base import PolicyState
from ipa.policies.infadapter import InfAdapter, MsPlus
from ipa.policies.table import PolicyInputs
from tests.fakes.images import IMAGES, NAMES, PROFILES

UNSEEN = Missing(MissingReason.NOT_ASKED)
SEEN = Observation("images", 0.0, UNSEEN, UNSEEN, UNSEEN, ())
TASK = PolicyInputs(IMAGES, PROFILES, solver="exact").one_task()
LOW = (StageConfig("classify", "low", 1, 4.0, 1),)


def expected(point_rps: float, upper_rps: float | None = None) -> Forecast:
    upper = point_rps if upper_rps is None else upper_rps
    return Forecast(point_rps, upper, 0.95, 60.0, "given", 1.0)


def one(rate_rps: float, state: PolicyState | None = None, task: object = None) -> tuple[StageConfig, ...]:
    policy = MsPlus(TASK if task is None else task)  # type: ignore[arg-type]
    return policy.decide(SEEN, expected(rate_rps / 1.1, rate_rps), state or PolicyState(LOW)).configs


def test_ms_plus_takes_the_best_variant_that_carries_the_load_alone() -> None:
    # high carries 8, 16 and 32 rps by its sizes, low 32, 64 and 128.
    assert one(7.0) == (StageConfig("classify", "high", 1, 2.0, 1),)
    assert one(30.0) == (StageConfig("classify", "high", 1, 8.0, 1),)
    assert one(33.0) == (StageConfig("classify", "low", 1, 4.0, 1),)
    assert one(100.0) == (StageConfig("classify", "low", 1, 8.0, 1),)


def test_a_tenth_above_the_point_is_planned_for_where_the_upper_forecast_is_not_more() -> None:
    policy = MsPlus(TASK)
    assert policy.decide(SEEN, expected(30.0), PolicyState(LOW)).rate_rps == pytest.approx(33.0)
    assert policy.decide(SEEN, expected(20.0, 31.0), PolicyState(LOW)).rate_rps == 31.0


def test_beyond_every_variant_the_one_that_carries_most_is_taken() -> None:
    plan = MsPlus(TASK).decide(SEEN, expected(500.0), PolicyState(LOW))
    assert plan.configs == (StageConfig("classify", "low", 1, 8.0, 1),)
    assert plan.rate_rps == pytest.approx(128.0) and "this one carries 128 rps" in plan.note
    # Where more cores carry no more, on the fewest.
    profile = PROFILES["classify"]
    low, high = profile.variants
    low = replace(low, points=tuple(replace(point, throughput_rps=160.0) for point in low.points))
    task = PolicyInputs(
        IMAGES, {"classify": replace(profile, variants=(low, high))}, solver="exact"
    ).one_task()
    assert one(500.0, task=task) == (StageConfig("classify", "low", 1, 2.0, 1),)


def test_infadapter_fills_the_most_accurate_first() -> None:
    plan = InfAdapter(TASK).decide_set(40.0, PolicyState(LOW))
    # high on 8 cores carries 80 % of 40 rps, low on 2 the rest: better than low alone.
    assert {part.variant: (part.cores, part.share_percent) for part in plan.parts} == {
        "high": (8.0, 80),
        "low": (2.0, 20),
    }


def test_a_set_is_a_plan_of_a_part_for_each_variant() -> None:
    plan = InfAdapter(TASK).decide(SEEN, expected(40.0 / 1.1, 40.0), PolicyState(LOW))
    assert plan.configs == (
        StageConfig("classify", "high", 1, 8.0, 1, 80),
        StageConfig("classify", "low", 1, 2.0, 1, 20),
    )
    assert plan.rate_rps == 40.0 and plan.note == ""
    assert [stage.rate_rps for stage in plan.stages] == [pytest.approx(32.0), pytest.approx(8.0)]
    assert plan.pas == pytest.approx(0.8 * 0.8 + 0.2 * 0.7) and plan.cost_cores == 10.0
    assert plan.objective == pytest.approx(100 * plan.pas - 0.05 * 10 - 1e-6 * 2)


def test_beyond_every_set_the_largest_load_that_one_carries_is_shared_out() -> None:
    plan = InfAdapter(TASK).decide_set(500.0, PolicyState(LOW))
    assert plan.termination is Termination.OPTIMAL and sum(plan.cores.values()) == 12.0
    # 128 rps on 8 cores and 16 on 4, but for what shares in whole percents lose.
    assert 0.98 * 144.0 <= plan.rate_rps <= 144.0


@pytest.mark.parametrize("room_cores", [3.0, 5.0, 9.0])
def test_a_set_has_no_more_cores_than_there_is_room_for(room_cores: float) -> None:
    state = PolicyState(LOW, room_cores=room_cores)
    plan = InfAdapter(TASK).decide_set(60.0, state)
    assert 0 < sum(plan.cores.values()) <= room_cores
    assert all(config.cores <= room_cores for config in one(60.0, state))
    # A size that fills the room to the last bit is taken.
    assert one(33.0, PolicyState(LOW, room_cores=4.0)) == (StageConfig("classify", "low", 1, 4.0, 1),)


def test_what_failed_lately_is_left_alone_and_pins_are_kept() -> None:
    failed = PolicyState(LOW, excluded=frozenset({("classify", "high")}))
    assert one(7.0, failed)[0].variant == "low"
    parts = InfAdapter(TASK).decide_set(40.0, failed).parts
    assert {part.variant for part in parts} == {"low"}
    pinned = PolicyState(LOW, pins=(("classify", Pin(variant="high", cores=4.0)),))
    assert one(7.0, pinned) == (StageConfig("classify", "high", 1, 4.0, 1),)


def test_memory_holds_for_all_variants_of_a_set_together() -> None:
    profile = PROFILES["classify"]
    held = {"low": 1.0, "high": 3.0}
    sized = tuple(replace(each, memory_gib=held[each.variant]) for each in profile.variants)
    profiles = {"classify": replace(profile, variants=sized)}
    running = PolicyState(LOW)
    for memory_gib, names in ((4.0, {"high", "low"}), (3.5, {"low"}), (1.0, {"low"})):
        pipeline = replace(IMAGES, bounds=replace(IMAGES.bounds, memory_gib=memory_gib))
        task = PolicyInputs(pipeline, profiles, solver="exact").one_task()
        assert {part.variant for part in InfAdapter(task).decide_set(40.0, running).parts} == names
    # Only low fits into 1 GiB; alone it is what is left to its rival too.
    assert one(7.0, running, task)[0].variant == "low"


def test_a_variant_that_must_be_loaded_costs_its_time() -> None:
    """Equal in accuracy and cores, the one that runs stays."""
    alike = {
        "classify": replace(
            PROFILES["classify"],
            variants=tuple(
                replace(PROFILES["classify"].variant("low"), variant=name, accuracy=0.7) for name in NAMES
            ),
        )
    }
    task = PolicyInputs(IMAGES, alike, solver="exact").one_task()
    for name in NAMES:
        running = (replace(LOW[0], variant=name),)
        assert one(50.0, PolicyState(running), task)[0].variant == name


def test_what_cannot_be_reached_beside_what_runs_is_not_planned_where_that_is_asked() -> None:
    """Of 12 cores eight run, so no more than four may be started beside them."""
    running = (StageConfig("classify", "high", 1, 8.0, 1),)
    assert one(33.0, PolicyState(running)) == (StageConfig("classify", "low", 1, 4.0, 1),)
    assert one(100.0, PolicyState(running)) == (StageConfig("classify", "low", 1, 8.0, 1),)
    near = one(100.0, PolicyState(running, reachable=True))
    assert near == (StageConfig("classify", "low", 1, 4.0, 1),)


def test_where_nothing_fits_there_is_no_plan() -> None:
    pinned = PolicyState(LOW, pins=(("classify", Pin(replicas=3)),))
    plan = MsPlus(TASK).decide(SEEN, expected(7.0), pinned)
    assert plan.termination is Termination.INFEASIBLE and not plan.stages and "SLA" in plan.note
    other = InfAdapter(TASK).decide(SEEN, expected(7.0), pinned)
    assert other.termination is Termination.INFEASIBLE and not other.stages
