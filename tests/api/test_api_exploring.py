"""The reasons of a plan, its alternatives, and the fit of profiles."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from ipa.cli.options import FileFolders
from ipa.optimize.frontier import accuracy_cost, frontier
from ipa.policies.planning import planning_problem
from ipa.profiling.fit import fit_variant
from tests.fakes.services import ApiClient, FakeWorld, a_pipeline, a_profile, over, solving

OCR = "/v1/pipelines/ocr"
PROFILES = {stage: a_profile(stage) for stage in ("detect", "recognise")}


@pytest.fixture
def api() -> ApiClient:
    return ApiClient(solving(FakeWorld().play(20).services()))


def test_the_frontier_is_that_of_the_problem(api: ApiClient) -> None:
    answer = api.post(f"{OCR}/frontiers", {"rate_rps": 3, "sla_s": 0.8}).json()
    objective = replace(a_pipeline().objective(), sla_s=0.8)
    pipeline = replace(a_pipeline(), objectives={"default": objective})
    wanted = frontier(planning_problem(pipeline, PROFILES, 3.0))
    assert answer["plans"] == len(wanted)
    assert [(each["cost_cores"], each["pas"], each["latency_s"]) for each in answer["points"]] == [
        (each.cost_cores, each.pas, each.latency_s) for each in accuracy_cost(wanted)
    ]
    assert [each["stage"] for each in answer["points"][0]["configs"]] == ["detect", "recognise"]


def test_the_best_plan_of_every_weight_is_on_the_frontier(api: ApiClient) -> None:
    points = api.post(f"{OCR}/frontiers", {"rate_rps": 3}).json()["points"]
    figures = {(round(each["cost_cores"], 9), round(each["pas"], 9)) for each in points}
    for beta in (0.01, 0.1, 1.0):
        plan = api.post(f"{OCR}/plans", {"rate_rps": 3, "weights": {"beta": beta, "delta": 0}}).json()
        assert (round(plan["cost_cores"], 9), round(plan["pas"], 9)) in figures


def test_where_nothing_is_feasible_the_frontier_is_empty(api: ApiClient) -> None:
    frontier = api.post(f"{OCR}/frontiers", {"rate_rps": 3, "bounds": {"cores": 0.1}}).json()
    assert (frontier["points"], frontier["plans"]) == ([], 0)


def test_weights_replace_those_of_the_objective(api: ApiClient) -> None:
    for weights in ({"alpha": 4}, {"beta": 0.5, "delta": 0.001}):
        plan = api.post(f"{OCR}/plans", {"rate_rps": 3, "weights": weights}).json()
        of = {"alpha": 1.0, "beta": 0.1, "delta": 1e-6} | weights
        batches = sum(stage["batch_size"] for stage in plan["stages"])
        worth = of["alpha"] * plan["pas"] - of["beta"] * plan["cost_cores"] - of["delta"] * batches
        assert plan["objective"] == pytest.approx(worth)
        assert plan["asked"] == {"rate_rps": 3.0, "weights": weights}


@pytest.mark.parametrize("beta", [-0.1, "1", 1e10])
def test_a_weight_that_is_none_is_refused(api: ApiClient, beta: object) -> None:
    answer = api.post(f"{OCR}/plans", {"rate_rps": 3, "weights": {"beta": beta}})
    assert answer.status_code == 422
    assert [each["pointer"] for each in answer.json()["errors"]] == ["/weights/beta"]


def test_fits_are_those_that_are_planned_with() -> None:
    _, profiles, _ = FileFolders().load("video")
    stage, profile = next(iter(profiles.items()))
    video = FileFolders().load("video")[0]
    services = over(FakeWorld().services(), pipelines={"video": video}, profiles=profiles)
    answer = ApiClient(services).get(f"/v1/pipelines/video/profiles/{stage}/fits").json()
    assert [each["variant"] for each in answer["variants"]] == [each.variant for each in profile.variants]
    for shown, measured in zip(answer["variants"], profile.variants, strict=True):
        fits = fit_variant(measured).fits
        assert [each["cores"] for each in shown["fits"]] == list(fits)
        for each in shown["fits"]:
            fit = fits[each["cores"]]
            sizes = sorted(point.batch_size for point in measured.points if point.cores == fit.cores)
            assert each["batch_sizes"] == sizes
            assert each["latencies_s"] == [fit.latency_s(size) for size in sizes]
            assert each["r2_ratio"] == fit.r2_ratio and each["max_error_ratio"] == fit.max_error_ratio


def test_fits_of_what_is_not_there(api: ApiClient) -> None:
    assert api.get(f"{OCR}/profiles/nope/fits").status_code == 404


def test_a_decision_links_to_those_before_and_after() -> None:
    world = FakeWorld().play(20)
    # Two of one tick, as where somebody asks for something.
    world.apply(world.recorded[-1].configs, "asked for")
    world.tick()
    api, ids = ApiClient(world.services()), [each.decision_id for each in world.recorded]
    links = [api.get(f"/v1/decisions/{each}").headers["link"] for each in ids]
    for at, link in enumerate(links):
        neighbours = {rel: path for path, rel in re.findall(r'</v1/decisions/([^>]*)>; rel="(\w+)"', link)}
        assert neighbours.get("prev") == (ids[at - 1] if at else None)
        assert neighbours.get("next") == (ids[at + 1] if at + 1 < len(ids) else None)


def test_a_decision_that_is_alone_links_to_none() -> None:
    world = FakeWorld().play(1)
    answer = ApiClient(world.services()).get(f"/v1/decisions/{world.recorded[0].decision_id}")
    assert answer.status_code == 200 and "link" not in answer.headers
