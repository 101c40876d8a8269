"""The checker that simulates a configuration: what it says, when it is sure, what it is told of the start."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from math import exp

import numpy as np
import pytest

from ipa.model.errors import UsageError
from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from ipa.policies.base import StartingState
from ipa.policies.checked import CheckedPolicy, CheckedPredictor
from ipa.policies.profiled import Profiled
from ipa.policies.table import PolicyInputs, make_policy
from ipa.queueing.service import ServiceTime
from ipa.simulate.plancheck import CheckEffort, PlanCheck, with_checker
from ipa.simulate.run import SimSetup, simulate
from ipa.simulate.stage import Pods, StageSim
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST

PLAIN = "plain"


def one_stage(sla_s: float, timeout_s: float = 0.0) -> tuple[Pipeline, dict[str, StageProfile]]:
    """A stage whose batches of one take 0.1 s exactly, and whose batches of up to 16 hardly longer."""
    points = tuple(
        ProfilePoint(1.0, size, seconds, seconds) for size, seconds in ((1, 0.1), (4, 0.104), (16, 0.12))
    )
    profile = StageProfile(
        "line", "s", (VariantProfile("m", 0.9, points),), "made up", date(2026, 1, 1), "made up"
    )
    stages = (Stage("s", (Variant("m"),), batch_timeout_s=timeout_s),)
    return Pipeline("line", stages, Sla(sla_s), {"default": Objective()}), {"s": profile}


def config(replicas: int, batch_size: int = 1) -> tuple[StageConfig, ...]:
    return (StageConfig("s", "m", batch_size, 1.0, replicas),)


def check(sla_s: float, effort: CheckEffort | None = None, timeout_s: float = 0.0) -> PlanCheck:
    pipeline, profiles = one_stage(sla_s, timeout_s)
    return PlanCheck(pipeline, profiles, effort=effort or CheckEffort(3, (2_000, 20_000)), kernel=PLAIN)


def test_the_quantile_is_that_of_the_queue() -> None:
    """M/D/1: the distribution of the wait is Erlang's series."""
    rate_rps = exp(1.1)
    verdict = check(5.0, CheckEffort(1, (20_000,)))(config(1), rate_rps)
    assert verdict is not None

    def beyond(t_s: float) -> float:
        rate, service_s = rate_rps, 0.1
        terms = [
            (rate * (k * service_s - t_s)) ** k
            / np.prod(range(1, k + 1), dtype=float)
            * exp(-rate * (k * service_s - t_s))
            for k in range(int(t_s / service_s) + 1)
        ]
        return 1.0 - (1.0 - rate * service_s) * sum(terms)

    low_s, high_s = 0.0, 3.0
    while high_s - low_s > 1e-6:
        middle_s = (low_s + high_s) / 2
        low_s, high_s = (middle_s, high_s) if beyond(middle_s) > 0.01 else (low_s, middle_s)
    assert verdict.quantile_s == pytest.approx(low_s + 0.1, rel=0.04)


def test_what_is_clear_takes_one_look_and_what_is_not_takes_all() -> None:
    quick, slow = check(5.0)(config(1), 7.0), check(0.15)(config(1), 7.0)
    assert quick is not None and quick.meets and not quick.misses and quick.requests < 2_100
    assert slow is not None and slow.misses and not slow.meets and slow.requests < 2_100
    near = check(quick.quantile_s, CheckEffort(1, (20_000,)))(config(1), 7.0)
    assert near is not None
    border = check(near.quantile_s)(config(1), 7.0)
    assert border is not None and border.requests > 15_000
    assert not border.meets and not border.misses


def test_a_stage_that_cannot_carry_the_rate_misses() -> None:
    verdict = check(2.0)(config(1), 12.0)
    assert verdict is not None and verdict.misses and verdict.quantile_s > 2.0


@pytest.mark.parametrize("rate_rps", [0.1, 3.0, 400.0])
def test_more_replicas_never_take_longer(rate_rps: float) -> None:
    """With the same random numbers, not only on the mean."""
    least = int(rate_rps * 0.1 / 0.9) + 1
    found = [check(1.0)(config(least + more), rate_rps) for more in range(4)]
    quantiles_s = [each.quantile_s for each in found if each is not None]
    assert len(quantiles_s) == 4
    assert quantiles_s == sorted(quantiles_s, reverse=True)


def test_equal_questions_have_equal_answers_whatever_was_asked_before() -> None:
    rates = (7.0, 3.0, 0.5)
    many = check(0.5)
    first = [many(config(1), rate_rps) for rate_rps in rates]
    assert [many(config(1), rate_rps) for rate_rps in rates] == first
    assert [check(0.5)(config(1), rate_rps) for rate_rps in reversed(rates)] == first[::-1]
    # Rates that differ by little are one question, and so are those that are next to none.
    assert many(config(1), 7.0 * 1.0001) is many(config(1), 7.0)
    assert many(config(1), 0.0) is many(config(1), 1e-9) is many(config(1), 0.1)


def test_the_compiled_kernel_says_the_same() -> None:
    pytest.importorskip("numba")
    effort = CheckEffort(1, (4_000,))
    verdicts = [
        PlanCheck(PIPELINE, PROFILES, effort=effort, kernel=kernel)(SMALLEST, 12.0)
        for kernel in ("plain", "numba")
    ]
    assert verdicts[0] is not None and verdicts[0] == verdicts[1]


def test_a_burst_behind_a_batch_is_seen() -> None:
    """Some forty leave the first stage together: the second gets full batches, not small ones."""
    points = {
        "all": tuple(ProfilePoint(1.0, size, 0.2, 0.2) for size in (1, 64)),
        "few": tuple(ProfilePoint(1.0, size, s, s) for size, s in ((1, 0.06), (16, 0.3))),
    }
    profiles = {
        name: StageProfile(
            "burst", name, (VariantProfile("m", 0.9, each),), "made up", date(2026, 1, 1), "made up"
        )
        for name, each in points.items()
    }
    stages = chain([Stage(name, (Variant("m"),), batch_timeout_s=0.0) for name in points])
    pipeline = Pipeline("burst", stages, Sla(2.0), {"default": Objective()})
    configs = (StageConfig("all", "m", 64, 1.0, 1), StageConfig("few", "m", 16, 1.0, 8))
    verdict = PlanCheck(pipeline, profiles, effort=CheckEffort(1, (20_000,)), kernel=PLAIN)(configs, 200.0)
    predicted = Profiled(pipeline, profiles, solver="exact").predict(configs, 200.0)
    assert verdict is not None and predicted is not None and predicted.carries
    assert verdict.quantile_s > 1.2 * predicted.latency_s


def test_a_stage_that_batches_in_its_replicas_is_simulated_as_such() -> None:
    """Batches close by the timeout, with a request or two, which two replicas cannot carry."""
    pipeline, profiles = one_stage(3.0, timeout_s=0.005)
    (stage,) = pipeline.stages
    effort = CheckEffort(1, (20_000,))
    verdicts = []
    for in_replica in (False, True):
        own = replace(pipeline, stages=(replace(stage, in_replica=in_replica),))
        verdicts.append(PlanCheck(own, profiles, effort=effort, kernel=PLAIN)(config(2, 4), 30.0))
    central, own = verdicts
    assert central is not None and central.meets
    assert own is not None and own.misses
    # The same rules as those of the stage alone, request by request.
    rate_rps = exp(2.4)
    found = PlanCheck(
        replace(pipeline, stages=(replace(stage, in_replica=True),)), profiles, effort=effort, kernel=PLAIN
    )(config(3, 4), rate_rps)
    alone = StageSim(queue="replica", batch_timeout_s=0.005, seed=5)
    alone.set_replicas(0.0, [Pods(3, 4, ServiceTime(0.104, 0.1))])
    times = np.cumsum(np.random.default_rng(6).exponential(1 / rate_rps, 20_000))
    alone.offer(times, np.arange(len(times)))
    served = alone.run(1e9)
    assert found is not None
    assert found.quantile_s == pytest.approx(np.quantile(served.done_s - served.born_s, 0.99), rel=0.1)


def test_a_start_that_does_not_matter_is_not_a_question_of_its_own() -> None:
    one = check(0.5)
    at_rest = one(config(2), 7.0)
    assert one(config(2), 7.0, StartingState(config(1))) is at_rest
    assert one(config(2), 7.0, StartingState(config(3), (("s", 5.0),))) is at_rest


def test_what_waits_and_what_is_too_slow_count_until_they_are_gone() -> None:
    short = CheckEffort(1, (500,))
    at_rest = check(0.5, short)(config(2), 18.5)
    crowded = check(0.5, short)(config(2), 18.5, StartingState(config(2), (("s", 400.0),)))
    lacking = check(0.5, short)(config(2), 18.5, StartingState(config(1)))
    ample = check(0.5, short)(config(9), 18.5, StartingState(config(1)))
    assert at_rest is not None and crowded is not None and lacking is not None and ample is not None
    assert crowded.misses and crowded.quantile_s > 2 * at_rest.quantile_s
    # While another replica gets ready eight too many come a second; two work off one of them a second.
    assert lacking.misses and lacking.quantile_s > 2 * at_rest.quantile_s
    assert ample.meets


def test_what_was_not_measured_is_not_judged() -> None:
    one = check(0.5)
    assert one((), 7.0) is None
    assert one(config(1, batch_size=3), 7.0) is None
    assert one((StageConfig("s", "x", 1, 1.0, 1),), 7.0) is None
    assert one((StageConfig("other", "m", 1, 1.0, 1),), 7.0) is None
    # What runs may be anything; it is left out where it is unknown.
    assert one(config(2), 7.0, StartingState((StageConfig("s", "x", 1, 1.0, 1),))) is one(config(2), 7.0)


def test_only_the_policy_that_checks_gets_a_checker() -> None:
    inputs = PolicyInputs(PIPELINE, PROFILES, solver="exact")
    assert with_checker("ours", inputs) is inputs
    with pytest.raises(UsageError, match="simulation"):
        make_policy("ours-checked", inputs)
    made = with_checker("ours-checked", inputs, kernel=PLAIN)
    assert isinstance(make_policy("ours-checked", made), CheckedPolicy)
    predict = made.predictor()
    assert isinstance(predict, CheckedPredictor)
    seen, formula = predict(SMALLEST, 5.0), inputs.predictor()(SMALLEST, 5.0)
    assert seen is not None and formula is not None
    assert formula.latency_s <= seen.latency_s < 1.25 * formula.latency_s


def test_a_simulated_run_with_checked_plans_repeats() -> None:
    setup = SimSetup(PIPELINE, PROFILES, (6.0,) * 20 + (20.0,) * 15, policy="ours-checked", kernel=PLAIN)
    one, other = simulate(setup), simulate(setup)
    assert one.policy == "ours-checked"
    assert one.summary() == other.summary() and one.ticks == other.ticks
    assert one.summary()["changes"] > 0
