"""An explanation against what solving each case anew says."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import pytest

from ipa.model.errors import InputError
from ipa.model.pipeline import Bounds, Objective, Pin
from ipa.model.plan import Plan, StagePlan, Termination
from ipa.model.profile import OperatingPoint
from ipa.optimize.explain import Explanation, differences, explain
from ipa.optimize.problem import Compat, PlanningProblem, StageProblem
from ipa.optimize.solve import solve
from tests.amounts import many
from tests.fakes.commands import Ipa
from tests.fakes.planner_graphs import random_graph_problem
from tests.fakes.planner_instances import random_problem

# Tests share explanations, and so a worker.
pytestmark = pytest.mark.xdist_group("explanations")
LONG_S = 60.0
COUNT = many(8)


@cache
def problems() -> tuple[PlanningProblem, ...]:
    """Feasible ones: chains, and graphs with every limit."""
    random = Random(11)
    feasible = []
    while len(feasible) < COUNT:
        graph = len(feasible) % 2
        problem = random_graph_problem(random, 3) if graph else random_problem(random, (2, 3), (2, 3), 2)
        if problem.compat is Compat.IPA_ARTIFACT:
            # Its latency depends on how many batch sizes there are to choose from, so on pins as well.
            problem = replace(problem, compat=Compat.PAPER)
        if best(problem).stages:
            feasible.append(problem)
    return tuple(feasible)


def best(problem: PlanningProblem) -> Plan:
    return solve(problem, "exact", LONG_S, explain=False)


@cache
def explained(at: int) -> Explanation:
    return explain(problems()[at], best(problems()[at]), LONG_S)


@pytest.mark.parametrize("at", range(COUNT))
def test_alternatives_are_the_best_with_each_other_variant(at: int) -> None:
    problem, explanation = problems()[at], explained(at)
    assert not explanation.unfinished and explanation.binding_complete and explanation.alternatives_complete
    mine = {stage.stage: stage.variant for stage in explanation.plan.stages}
    served = [stage for stage in problem.stages if not stage.is_free]
    names = [
        sorted({point.variant for point in stage.points if problem.allows(stage, point)}) for stage in served
    ]
    others = {}
    for combination in itertools.product(*names):
        pins = dict(zip((stage.name for stage in served), combination, strict=True))
        pinned = tuple(
            replace(stage, pin=replace(stage.pin, variant=pins.get(stage.name))) for stage in problem.stages
        )
        plan = best(replace(problem, stages=pinned))
        if plan.objective is not None:
            others[combination] = plan.objective
    # The best with each variant that does not run, by its combination of variants.
    best_with = {
        max((key for key in others if key[at_stage] == name), key=others.__getitem__)
        for at_stage, stage in enumerate(served)
        for name in {key[at_stage] for key in others} - {mine[stage.name]}
    }
    expected = sorted((others[key] for key in best_with), reverse=True)[:3]
    assert [each.outcome.objective for each in explanation.alternatives] == pytest.approx(expected, abs=1e-7)
    combinations = {
        tuple(config.variant for config in each.outcome.configs) for each in explanation.alternatives
    }
    assert len({*combinations, tuple(mine.values())}) == 1 + len(explanation.alternatives)


@pytest.mark.parametrize("at", range(COUNT))
def test_differences_of_alternatives_are_their_own_less_the_plans(at: int) -> None:
    explanation = explained(at)
    plan = explanation.plan
    assert plan.objective is not None and plan.pas is not None
    assert plan.cost_cores is not None and plan.latency_s is not None
    for each in explanation.alternatives:
        assert each.objective_change <= 1e-7
        assert each.objective_change == pytest.approx(each.outcome.objective - plan.objective)
        assert each.pas_change == pytest.approx(each.outcome.pas - plan.pas)
        assert each.cost_cores_change == pytest.approx(each.outcome.cost_cores - plan.cost_cores)
        assert each.latency_change_s == pytest.approx(each.outcome.latency_s - plan.latency_s)


@pytest.mark.parametrize("at", range(COUNT))
def test_a_limit_binds_exactly_where_a_better_plan_exists_without_it(at: int) -> None:
    problem, explanation = problems()[at], explained(at)
    named = {(each.kind, each.where) for each in explanation.binding}
    without = {("sla", ""): replace(problem, sla_s=1e9)}
    if problem.bounds.cores is not None:
        without["cores", ""] = replace(problem, bounds=replace(problem.bounds, cores=None))
    if problem.objective.max_cost_cores is not None:
        without["max_cost_cores", ""] = replace(
            problem, objective=replace(problem.objective, max_cost_cores=None)
        )
    for at_stage, stage in enumerate(problem.stages):
        if stage.pin != Pin():
            freed = list(problem.stages)
            freed[at_stage] = replace(stage, pin=Pin())
            without["pin", stage.name] = replace(problem, stages=tuple(freed))
    for key, moved in without.items():
        better = best(moved)
        assert better.objective is not None and explanation.plan.objective is not None
        gain = better.objective - explanation.plan.objective
        assert (gain > 1e-6) == (key in named), key
    for each in explanation.binding:
        assert each.gain >= 0


def one_stage(**changes: object) -> PlanningProblem:
    """A light and a heavy variant of 10 and 4 requests a second a replica, 0.1 and 0.25 s."""
    points = (
        OperatingPoint("light", 0.6, 1, 1.0, 0.1, 10.0),
        OperatingPoint("heavy", 0.9, 1, 1.0, 0.25, 4.0),
    )
    problem = PlanningProblem("one", 7.0, 1.0, (StageProblem("s", points),), Objective(alpha=1.0, beta=0.1))
    return replace(problem, **changes)  # type: ignore[arg-type]


def test_the_summary_and_the_alternative_are_what_arithmetic_says() -> None:
    """Two heavy ones (0.9 − 0.2) carry 8 rps and beat one light one (0.6 − 0.1)."""
    problem = one_stage()
    explanation = explain(problem, best(problem), LONG_S)
    assert [str(config) for config in explanation.plan.configs] == ["s=heavy b1 2×1 core"]
    assert [each.outcome.objective for each in explanation.alternatives] == pytest.approx([0.5], abs=1e-5)
    assert explanation.binding == ()
    assert explanation.summary == (
        "s=heavy b1 2×1 core has the highest objective (0.699999) of all plans within the limits; "
        "the best of other variants is 0.2 behind"
    )


def test_what_holds_back_is_said_first_and_what_it_is_worth() -> None:
    problem = one_stage(bounds=Bounds(cores=1.0))
    explanation = explain(problem, best(problem), LONG_S)
    assert [str(config) for config in explanation.plan.configs] == ["s=light b1 1×1 core"]
    assert [each.kind for each in explanation.binding] == ["cores"]
    assert explanation.binding[0].gain == pytest.approx(0.2)
    assert explanation.binding[0].text == (
        "without the core budget: objective +0.2 (s: light → heavy, replicas 1 → 2)"
    )
    assert "the core budget holds it back" in explanation.summary
    assert explanation.alternatives == ()


def test_an_infeasible_problem_has_remedies_each_with_its_plan() -> None:
    problem = one_stage(sla_s=0.05, bounds=Bounds(cores=4.0))
    plan = best(problem)
    explanation = explain(problem, plan, LONG_S)
    assert explanation.plan.termination is Termination.INFEASIBLE
    assert [(each.kind, each.value) for each in explanation.remedies] == [("sla", 0.1)]
    outcome = explanation.remedies[0].outcome
    assert outcome is not None and [str(config) for config in outcome.configs] == ["s=light b1 1×1 core"]
    assert explanation.summary == "no plan meets the limits; the least that would help, each alone: " + (
        "SLA ≥ 0.1 s instead of 0.05 s"
    )
    assert explanation.alternatives == explanation.binding == ()


def test_without_time_it_says_what_is_missing() -> None:
    problem = problems()[0]
    explanation = explain(problem, best(problem), 0.0)
    assert explanation.alternatives == explanation.binding == ()
    assert "the 3 best alternatives of other variants" in explanation.unfinished
    assert any("without the SLA" in text for text in explanation.unfinished)
    assert not explanation.binding_complete and not explanation.alternatives_complete


@pytest.mark.usefixtures("at_home")
def test_the_command_does_not_claim_what_time_did_not_show(ipa: Ipa) -> None:
    text = ipa("explain", "video", "--rate", "12", "--solver", "exact", "--deadline", "1e-6").out
    assert "Binding: none found in time" in text and "Alternatives: none in time" in text
    assert "Not found in time" in text


def test_a_plan_that_is_not_proved_best_says_so() -> None:
    problem = one_stage()
    plan = replace(best(problem), termination=Termination.FEASIBLE)
    explanation = explain(problem, plan, LONG_S)
    assert "best plan that was found in time" in explanation.summary


def test_a_plan_of_another_problem_is_refused() -> None:
    problem = one_stage()
    stage: StagePlan = replace(best(problem).stages[0], variant="huge")
    with pytest.raises(InputError, match="huge b1 2×1 core"):
        explain(problem, replace(best(problem), stages=(stage,)), LONG_S)


def test_differences_name_each_stage_that_changes() -> None:
    one, other = best(one_stage()), best(one_stage(bounds=Bounds(cores=1.0)))
    assert differences(one.configs, other.configs) == ("s: heavy → light, replicas 2 → 1",)
    assert differences(one.configs, one.configs) == ()


def test_the_tail_is_explained_as_well() -> None:
    problem = one_stage(compat=Compat.TAIL, sla_s=0.6)
    explanation = explain(problem, best(problem), LONG_S)
    assert not explanation.unfinished and explanation.alternatives
    assert json.loads(json.dumps(explanation.to_json()))["plan"]["termination"] == "optimal"


@pytest.fixture
def at_home(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)


@pytest.mark.usefixtures("at_home")
def test_the_command_says_first_what_is_chosen_and_why(ipa: Ipa) -> None:
    lines = ipa("explain", "video", "--rate", "12", "--solver", "exact").out.splitlines()
    assert lines[0].startswith("video at 12 rps: crop=") and "highest objective" in lines[0]
    heads = [line.split(" ")[0].rstrip(":") for line in lines if not line.startswith(" ")]
    assert heads[1:] == ["Binding", "Alternatives"]


@pytest.mark.usefixtures("at_home")
def test_the_command_prints_json(ipa: Ipa) -> None:
    printed = json.loads(ipa("explain", "digits", "--rate", "12", "-o", "json").out)
    assert printed["plan"]["pipeline"] == "digits" and printed["summary"]
    assert {"binding", "alternatives", "remedies", "unfinished"} <= set(printed)


@pytest.mark.usefixtures("at_home")
def test_infeasible_exits_3_with_what_would_help(ipa: Ipa) -> None:
    text = ipa("explain", "video", "--rate", "9000", "--solver", "exact", code=3).out
    assert text.startswith("video at 9000 rps: no plan meets the limits")
    assert "Feasible with rate ≤" in text


@pytest.mark.usefixtures("at_home")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--rate", "0"], 64, "above 0"),
        (["--rate", "5", "--deadline", "0"], 64, "--deadline"),
        (["--rate", "5", "--solver", "cplex"], 64, "auto, gurobi, highs, exact"),
        (["--rate", "5", "--objective", "best"], 1, "paper-v1"),
    ],
)
def test_bad_input_gets_a_message(arguments: list[str], code: int, words: str, ipa: Ipa) -> None:
    printed = ipa("explain", "video", *arguments, code=code)
    assert words in printed.err and printed.out == ""
