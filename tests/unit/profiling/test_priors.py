"""Assumed profiles: the evidence that they follow, and plans that can be made with any of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.optimize.solve import solve
from ipa.policies.planning import PlanQuestion
from ipa.profiling.priors import assumed_profiles
from tests.amounts import many

TODAY = date(2026, 12, 3)
ALONE = Pipeline(
    "shop", (Stage("detect", (Variant("small"), Variant("big"))),), Sla(1.0), {"default": Objective()}
)
# On a core the first item of a batch takes 60 ms and each further one 40 ms.
POINTS = ProfilePoint(1, 1, 0.09, 0.06), ProfilePoint(1, 4, 0.3, 0.18)
SMALL, BIG = (
    StageProfile(pipeline, "detect", (VariantProfile(name, 0.7, POINTS),), "a machine", TODAY, "by hand")
    for pipeline, name in (("other", "small"), ("shop", "big"))
)


@pytest.mark.parametrize(
    ("batch_size", "rate_rps", "latency_s", "known", "longest_s", "ratio", "words"),
    [
        (1, None, None, [], 0.25, 4, "by its share of the SLA, 0.5 s"),
        (1, 30.0, None, [], 0.1, 2, "by 30 rps that detect=small b1 3×2 cores carries"),
        (4, 30.0, 0.02, [], 0.08, 2, "by a p99 of 0.02 s in the stage"),
        (1, 3.0, None, [], 0.25, 4, "by its share of the SLA"),
        (2, None, None, [SMALL], 0.2, 4, "by the profile of small"),
        (4, None, None, [SMALL], 0.25, 4, "by its share of the SLA"),
        (1, None, None, [BIG], 0.12, 4, "by the profile of big"),
    ],
)
def test_the_tightest_bound_is_taken_and_named(
    batch_size: int,
    rate_rps: float | None,
    latency_s: float | None,
    known: list[StageProfile],
    longest_s: float,
    ratio: float,
    words: str,
) -> None:
    config = StageConfig("detect", "small", batch_size, 2.0, 3)
    rates_rps, accuracies = {"detect": rate_rps} if rate_rps else {}, {"detect/small": 0.5}
    seen = ALONE, [config], rates_rps, {"detect": latency_s}
    bound, (profile,), notes = assumed_profiles(*seen, known, accuracies, [["detect"]], TODAY)
    small, big = profile.variant("small"), profile.variant("big")
    full = small.points[-1]
    assert (full.cores, full.batch_size, small.assumed_ratio, small.accuracy) == (2.0, batch_size, ratio, 0.5)
    assert full.latency_mean_s == pytest.approx(longest_s) and full.latency_s == pytest.approx(2 * longest_s)
    assert words in notes[0] and "--accuracy" not in notes[0]
    # What was measured stays; of what does not run, the load tells nothing.
    assert big == BIG.variants[0] if known == [BIG] else big.points[-1].latency_mean_s == 0.25
    assert (bound.stages[0].bounds.batch_sizes is None) == (batch_size == 1)
    # What was assumed is no evidence.
    again = assumed_profiles(*seen, [profile, *known], accuracies, [["detect"]], TODAY)
    assert again[1] == [profile]


sizes, cores = st.sampled_from([1, 2, 8]), st.sampled_from([0.5, 1.0, 4.0])
configs = st.builds(StageConfig, st.just(""), st.just("only"), sizes, cores, st.integers(1, 20))


@given(st.lists(configs, min_size=1, max_size=4), st.floats(0.5, 200.0), st.floats(1.0, 5.0), st.booleans())
@settings(max_examples=many(30), deadline=None, derandomize=True)
def test_whatever_runs_there_is_a_plan_at_once(
    running: list[StageConfig], rate_rps: float, sla_s: float, by_rate: bool
) -> None:
    running = [replace(config, stage=f"s{at}") for at, config in enumerate(running)]
    names = [config.stage for config in running]
    stages = chain([Stage(name, (Variant("only"),), batch_timeout_s=0.1) for name in names])
    pipeline = replace(ALONE, stages=stages, sla=Sla(sla_s))
    rates_rps = dict.fromkeys(names, rate_rps) if by_rate else {}
    pipeline, profiles, _ = assumed_profiles(pipeline, running, rates_rps, {}, [], {}, [names], TODAY)
    question = PlanQuestion(pipeline, {it.stage: it for it in profiles}, rate_rps, "default")
    plan = solve(question.problem(), "exact", 10.0, explain=False)
    assert [(it.batch_size, it.cores) for it in plan.configs] == [(it.batch_size, it.cores) for it in running]
