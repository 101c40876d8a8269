"""Options and the graph they serve: which there are, which are left out, and none of the best is lost."""

from __future__ import annotations

from dataclasses import replace
from math import isclose, nan
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipa.model.errors import InputError
from ipa.model.pipeline import AccuracyRule, Bounds, CombineRule, Objective, StageKind
from ipa.model.plan import StageConfig
from ipa.model.profile import OperatingPoint
from ipa.model.resources import Prices
from ipa.optimize import timing
from ipa.optimize.candidates import accuracy_term, ranks
from ipa.optimize.dominance import undominated
from ipa.optimize.graph import MOST, Graph, GraphNode, Term, build_graph
from ipa.optimize.options import draft_of, full_program
from ipa.optimize.problem import ROWS, Compat, PlanningProblem, StageProblem
from ipa.optimize.program import Options
from ipa.optimize.solve import solve
from tests.fakes.planner_graphs import random_graph_problem
from tests.fakes.planner_instances import build_program, chained

GOOD = OperatingPoint("good", 0.9, 1, 2.0, 0.10, 10.0)
FAST = OperatingPoint("fast", 0.7, 1, 1.0, 0.05, 20.0)


def problem(*stages: StageProblem, rate_rps: float = 10.0, bounds: Bounds | None = None) -> PlanningProblem:
    objective = Objective(alpha=1.0, beta=0.1)
    return PlanningProblem("p", rate_rps, 10.0, stages, objective, bounds or Bounds())


def variants_of(stage: StageProblem, options: Options) -> list[str]:
    return [stage.points[at].variant for at in options.point]


def sizes_of(problem: PlanningProblem) -> list[int]:
    return [int(size) for size in build_program(problem).stages[0].batch_size]


def test_options_carry_the_least_replicas() -> None:
    stage = StageProblem("a", (GOOD, FAST))
    options = build_program(problem(stage, rate_rps=25.0)).stages[0]
    assert variants_of(stage, options) == ["fast", "good"]
    assert options.replicas.tolist() == [2, 3]


def test_an_option_no_better_in_anything_is_left_out() -> None:
    worse = replace(FAST, variant="worse", latency_s=0.06, accuracy=0.6)
    twin = replace(FAST, variant="twin")
    stage = StageProblem("a", (worse, twin, FAST))
    assert variants_of(stage, build_program(problem(stage)).stages[0]) == ["fast"]


def test_an_option_that_breaks_a_limit_in_any_company_is_left_out() -> None:
    stages = chained([StageProblem("a", (GOOD, FAST)), StageProblem("b", (FAST,))])
    assert [len(stage) for stage in build_program(problem(*stages)).stages] == [2, 1]
    tight = replace(problem(*stages), sla_s=0.14)
    assert variants_of(stages[0], build_program(tight).stages[0]) == ["fast"]
    scarce = problem(*stages, bounds=Bounds(cores=2.0))
    assert variants_of(stages[0], build_program(scarce).stages[0]) == ["fast"]
    exacting = problem(*stages, bounds=Bounds(accuracy_floor=0.6))
    assert variants_of(stages[0], build_program(exacting).stages[0]) == ["good"]


@pytest.mark.parametrize(
    ("bounds", "left"),
    [
        # Only the good variant is accurate enough, so nobody sends three items.
        (Bounds(accuracy_floor=0.6), [["good"], ["good"], ["good"]]),
        # One replica carries no three items, so nobody may send them.
        (Bounds(max_replicas=1), [["good"], ["fast", "good"], ["fast", "good"]]),
    ],
)
def test_an_option_for_items_that_no_other_sends_or_takes_is_left_out(
    bounds: Bounds, left: list[list[str]]
) -> None:
    stages = chained([StageProblem(name, (GOOD, FAST)) for name in "abc"], [{"good": 1.0, "fast": 3.0}])
    program = build_program(problem(*stages, bounds=bounds))
    assert list(map(variants_of, stages, program.stages)) == left


@pytest.mark.parametrize(("above", "fits"), [(0.9e-9, True), (1.1e-9, False)])
def test_a_limit_is_kept_but_for_rounding(above: float, fits: bool) -> None:
    """`above` is a share of the limit, which is above 1."""
    stages = chained([StageProblem("a", (GOOD, FAST)), StageProblem("b", (FAST,))])
    tight = problem(*stages, bounds=Bounds(cores=3.0 / (1 + above)))
    assert variants_of(stages[0], build_program(tight).stages[0]) == ["fast", "good"][: 1 + fits]


def test_fan_out_offers_the_replica_counts_that_shorten_the_sequence() -> None:
    first = StageProblem("a", (replace(FAST, capacity_rps=100.0),))
    fanning, after = chained([first, StageProblem("b", (FAST,))], [6.0])
    options = build_program(problem(fanning, after, rate_rps=1.0)).stages[1]
    assert options.replicas.tolist() == [1, 2, 3, 6]
    assert options.service_s.tolist() == pytest.approx([0.30, 0.15, 0.10, 0.05])
    capped = problem(fanning, after, rate_rps=1.0, bounds=Bounds(max_replicas=3))
    assert build_program(capped).stages[1].replicas.tolist() == [1, 2, 3]
    scarce = problem(fanning, after, rate_rps=1.0, bounds=Bounds(cores=3.0))
    assert build_program(scarce).stages[1].replicas.tolist() == [1, 2]


def test_one_item_a_request_offers_only_the_least_and_at_random_times_those_that_shorten_the_wait() -> None:
    stage = StageProblem("a", (FAST,))
    assert build_program(problem(stage)).stages[0].replicas.tolist() == [1]
    # Of four busy ones 3·√4 + 3 more.
    at_random = replace(problem(stage, rate_rps=70.0), compat=Compat.TAIL)
    assert draft_of(at_random).replicas.tolist() == list(range(4, 14))


def test_a_change_of_replicas_counts_once_another_variant_twice_and_a_new_stage_not_at_all() -> None:
    stages = chained([StageProblem("a", (GOOD, FAST)), StageProblem("b", (FAST,))])
    running = (StageConfig("a", "fast", 1, 1.0, 6),)
    scaled = replace(problem(*stages, rate_rps=50.0), compat=Compat.TAIL, running=running)
    old, new = full_program(scaled).stages
    for name, replicas, count in zip(variants_of(stages[0], old), old.replicas, old.changes, strict=True):
        assert count == (2.0 if name == "good" else replicas != 6)
    assert not new.changes.any() and not new.started_cores.any()


def test_a_dear_option_with_few_cores_is_kept_where_cores_are_limited() -> None:
    """Each cheap replica has four cores: the limit of five leaves room for one of them."""
    cheap, dear = (
        replace(FAST, variant=name, cores=cores, memory_gib=memory_gib)
        for name, cores, memory_gib in (("cheap", 4.0, 1.0), ("dear", 1.0, 3.0))
    )
    whole = problem(*chained([StageProblem(name, (cheap, dear)) for name in "ab"]))
    limited = replace(whole.objective, max_cost_cores=5.0)
    priced = replace(whole, objective=limited, prices=Prices({"memory": 1.0}, is_money=True))
    assert [stage.variant for stage in solve(priced, "exact").stages] == ["cheap", "dear"]


def test_the_paper_charges_the_wait_and_the_artifact_credits_it() -> None:
    batched = replace(FAST, batch_size=4)
    stage = StageProblem("a", (FAST, batched, replace(GOOD, batch_size=4)), batch_timeout_s=0.2)
    paper = build_program(problem(stage)).stages[0]
    assert dict(zip(paper.batch_size.tolist(), paper.wait_s.tolist(), strict=True)) == {1: 0.0, 4: 0.2}
    artifact = build_program(replace(problem(stage), compat=Compat.IPA_ARTIFACT)).stages[0]
    assert artifact.wait_s.tolist() == pytest.approx([-2 * (2 - 1) / 10.0] * len(artifact))


def test_batch_sizes_that_are_not_allowed_are_left_out() -> None:
    sizes = tuple(replace(FAST, batch_size=size, capacity_rps=10.0 * size) for size in (1, 2, 4, 8))
    whole = problem(StageProblem("a", sizes), rate_rps=60.0)
    assert sizes_of(whole) == [1, 2, 4, 8]
    capped = replace(whole, objective=replace(whole.objective, max_batch_size=4))
    assert sizes_of(capped) == [1, 2, 4]
    listed = replace(whole, bounds=Bounds(batch_sizes=(2, 8)))
    assert sizes_of(listed) == [2, 8]


def test_ranks_rise_with_accuracy() -> None:
    assert ranks({"b": 0.9, "a": 0.5, "c": 0.7}) == {"a": 0.0, "c": 0.5, "b": 1.0}
    assert ranks({"b": 0.9, "a": 0.5}, floor=0.05) == {"a": 0.05, "b": 1.0}
    assert ranks({"only": 0.3}, floor=0.05) == {"only": 1.0}
    assert ranks({}) == {}


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (AccuracyRule.PRODUCT, 0.125),
        (AccuracyRule.RANK_PRODUCT, 0.125),
        (AccuracyRule.SUM, 2.0),
        (AccuracyRule.RANK_SUM, 2.0),
        (AccuracyRule.MEAN, 0.5),
    ],
)
def test_a_chain_of_four_counts_every_stage(rule: AccuracyRule, expected: float) -> None:
    terms = (
        [0.5, 0.5, 0.5, 0.5]
        if rule not in (AccuracyRule.PRODUCT, AccuracyRule.RANK_PRODUCT)
        else [0.5, 1, 0.5, 0.5]
    )
    chain_of_four = problem(*chained([StageProblem(name, (FAST,)) for name in "abcd"]))
    chain_of_four = replace(chain_of_four, objective=replace(chain_of_four.objective, accuracy_rule=rule))
    assert accuracy_term(chain_of_four, terms) == pytest.approx(expected)


@given(
    st.lists(st.tuples(*[st.integers(0, 3)] * 3), max_size=40),
    st.sampled_from([None, None, (), (2,), (0, 2)]),
)
def test_undominated_keeps_the_first_of_what_nothing_beats(
    candidates: list[tuple[int, int, int]], lasting: tuple[int, ...] | None
) -> None:
    """With lasting rows, what beats it for good is an earlier one, or one that is ahead in such a row."""
    columns = np.array(candidates, dtype=float).reshape(-1, 3).T
    ahead_in = range(3) if lasting is None else lasting
    expected = [
        at
        for at, mine in enumerate(candidates)
        if not any(
            all(b <= a for a, b in zip(mine, other, strict=True))
            and (before < at or any(other[row] < mine[row] for row in ahead_in))
            for before, other in enumerate(candidates)
        )
    ]
    assert undominated(columns, lasting=lasting).tolist() == expected


def test_undominated_compares_across_chunks() -> None:
    falling = np.vstack([np.arange(1000.0), np.arange(1000.0)[::-1]])
    assert undominated(falling).tolist() == list(range(1000))
    doubled = np.hstack([falling, falling + 0.5])
    assert undominated(doubled).tolist() == list(range(1000))


@pytest.mark.parametrize("wrong", [{"rate_rps": nan}, {"rate_rps": -1.0}, {"sla_s": 0.0}])
def test_a_rate_or_an_sla_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    (name,) = wrong
    with pytest.raises(InputError, match=f"{name} must be a finite number above 0"):
        replace(problem(StageProblem("a", (FAST,))), **wrong)


def test_more_numbers_of_items_than_can_be_told_apart_are_refused_by_the_stages_name() -> None:
    points = tuple(replace(GOOD, variant=f"v{at}") for at in range(24))
    # Products of different primes' roots: no two numbers of items are equal.
    fans = [
        {point.variant: 1 + 2 ** (0.5 * at) + at * depth for at, point in enumerate(points)}
        for depth in (1, 3)
    ]
    stages = chained([StageProblem(name, points) for name in ("a", "b", "c")], fans)
    with pytest.raises(InputError, match="'c' may get more than 512"):
        build_program(problem(*stages))


@pytest.mark.parametrize("seed", range(10))
def test_a_time_does_not_depend_on_what_is_timed_beside_it(seed: int) -> None:
    by_tail = replace(random_graph_problem(Random(seed)), compat=Compat.TAIL)
    candidates = draft_of(by_tail)
    # Half of the replicas have a CPU quota.
    candidates.points[ROWS["cores"], 1::2] = 0.5
    rows = candidates.points, candidates.replicas, candidates.scalars
    every = timing.option_times(by_tail, *rows)
    for some in (np.arange(1), *(np.arange(first, len(candidates.point), 2) for first in (0, 1))):
        parts = timing.option_times(by_tail, *(row.take(some, axis=-1) for row in rows))
        for whole, part in zip(every, parts, strict=True):
            # Sums of other lengths may differ in their last bits.
            assert np.allclose(whole[some], part, rtol=1e-12, atol=0.0)


FIRST = GraphNode((), ())


def diamond(combine: CombineRule) -> Graph:
    """A first stage, two stages side by side after it, and one that joins them by this rule."""
    return build_graph(
        (
            FIRST,
            GraphNode((0,), (1.0,)),
            GraphNode((0,), (1.0,)),
            GraphNode((1, 2), (1.0, 1.0), combine=combine),
        )
    )


def test_a_product_multiplies_every_stage_once() -> None:
    graph = diamond(CombineRule.PRODUCT)
    assert graph.paths == ((0, 1, 3), (0, 2, 3))
    assert graph.reach == (1.0, 1.0, 1.0, 1.0)
    assert graph.terms == (Term(1.0, ((0, 1, 2, 3),)),)
    assert graph.is_product


@pytest.mark.parametrize(
    ("rule", "terms", "expected"),
    [
        (CombineRule.MEAN, (Term(0.5, ((0, 1, 3),)), Term(0.5, ((0, 2, 3),))), 0.9 * (0.8 + 0.4) / 2),
        (CombineRule.MAX, (Term(1.0, ((0, 1, 3), (0, 2, 3))),), 0.9 * 0.8),
    ],
)
def test_a_mean_takes_its_inputs_with_equal_chance_and_a_maximum_the_best(
    rule: CombineRule, terms: tuple[Term, ...], expected: float
) -> None:
    graph = diamond(rule)
    assert graph.terms == terms
    assert not graph.is_product
    assert isclose(graph.accuracy((0.9, 0.8, 0.4, 1.0)), expected)


def test_a_router_sends_a_request_one_way() -> None:
    router = GraphNode((), (), kind=StageKind.ROUTER)
    graph = build_graph((router, GraphNode((0,), (0.25,)), GraphNode((0,), (0.75,))))
    assert graph.reach == (1.0, 0.25, 0.75)
    assert graph.terms == (Term(0.25, ((0, 1),)), Term(0.75, ((0, 2),)))


@pytest.mark.parametrize("branches", [MOST, MOST + 1])
def test_more_paths_than_can_be_planned_are_refused(branches: int) -> None:
    nodes = (FIRST, *(GraphNode((0,), (1.0,)) for _ in range(branches)))
    if branches <= MOST:
        assert len(build_graph(nodes).paths) == branches
    else:
        with pytest.raises(ValueError, match=f"more than {MOST} paths"):
            build_graph(nodes)
