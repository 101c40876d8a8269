"""The pure parts of `make bench-live`: its load, its figures and its goals."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from experiments.live.__main__ import ALL_PIPELINES, POLICIES, refusal
from experiments.live.cells import best_plan, most_in_time_rps, pinned_yaml, subject_of
from experiments.live.figures import BUSY, CHEAPEST, OURS, QUIET, Figures, Seen, figures_of, missed
from experiments.live.programme import OVERLOAD_RATIO, PEAK_RATIO, programme_of
from ipa.files import load_pipeline
from ipa.model.errors import InfeasibleError
from ipa.policies.profiled import Profiled

SLA_S = 0.4
CONFIGS = [{"variant": "a", "replicas": 1, "cores": 1, "batch_size": 1}]


def test_the_load_goes_up_and_down_by_the_steps_and_ends_above_the_capacity() -> None:
    programme = programme_of(100.0)
    *stepped, overload = programme.phases
    rates = [it.rate_rps for it in stepped]
    assert max(rates) == pytest.approx(100 * PEAK_RATIO) and overload.rate_rps == 100 * OVERLOAD_RATIO
    ratios = [round(after / before, 3) for before, after in itertools.pairwise(rates)]
    assert set(ratios) >= {2, 5, 8, round(1 / 8, 3), 1 / 5, 1 / 2}
    assert overload.is_overload and not any(it.is_overload for it in stepped)
    assert [it.end_s for it in programme.phases[:-1]] == [it.start_s for it in programme.phases[1:]]
    # All cells of the plain command together in 25 minutes, with seconds to start and stop each.
    assert programme.duration_s <= 45
    assert programme_of(100.0, times=2).duration_s == 2 * programme.duration_s


def request(
    at_s: float, latency_s: float = 0.1, outcome: str = "answered", status: int = 200
) -> dict[str, Any]:
    return {
        "at_s": at_s,
        "latency_s": latency_s,
        "outcome": outcome,
        "status": status,
        "detail": "ReadTimeout",
        "lag_s": 0.001,
    }


def figures(requests: list[dict[str, Any]], decisions: list[dict[str, Any]] | None = None) -> Figures:
    scores = [1.0 if it["latency_s"] < 0.2 else 0.5 for it in requests if it["outcome"] == "answered"]
    seen = Seen(requests, scores, decisions or [], 50.0, 0.5)
    return figures_of("text", QUIET, OURS, programme_of(10.0), SLA_S, seen)


def test_shares_are_of_all_sent_before_the_overload() -> None:
    programme = programme_of(10.0)
    second, overload = programme.phases[2], programme.phases[-1]
    lost = [
        request(second.start_s + 1, outcome="dropped", status=504),
        request(second.start_s + 6, outcome="failed", status=502),
        request(second.start_s + 6.5, outcome="failed", status=0),
    ]
    found = figures(
        [
            request(second.start_s + 5.5),
            request(second.start_s + 2, 0.5),
            *lost,
            request(overload.start_s, 0.9),
        ]
    )
    assert found.within_ratio == pytest.approx(1 / 5)
    # From 5 s after the step on: one in time and two failed.
    assert found.settled_ratio == pytest.approx(1 / 3) and found.settled_sent == 3
    assert (found.late, found.dropped, found.failed) == (2, 1, {"502": 1, "ReadTimeout": 1})
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.cores_mean == pytest.approx(50 / programme.duration_s)


def test_goodput_is_what_is_in_time_a_second_of_the_capacity() -> None:
    overload = programme_of(10.0).phases[-1]
    settled_s = overload.end_s - overload.start_s - 5
    early = [request(overload.start_s + 1)] * 10
    late = [request(overload.end_s - 1, 0.5)] * 50
    found = figures([*early, *late, *[request(overload.end_s - 1)] * (9 * settled_s)])
    assert found.goodput_ratio == pytest.approx(0.9)
    assert found.goodput_whole_ratio == pytest.approx((9 * settled_s + 10) / overload.duration_s / 10)


def test_ticks_without_metrics_and_changes_are_counted() -> None:
    other = [{**CONFIGS[0], "variant": "b", "replicas": 2}]
    decisions = [
        # Before the first request there is nothing to see.
        {"reason": "hold.metrics_missing", "action": "hold", "previous": CONFIGS, "configs": CONFIGS},
        {"reason": "hold.no_change", "action": "hold", "previous": CONFIGS, "configs": CONFIGS},
        {"reason": "hold.metrics_missing", "action": "hold", "previous": CONFIGS, "configs": CONFIGS},
        {"reason": "hold.metrics_stale", "action": "hold", "previous": CONFIGS, "configs": CONFIGS},
        {"reason": "apply.switch_variant", "action": "apply", "previous": CONFIGS, "configs": other},
        {"reason": "hold.no_change", "action": "hold", "previous": other, "configs": other},
    ]
    found = figures([request(1.0)], decisions)
    assert (found.ticks, found.blind_ticks) == (6, 2)
    assert (found.variant_switches, found.replica_or_core_changes, found.batch_changes) == (1, 1, 0)


GOOD = replace(
    figures([request(1.0)]), within_ratio=0.97, settled_ratio=0.995, accuracy=0.6, goodput_ratio=0.95
)
SIMPLE = replace(GOOD, policy=CHEAPEST, accuracy=0.3)


def test_no_goal_is_missed_where_all_are_met() -> None:
    assert list(missed([GOOD, SIMPLE])) == []
    assert list(missed([replace(GOOD, world=BUSY, within_ratio=0.91, settled_ratio=0.975)])) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"within_ratio": 0.94}, "within the SLA 0.940, goal 95%"),
        ({"settled_ratio": 0.98}, "within the SLA when settled 0.980, goal 99%"),
        ({"settled_ratio": None}, "within the SLA when settled none, goal 99%"),
        ({"goodput_ratio": 0.89}, "goodput of the capacity 0.890, goal 90%"),
        ({"blind_ticks": 1, "ticks": 8}, "1 of 8 ticks blind"),
        ({"accuracy": 0.2}, f"accuracy 0.200, {CHEAPEST} has 0.300 and no fewer in time (0.970)"),
        ({"world": BUSY, "within_ratio": 0.89}, "within the SLA 0.890, goal 90%"),
    ],
)
def test_a_goal_that_is_missed_is_said(wrong: dict[str, Any], words: str) -> None:
    ours = replace(GOOD, **wrong)
    assert list(missed([ours, replace(SIMPLE, world=ours.world)])) == [f"text, {ours.world}: {words}"]


def test_nothing_is_asked_of_shares_that_the_cheapest_variants_do_not_reach() -> None:
    ours = replace(GOOD, within_ratio=0.5, settled_ratio=0.5)
    assert list(missed([ours, replace(SIMPLE, within_ratio=0.4)])) == []
    assert len(list(missed([ours, replace(SIMPLE, within_ratio=0.96)]))) == 2
    # A policy that answers less in time may be as accurate as it likes, and another cell is another matter.
    assert list(missed([GOOD, replace(SIMPLE, within_ratio=0.96, accuracy=0.9)])) == []
    assert list(missed([GOOD, replace(SIMPLE, pipeline="ocr", accuracy=0.9)])) == []


@pytest.mark.parametrize("capacity_rps", [0.9, 5.0, 16.0, 170.0, 700.0])
def test_the_capacity_is_found_between_a_rate_that_is_carried_and_one_that_is_not(
    capacity_rps: float,
) -> None:
    tried = []

    def probe(rate_rps: float) -> tuple[float, bool]:
        tried.append(rate_rps)
        is_carried = rate_rps <= capacity_rps
        return (rate_rps if is_carried else 0.2 * capacity_rps), is_carried

    assert 0.66 * capacity_rps <= most_in_time_rps(probe, 16.0) <= capacity_rps
    assert len(tried) <= 10
    with pytest.raises(RuntimeError, match="carries less than"):
        most_in_time_rps(lambda rate_rps: (0.0, False), 16.0)


@pytest.mark.parametrize("name", ALL_PIPELINES)
def test_the_static_plans_are_the_one_that_carries_most_and_the_most_accurate(
    name: str, tmp_path: Path
) -> None:
    subject = subject_of(name)
    low_rps = 0.02 * subject.largest.rate_rps
    best = best_plan(subject, low_rps)
    assert subject.largest.stages and best.stages
    assert best.pas is not None and subject.largest.pas is not None and best.pas > subject.largest.pas
    (tmp_path / "pipeline.yaml").write_text(pinned_yaml(subject.pipeline, subject.largest.configs))
    # It can be served here: a batch size that another target refuses is none of its business.
    copy = load_pipeline(tmp_path / "pipeline.yaml")
    kept = Profiled(copy, subject.profiles).plan(copy, low_rps)
    assert kept.configs == subject.largest.configs
    with pytest.raises(InfeasibleError):
        best_plan(subject, 1.01 * subject.largest.rate_rps)
    assert all(not refusal(subject, policy) for policy in POLICIES[QUIET])
