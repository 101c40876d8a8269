"""Policies over measured profiles."""

from __future__ import annotations

from dataclasses import astuple, replace

import pytest

from ipa.model.errors import InputError, UsageError
from ipa.model.observation import Forecast, Missing, MissingReason, Observation
from ipa.model.pipeline import Bounds, Objective, Pipeline, Sla
from ipa.model.plan import Plan, StageConfig, Termination
from ipa.optimize.problem import Compat
from ipa.policies.base import PolicyState, constrained
from ipa.policies.infadapter import MsPlus
from ipa.policies.ours import GRID, MIN_RATE_RPS, Ours
from ipa.policies.profiled import PlannerInputs, Profiled
from ipa.policies.rules import Static
from ipa.policies.table import PolicyInputs, make_policy
from tests.fakes.world import PIPELINE, PROFILES, SMALLEST, planner, profiled

UNSEEN = Missing(MissingReason.NOT_ASKED)
SEEN = Observation("pages", 0.0, UNSEEN, UNSEEN, UNSEEN, ())
STATE = PolicyState(SMALLEST)


def expected(rate_rps: float) -> Forecast:
    return Forecast(rate_rps, rate_rps, 0.95, 20.0, "given", 1.0)


def decide(name: str, rate_rps: float) -> Plan:
    policy = make_policy(name, PolicyInputs(PIPELINE, PROFILES, solver="exact"))
    assert policy.name == name
    return policy.decide(SEEN, expected(rate_rps), STATE)


RATES = [0.5, 10.0, 60.0]
# Those whose plans are the best by the papers' formula of latency.
RIVALS = ["ipa", "fa2-low", "fa2-high", "rim"]


@pytest.mark.parametrize("rate_rps", RATES)
@pytest.mark.parametrize("name", RIVALS)
def test_no_rival_beats_ours_by_its_own_formula_of_latency(name: str, rate_rps: float) -> None:
    by_paper = Profiled(PlannerInputs(PIPELINE, PROFILES, solver="exact"), compat=Compat.PAPER)
    best, other = by_paper.plan(PIPELINE, rate_rps), decide(name, rate_rps)
    assert best.objective is not None and other.objective is not None
    if other.rate_rps == rate_rps:
        assert other.objective <= best.objective + 1e-9


def test_no_rival_that_meets_the_sla_beats_ours() -> None:
    by_tail = Profiled(PlannerInputs(PIPELINE, PROFILES, solver="exact"), compat=Compat.TAIL)
    late, compared = 0, 0
    for rate_rps in RATES:
        best = decide("ours", rate_rps)
        assert best.rate_rps == rate_rps and best.objective is not None
        for name in RIVALS:
            prediction = by_tail.predict(decide(name, rate_rps).configs, rate_rps)
            assert prediction is not None
            late += not prediction.feasible
            compared += prediction.feasible
            assert not prediction.feasible or prediction.objective <= best.objective + 1e-9
    # The quantile under random arrivals is above the papers' sums: some of their plans do not hold.
    assert late >= 4 and compared >= 4


def test_what_is_pinned_stays() -> None:
    assert {stage.variant for stage in decide("fa2-low", 10.0).stages} == {"small"}
    assert {stage.variant for stage in decide("fa2-high", 10.0).stages} == {"big"}
    assert {stage.replicas for stage in decide("rim", 3.0).stages} == {4}
    assert decide("static", 3.0).configs == SMALLEST


@pytest.mark.parametrize(("bounds", "count"), [(Bounds(min_replicas=6), 6), (Bounds(max_replicas=3), 3)])
def test_rim_takes_the_allowed_number_of_replicas_nearest_to_four(bounds: Bounds, count: int) -> None:
    inputs = PolicyInputs(replace(PIPELINE, bounds=bounds), PROFILES, solver="exact")
    plan = make_policy("rim", inputs).decide(SEEN, expected(3.0), STATE)
    assert {stage.replicas for stage in plan.stages} == {count}


ONE_STAGE = replace(PIPELINE, stages=PIPELINE.stages[:1])


def ms_plus(pipeline: Pipeline, state: PolicyState) -> Plan:
    """InfAdapter's rival for a pipeline of one stage, which runs one replica of one variant."""
    task = PolicyInputs(pipeline, PROFILES, solver="exact").one_task()
    return MsPlus(task).decide(SEEN, expected(5.0), state)


@pytest.mark.parametrize(("count", "termination"), [(1, "feasible"), (2, "infeasible")])
def test_a_plan_of_one_replica_takes_none_away_where_it_may_only_add(count: int, termination: str) -> None:
    (best,) = ms_plus(ONE_STAGE, PolicyState(SMALLEST[:1])).configs
    state = PolicyState((replace(best, replicas=count),), only_more=True)
    assert ms_plus(ONE_STAGE, state).termination == termination


@pytest.mark.parametrize(("above", "termination"), [(1.0, "feasible"), (0.999, "infeasible")])
def test_a_variant_that_takes_the_whole_sla_meets_it(above: float, termination: str) -> None:
    """No replica of one core is quicker than that of the smallest configuration."""
    quickest = profiled().describe(SMALLEST, 5.0)
    assert quickest is not None
    tight = replace(ONE_STAGE, sla=Sla(quickest.stages[0].latency_s * above), bounds=Bounds(cores=1.0))
    assert ms_plus(tight, PolicyState(SMALLEST[:1])).termination == termination


def test_the_heavy_variant_is_the_heaviest_that_base_allocation_knows() -> None:
    """No replica of big carries 100 rps on any measured cores, so it has no base allocation."""
    busy = replace(PIPELINE, objectives={"default": Objective(beta=0.02, threshold_rps=100.0)})
    fast = {
        name: replace(
            profile,
            variants=tuple(
                replace(each, points=tuple(replace(it, throughput_rps=rate) for it in each.points))
                for each, rate in zip(profile.variants, (200.0, 20.0), strict=True)
            ),
        )
        for name, profile in PROFILES.items()
    }
    for name in ("fa2-low", "fa2-high"):
        policy = make_policy(name, PolicyInputs(busy, fast, solver="exact"))
        assert {stage.variant for stage in policy.decide(SEEN, expected(10.0), STATE).stages} == {"small"}


def test_a_stage_that_is_left_without_an_option_is_infeasible() -> None:
    """As where a variant that is pinned has no base allocation."""
    for stages in (PIPELINE.stages[:1], PIPELINE.stages):
        none = replace(PIPELINE, stages=tuple(replace(it, variants=()) for it in stages))
        known = Profiled(PlannerInputs(replace(PIPELINE, stages=stages), PROFILES, solver="exact"))
        assert known.plan(none, 5.0).termination is Termination.INFEASIBLE


def test_an_unknown_policy_names_those_there_are() -> None:
    with pytest.raises(UsageError, match="fa2-low"):
        decide("nobody", 1.0)


def test_the_largest_rate_that_can_be_carried_does_not_depend_on_the_load() -> None:
    plans = [
        Ours(PIPELINE, planner).decide(SEEN, expected(rate_rps), STATE) for rate_rps in (900.0, 4e3, 1e6)
    ]
    assert len({plan.configs for plan in plans}) == 1
    carried = plans[0]
    assert carried.termination is Termination.OPTIMAL and carried.relaxations
    assert planner(PIPELINE, carried.rate_rps * 1.06).termination is Termination.INFEASIBLE


def test_where_no_plan_keeps_the_sla_the_one_that_misses_least_is_taken() -> None:
    tight = replace(PIPELINE, sla=Sla(0.03))
    known = Profiled(PlannerInputs(tight, PROFILES, solver="exact"), compat=Compat.PAPER)
    plan = Ours(tight, known.plan, probe=known.probe).decide(SEEN, expected(5.0), STATE)
    none = known.plan(tight, 5.0)
    least_s = float(none.relaxations[0].split()[2])
    assert plan.stages and plan.is_late and plan.latency_s is not None and plan.rate_rps == 5.0
    assert least_s * (1 - 1e-3) <= plan.latency_s <= least_s * GRID
    assert plan.sla_s == 0.03 and plan.relaxations == none.relaxations
    assert plan.note == f"no plan carries 5 rps within 0.03 s; this one takes {plan.latency_s:.3g} s"


def test_nothing_feasible_at_any_rate_or_sla_is_infeasible() -> None:
    tight = replace(PIPELINE, bounds=replace(PIPELINE.bounds, accuracy_floor=0.99))
    plan = Ours(tight, planner, probe=profiled().probe).decide(SEEN, expected(5.0), STATE)
    assert plan.termination is Termination.INFEASIBLE and plan.relaxations


def test_no_load_is_planned_as_the_least_rate() -> None:
    assert Ours(PIPELINE, planner).decide(SEEN, expected(0.0), STATE).rate_rps == MIN_RATE_RPS


def test_excluded_variants_are_left_out_but_never_all_of_a_stage() -> None:
    excluded = frozenset({("detect", "big"), ("read", "big"), ("read", "small")})
    left = constrained(PIPELINE, PolicyState(STATE.running, excluded))
    assert [[variant.name for variant in stage.variants] for stage in left.stages] == [
        ["small"],
        ["small", "big"],
    ]
    plan = Ours(PIPELINE, planner).decide(SEEN, expected(5.0), replace(STATE, excluded=excluded))
    assert [stage.variant for stage in plan.stages] == ["small", "big"]


@pytest.mark.parametrize("compat", [Compat.TAIL, Compat.PAPER])
@pytest.mark.parametrize("rate_rps", [0.3, 4.0, 33.0, 120.0])
def test_what_is_predicted_of_a_plan_is_what_the_planner_says(rate_rps: float, compat: Compat) -> None:
    planned = Profiled(PlannerInputs(PIPELINE, PROFILES, solver="exact"), compat=compat)
    plan = planned.plan(PIPELINE, rate_rps)
    prediction = planned.predict(plan.configs, rate_rps)
    assert prediction is not None and prediction.feasible
    assert prediction.objective == pytest.approx(plan.objective, abs=1e-12)
    assert prediction.latency_s == pytest.approx(plan.latency_s)
    assert prediction.pas == pytest.approx(plan.pas)
    described = planned.describe(plan.configs, rate_rps)
    assert described is not None and described.configs == plan.configs
    for stage, expected_stage in zip(described.stages, plan.stages, strict=True):
        # NumPy's exponentials of one number and of many differ in the last bit.
        assert astuple(stage) == tuple(
            pytest.approx(value, rel=1e-12) if isinstance(value, float) else value
            for value in astuple(expected_stage)
        )


def test_a_prediction_says_what_cannot_be_carried() -> None:
    prediction = profiled().predict(SMALLEST, 1e3)
    assert prediction is not None and not prediction.carries
    # One item takes 50 ms on the slower stage.
    assert prediction.capacity_rps == pytest.approx(20.0)


@pytest.mark.parametrize(
    "configs",
    [
        (),
        SMALLEST[:1],
        (replace(SMALLEST[0], cores=3.0), SMALLEST[1]),
        (SMALLEST[0], replace(SMALLEST[1], variant="x")),
    ],
    ids=["none", "one stage", "size never measured", "unknown variant"],
)
def test_what_was_not_measured_is_not_predicted(configs: tuple[StageConfig, ...]) -> None:
    assert profiled().predict(configs, 1.0) is None
    with pytest.raises(InputError, match="not measured"):
        Static(profiled()).decide(SEEN, expected(1.0), PolicyState(configs))


def test_static_says_how_much_it_carries() -> None:
    plan = Static(profiled(), SMALLEST).decide(SEEN, expected(100.0), STATE)
    assert plan.rate_rps == pytest.approx(20.0)
    assert plan.note == "the static plan carries 20 rps"


@pytest.mark.parametrize(
    ("bound_cores", "room_cores", "left_cores"),
    [(None, None, None), (None, 4.0, 4.0), (8.0, None, 8.0), (8.0, 4.0, 4.0), (3.0, 4.0, 3.0)],
)
def test_a_plan_has_no_more_cores_than_bounds_and_room_allow(
    bound_cores: float | None, room_cores: float | None, left_cores: float | None
) -> None:
    pipeline = replace(PIPELINE, bounds=replace(PIPELINE.bounds, cores=bound_cores))
    assert constrained(pipeline, PolicyState(SMALLEST, room_cores=room_cores)).bounds.cores == left_cores


def test_a_stage_whose_variants_all_failed_keeps_them() -> None:
    detect, read = PIPELINE.stages
    excluded = {(detect.name, each.name) for each in detect.variants} | {(read.name, "big")}
    limited = constrained(PIPELINE, PolicyState(SMALLEST, frozenset(excluded)))
    assert limited.stages[0].variants == detect.variants
    assert "big" not in {each.name for each in limited.stages[1].variants}
