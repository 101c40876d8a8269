"""Our objectives against the released optimiser's semantics, written out anew from the published profiles."""

from __future__ import annotations

import itertools
import json
from math import ceil, isclose
from pathlib import Path
from typing import Any

import pytest

from ipa.files import load_pipeline, load_profiles
from ipa.optimize.problem import Compat
from ipa.optimize.solve import solve
from ipa.policies.planning import planning_problem
from ipa.profiling.points import Allocation

RATES = range(1, 46)
SERIES = {"paper-v1": "ms14", "paper-v3": "ms18"}
PIPELINES = ("video", "audio-qa", "audio-sent", "sum-qa", "nlp")
CASES = list(itertools.product(PIPELINES, SERIES))


@pytest.fixture(scope="module")
def published(shared_data: Path) -> dict[str, Any]:
    return json.loads((shared_data / "ipa_profiles.json").read_text())


def ranked(accuracies: dict[str, float], lowest: float | None) -> dict[str, float]:
    rising = sorted(accuracies, key=accuracies.__getitem__)
    if len(rising) == 1:
        return {rising[0]: 1.0}
    terms = {variant: place / (len(rising) - 1) for place, variant in enumerate(rising)}
    if lowest is not None:
        terms[rising[0]] = lowest
    return terms


def fraction(stage: str, percent: float) -> float:
    """The audio stages hold minus the word error rate."""
    return 1 + percent / 100 if stage == "audio" else percent / 100


def stages_of(
    published: dict[str, Any], pipeline: str, settings: dict[str, Any]
) -> list[list[dict[str, float]]]:
    """Each stage's (variant, batch) pairs: accuracy term, latency, throughput, cores."""
    loads = settings["profiling_load"]
    names = list(settings["base_allocation"])
    loads = loads if isinstance(loads, list) else [loads] * len(names)
    stages = []
    for name, load in zip(names, loads, strict=True):
        allocation = settings["base_allocation"][name]
        rows = [
            row
            for row in published["entries"]
            if (row["pipeline"], row["stage"], row["load_rps"]) == (pipeline, name, load)
            and allocation.get(row["variant"]) == row["cores"]
        ]
        assert {row["variant"] for row in rows} == set(allocation)
        accuracies = {row["variant"]: fraction(name, row["accuracy"]) for row in rows}
        terms = (
            ranked(accuracies, settings["lowest_model_accuracy"])
            if settings["normalize_accuracy"]
            else accuracies
        )
        stages.append(
            [
                {
                    "term": terms[row["variant"]],
                    "accuracy": accuracies[row["variant"]],
                    "batch": int(batch),
                    "latency": latency * (1 + settings["latency_margin"] / 100),
                    "throughput": row["throughput_max"][batch] * (1 + settings["throughput_margin"] / 100),
                    "cores": row["cores"],
                    "variants": len(accuracies),
                }
                for row in rows
                for batch, latency in row["latency_p99"].items()
                if int(batch) <= settings["batching_cap"]
            ]
        )
    return stages


def best(stages: list[list[dict[str, float]]], settings: dict[str, Any], rate: float) -> float | None:
    """The released optimiser's objective at a rate, by trying everything."""
    batches = len({pair["batch"] for stage in stages for pair in stage})
    credit = sum(stage[0]["variants"] * (batches - 1) / rate for stage in stages)
    highest = None
    for pairs in itertools.product(*stages):
        replicas = [max(1, ceil(rate / pair["throughput"])) for pair in pairs]
        if max(replicas) > settings["scaling_cap"]:
            continue
        if sum(pair["latency"] for pair in pairs) > settings["sla_solver_s"] + credit:
            continue
        if settings["accuracy_method"] == "sum":
            accuracy = sum(pair["term"] for pair in pairs)
        else:
            accuracy = 1.0
            for pair in pairs:
                accuracy *= pair["term"]
        worth = (
            settings["alpha"] * accuracy
            - settings["beta"] * sum(n * pair["cores"] for n, pair in zip(replicas, pairs, strict=True))
            - settings["gamma"] * sum(pair["batch"] for pair in pairs)
        )
        highest = worth if highest is None else max(highest, worth)
    return highest


@pytest.mark.parametrize(("name", "objective"), CASES)
def test_a_sweep_equals_the_released_optimiser(
    published: dict[str, Any], root: Path, name: str, objective: str
) -> None:
    settings = published["settings"][f"{name}-{SERIES[objective]}"]
    expected = [best(stages_of(published, name, settings), settings, rate) for rate in RATES]
    pipeline = load_pipeline(root / "pipelines" / name / "pipeline.yaml")
    profiles = load_profiles(root / "profiles", name)
    chosen = {"objective": objective, "compat": Compat.IPA_ARTIFACT, "allocation": Allocation.BASE}
    plans = [solve(planning_problem(pipeline, profiles, rate, **chosen)) for rate in RATES]
    differing = [
        (plan.rate_rps, plan.objective, value)
        for plan, value in zip(plans, expected, strict=True)
        if (plan.objective is None) != (value is None)
        or (value is not None and not isclose(plan.objective or 0.0, value, abs_tol=1e-4, rel_tol=0))
    ]
    assert differing == []


@pytest.mark.parametrize("solver", ["highs", "exact"])
@pytest.mark.parametrize(("name", "objective"), CASES)
def test_the_other_solvers_give_the_same_plans(root: Path, name: str, objective: str, solver: str) -> None:
    pipeline = load_pipeline(root / "pipelines" / name / "pipeline.yaml")
    profiles = load_profiles(root / "profiles", name)
    chosen = {"objective": objective, "compat": Compat.IPA_ARTIFACT, "allocation": Allocation.BASE}
    for rate in (1, 7, 19, 45):
        problem = planning_problem(pipeline, profiles, rate, **chosen)
        plans = [solve(problem, each) for each in ("gurobi", solver)]
        assert plans[0].configs == plans[1].configs
        assert plans[0].objective == pytest.approx(plans[1].objective, abs=1e-9)
