"""Router, queues and toy replicas on a virtual clock, sent more than they carry."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipa.serving.expectation import (
    COUNTED_S,
    KEPT_S,
    MOST_ARRIVALS_RATIO,
    UNKNOWN,
    USUAL_HOP_S,
    Passage,
    StageTimes,
    parse_ms,
    parse_ratio,
    parse_times,
    total,
)
from tests.fakes.chain_loop import ToyStage, overload

SLOW = ToyStage("slow", one_s=0.04, more_s=0.02, batch_size=4, replicas=2)
QUICK = ToyStage("quick", one_s=0.01, more_s=0.005, batch_size=4, replicas=2)
PATHS = {
    "alone": (SLOW,),
    "first": (SLOW, QUICK, replace(QUICK, name="last")),
    "middle": (QUICK, SLOW, replace(QUICK, name="last")),
    "last": (QUICK, replace(QUICK, name="next"), SLOW),
}
SLA_S = 0.4
# Goodput is held on each path; what else a stage does under load is the same wherever it is in a chain.
STAGES = PATHS["middle"]


@pytest.mark.parametrize(
    ("path", "load_ratio", "spread"),
    [("alone", 1.6, 0.4), ("first", 5.0, 0.2), ("middle", 1.6, 0.4), ("last", 5.0, 0.2)],
)
def test_goodput_beyond_capacity_is_near_it(path: str, load_ratio: float, spread: float) -> None:
    """Without refusals at most 44 % of it were in time at 1.6 times the capacity, and 13 % at five times."""
    stages = [replace(stage, spread=spread) for stage in PATHS[path]]
    # As many arrivals as it takes for their number to be near its mean.
    load = overload(stages, load_ratio * SLOW.capacity_rps, sla_s=SLA_S, seconds=12.0)
    assert load.goodput_rps > 0.9 * SLOW.capacity_rps
    assert load.outcomes[200, "late"] == 0


def test_most_of_what_is_too_much_is_refused_at_once() -> None:
    load = overload(STAGES, 2 * SLOW.capacity_rps, sla_s=SLA_S)
    refused = load.outcomes[503, "overload"]
    assert refused > 0.8 * (load.sent - load.in_time)
    at_once = sum(took_s < 0.1 for took_s in load.refused_s)
    assert at_once > 0.8 * len(load.refused_s)
    assert load.retry_after.count("1") == refused


def test_a_lighter_variant_carries_what_would_be_refused() -> None:
    lighter = {"half": 0.5, "tenth": 0.1}
    stages = [replace(stage, lighter=lighter, largest_batch_size=8) for stage in STAGES]
    load = overload(stages, 3 * SLOW.capacity_rps, sla_s=SLA_S)
    assert load.in_time > 0.98 * load.sent
    answered, by_lighter = load.served("slow")
    # At most a third can have the variant that runs.
    assert 0.6 * answered < by_lighter < answered


# Few requests, each of which takes a good part of the SLA, and gains nothing in larger batches.
HEAVY = (
    ToyStage("detect", one_s=0.1, more_s=0.1, lighter={"light": 0.3}, largest_batch_size=8),
    ToyStage(
        "read",
        one_s=0.25,
        more_s=0.25,
        replicas=3,
        lighter={"middle": 0.6, "light": 0.3},
        largest_batch_size=8,
    ),
)


@pytest.mark.parametrize("seed", [1, 2])
def test_refusals_at_the_entry_do_not_keep_a_stage_at_what_it_cannot_carry(seed: int) -> None:
    """Else 40 to 44 % are in time, and a third of the batches is lighter: what is refused hides the load."""
    load = overload(HEAVY, 25.0, sla_s=1.0, seconds=12.0, seed=seed)
    assert load.in_time > 0.93 * load.sent
    answered, by_lighter = load.served("detect")
    assert by_lighter > 0.8 * answered


@pytest.mark.parametrize("seed", [1, 2])
def test_profiles_say_at_once_which_variant_carries_the_load(seed: int) -> None:
    """Without them 80 to 89 % of the first seconds are in time: variants and larger batches are tried."""
    stages = [replace(stage, is_profiled=True) for stage in HEAVY]
    load = overload(stages, 25.0, sla_s=1.0, seconds=6.0, warm_up_s=0.0, seed=seed)
    assert load.in_time > 0.97 * load.sent


def test_nothing_is_refused_and_no_lighter_variant_is_chosen_below_the_capacity() -> None:
    stages = [replace(stage, lighter={"tenth": 0.1}) for stage in STAGES]
    load = overload(stages, 0.6 * SLOW.capacity_rps, sla_s=SLA_S)
    assert load.in_time == load.sent
    assert load.served("slow")[1] == 0


MORE_ACCURATE = {"twice": 2.0, "four": 4.0}


@pytest.mark.parametrize("path", ["alone", "last"])
def test_heavier_variants_serve_while_there_is_time(path: str) -> None:
    stages = [replace(stage, heavier=MORE_ACCURATE, is_profiled=True) for stage in PATHS[path]]
    calm = overload(stages, 0.15 * SLOW.capacity_rps, sla_s=SLA_S)
    assert calm.in_time == calm.sent
    for stage in stages:
        answered, by_heavier = calm.served(stage.name, "heavier")
        # The last of three has what the first two leave of the time.
        assert by_heavier > (0.1 if path == "last" and stage.name == "slow" else 0.7) * answered
    # The next heavier variant of the slow stage carries half of what the planned one does.
    busy = overload(stages, 0.7 * SLOW.capacity_rps, sla_s=SLA_S, seconds=20.0)
    # Without them 99.6 % and more are in time.
    assert busy.in_time > 0.99 * busy.sent
    assert busy.served("slow", "heavier")[1] < 0.05 * busy.served("slow")[0]


def test_a_stage_spends_no_time_on_accuracy_that_a_later_one_needs() -> None:
    """Else the lighter variant serves 35 % of the items at the middle stage, 2 % without heavier ones."""
    stages = [
        replace(stage, lighter={"half": 0.5}, heavier=MORE_ACCURATE, largest_batch_size=8, is_profiled=True)
        for stage in PATHS["middle"]
    ]
    load = overload(stages, 0.9 * SLOW.capacity_rps, sla_s=SLA_S, seconds=20.0)
    assert load.in_time == load.sent
    answered, by_lighter = load.served("slow")
    assert by_lighter < 0.1 * answered
    answered, by_heavier = load.served("quick", "heavier")
    assert by_heavier > 0.8 * answered


def test_what_is_too_much_is_carried_though_heavier_variants_are_there() -> None:
    stages = [replace(stage, heavier=MORE_ACCURATE, is_profiled=True) for stage in STAGES]
    load = overload(stages, 1.6 * SLOW.capacity_rps, sla_s=SLA_S, seconds=12.0)
    assert load.goodput_rps > 0.9 * SLOW.capacity_rps


@pytest.mark.parametrize(("place", "load_ratio"), [(0, 3.0), (1, 1.5)])
def test_batches_grow_where_more_arrives_than_they_carry(place: int, load_ratio: float) -> None:
    single = ToyStage("single", one_s=0.02, more_s=0.002, batch_size=1, replicas=2)
    stages = [QUICK, replace(QUICK, name="last")]
    rate_rps = load_ratio * single.capacity_rps
    stages.insert(place, replace(single, largest_batch_size=8))
    load = overload(stages, rate_rps, sla_s=SLA_S, seconds=6.0)
    assert load.in_time > 0.99 * load.sent
    assert load.served("single")[1] == 0
    # Without them no more than it carries.
    assert load.goodput_rps > 0.95 * rate_rps > 1.4 * single.capacity_rps


@pytest.mark.parametrize("load_ratio", [0.8, 1.6])
def test_larger_batches_do_no_harm_where_they_save_no_time(load_ratio: float) -> None:
    alike = ToyStage("alike", one_s=0.03, more_s=0.03, batch_size=1, replicas=2)
    rate_rps = load_ratio * alike.capacity_rps
    before = overload([QUICK, alike], rate_rps, sla_s=SLA_S)
    load = overload([QUICK, replace(alike, largest_batch_size=8)], rate_rps, sla_s=SLA_S)
    assert load.in_time > 0.97 * before.in_time


def test_a_load_that_is_carried_is_not_refused_for_requests_that_are_on_their_way() -> None:
    """Little's law with the rate of answers refused 26 % at a fifth of the capacity."""
    stages = (
        ToyStage("locate", one_s=0.008, more_s=0.004, batch_size=1, replicas=1, spread=1.2),
        ToyStage("classify", one_s=0.045, more_s=0.004, batch_size=8, replicas=1, spread=0.5),
    )
    load = overload(stages, 30.0, sla_s=0.15, seconds=12.0)
    assert load.in_time > 0.86 * load.sent


def test_what_comes_is_told_to_a_stage_while_requests_are_lost_before_it() -> None:
    passage = Passage(2)
    for number in range(10):
        passage.come(0.05 * number)
        if number % 2:
            assert passage.arrivals_ratio(1, 0.05 * number) == 1.0, "none is lost"
    passage.lose(0.5)
    # Ten came to the pipeline, and the sixth comes to the stage.
    assert passage.arrivals_ratio(1, 0.5) == pytest.approx(10 / 6)
    assert passage.arrivals_ratio(0, 0.5) == 10.0
    assert passage.arrivals_ratio(1, 0.6 + COUNTED_S) == 1.0, "the loss is long ago"
    assert [parse_ratio(text) for text in (None, "", "x", "nan", "0.5", "1.5", "1e9")] == [
        *(1.0, 1.0, 1.0, 1.0, 1.0, 1.5),
        MOST_ARRIVALS_RATIO,
    ]


def test_losses_are_counted_by_stage_and_cause() -> None:
    load = overload(PATHS["middle"], 2 * SLOW.capacity_rps, sla_s=SLA_S)
    counted = {
        line.split(" ")[0]: float(line.split(" ")[1])
        for line in load.metrics["router"].splitlines()
        if line.startswith("ipa_router_")
    }
    losses = sum(value for name, value in counted.items() if name.startswith("ipa_router_losses_total"))
    assert losses == counted['ipa_router_requests_total{outcome="dropped",part="1",pipeline="p"}']
    early = counted['ipa_router_losses_total{cause="overload",pipeline="p",stage="slow"}']
    assert early > 0.8 * losses
    assert 'ipa_queue_losses_total{cause="no_time_left",pipeline="p",stage="slow"}' in load.metrics["slow"]


def test_times_pass_through_headers_and_fade() -> None:
    times = StageTimes(wait_s=0.5, usual_s=0.25, least_s=0.125, each_s=0.0625)
    assert parse_times(times.to_header()) == times
    assert times.after(0.2) == StageTimes(0.3, 0.25, 0.125, 0.0625)
    assert times.after(KEPT_S + 0.1) == UNKNOWN
    assert total([times, times]) == StageTimes(1.0, 0.5, 0.25)


def test_a_busy_router_or_queue_is_a_wait() -> None:
    times = StageTimes(wait_s=0.5, usual_s=0.25, least_s=0.125)
    assert times.with_hop(0.0) == times
    assert times.with_hop(USUAL_HOP_S / 2) == StageTimes(0.5, 0.25 + USUAL_HOP_S / 2, 0.125)
    assert times.with_hop(USUAL_HOP_S + 0.5) == StageTimes(1.0, 0.25 + USUAL_HOP_S, 0.125)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1500", 1.5), ("0", 0.0), (None, None), ("soon", None), ("-1", None), ("inf", None)],
)
def test_a_time_in_a_header(text: str | None, seconds: float | None) -> None:
    assert parse_ms(text) == seconds


@pytest.mark.parametrize("text", [None, "", "wait", "wait;dur=x", "wait;dur=-1", "other;dur=3"])
def test_a_header_that_makes_no_sense_says_nothing(text: str | None) -> None:
    assert parse_times(text) == UNKNOWN
