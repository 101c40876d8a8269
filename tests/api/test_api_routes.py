"""The answers of each route."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import pytest

import ipa
from ipa.model.decision import Action
from ipa.model.plan import StageConfig
from ipa.policies.planning import PlanQuestion
from ipa.service.service import DependencyCheck
from tests.fakes.services import LADDER, NOW, TICK_S, ApiClient, FakeWorld, a_profile, over, solving

OCR = "/v1/pipelines/ocr"


# The ticks that the world has seen.
PLAYED = 60


def test_pipelines_are_listed_without_how_they_are_run(api: ApiClient) -> None:
    (listed,) = api.get("/v1/pipelines").json()["pipelines"]
    assert listed == api.get(OCR).json()
    assert (listed["pipeline"], listed["sla_s"], listed["sla_percentile"]) == ("ocr", 0.9, 99.0)
    assert listed["stages"][1]["after"] == [{"parent": "detect", "fan_out": 6.0, "share": 1.0}]
    assert "local" not in str(listed)


def test_status_is_what_the_loop_sees(api: ApiClient, world: FakeWorld) -> None:
    answer = api.get(f"{OCR}/status")
    status = answer.json()
    live = status["live"]
    assert status["healthy"] and status["control"]["mode"] == "active"
    assert answer.headers["etag"] == f'"{live["revision"]}"'
    assert live["next_tick_in_s"] == TICK_S
    assert [stage["config"]["variant"] for stage in live["stages"]] == ["v4-480", "v6-320"]
    assert live["pas"] == pytest.approx(0.812 * 0.914)
    assert live["cost_cores"] == 1.5
    assert live["stages"][0]["utilisation_ratio"] == pytest.approx(
        0.8 * live["rate_rps"] / live["forecast"]["upper_rps"]
    )
    assert len(live["series"]) == 60
    assert live["reason"] == world.recorded[-1].reason.value


def test_status_before_the_first_tick_has_nothing_to_show_and_says_so() -> None:
    status = ApiClient(FakeWorld().services()).get(f"{OCR}/status").json()
    assert not status["healthy"]
    assert status["live"]["rate_rps"] is None
    assert status["live"]["stages"][0]["config"] is None
    assert status["live"]["pas"] is None and status["live"]["cost_cores"] is None


def test_what_was_not_seen_is_null_never_zero(api: ApiClient, world: FakeWorld) -> None:
    world.metrics_fail = True
    world.tick()
    status = api.get(f"{OCR}/status").json()
    assert status["live"]["rate_rps"] is None and status["live"]["latency_s"] is None
    assert not status["healthy"]
    assert status["live"]["degraded"] == ["hold.metrics_missing: Prometheus did not answer"]


def test_profiles(api: ApiClient) -> None:
    profiles = api.get(f"{OCR}/profiles").json()
    assert list(profiles) == ["detect", "recognise"]
    assert api.get(f"{OCR}/profiles/detect").json() == profiles["detect"]
    assert profiles["detect"]["variants"][0]["points"][0]["latency_s"] == 0.03
    assert profiles["detect"]["measured_on"] == a_profile("detect").measured_on.isoformat()


def test_a_what_if_takes_the_forecast_where_no_rate_is_given(api: ApiClient) -> None:
    forecast = api.get(f"{OCR}/status").json()["live"]["forecast"]
    assert api.post(f"{OCR}/plans", {}).json()["rate_rps"] == forecast["upper_rps"]
    assert api.post(f"{OCR}/plans", {"rate_rps": 12}).json()["stages"][0]["variant"] == "v6-320"


def test_a_what_if_without_any_load_wants_a_rate() -> None:
    answer = ApiClient(FakeWorld().services()).post(f"{OCR}/plans", {})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "/rate_rps"


def test_an_infeasible_plan_is_an_answer_not_an_error(api: ApiClient) -> None:
    answer = api.post(f"{OCR}/plans", {"rate_rps": 5, "sla_s": 0.1})
    assert answer.status_code == 201
    assert answer.json()["termination"] == "infeasible"
    assert answer.json()["relaxations"] == ["SLA ≥ 0.31 s"]


def test_an_explanation_says_why_the_plan_is_what_it_is(world: FakeWorld) -> None:
    api = ApiClient(solving(world.services()))
    answer = api.post(f"{OCR}/explanations", {"rate_rps": 12, "solver": "exact"})
    assert answer.status_code == 200
    explained = answer.json()
    assert explained["plan"]["rate_rps"] == 12 and "highest objective" in explained["summary"]
    assert explained["alternatives"]
    late = api.post(f"{OCR}/explanations", {"rate_rps": 12, "solver": "exact", "sla_s": 0.01}).json()
    assert late["remedies"][0]["kind"] == "sla" and late["alternatives"] == []


def test_a_what_if_may_replace_sla_and_bounds(world: FakeWorld) -> None:
    questions: list[Any] = []
    services = world.services()

    async def plan(question: PlanQuestion, *rest: Any) -> Any:
        questions.append(question)
        return await world.plan(question, *rest)

    bounds = {"cores": 2.5, "batch_sizes": [1, 2], "accuracy_floor": 0.4}
    body = {"rate_rps": 5, "sla_s": 0.5, "objective": "frugal", "compat": "ipa-artifact", "bounds": bounds}
    assert ApiClient(over(services, plan=plan)).post(f"{OCR}/plans", body).status_code == 201
    [question] = questions
    pipeline = question.pipeline
    assert pipeline.objectives["frugal"].sla_s == 0.5 and pipeline.objectives["default"].sla_s is None
    assert pipeline.bounds.cores == 2.5 and pipeline.bounds.batch_sizes == (1, 2)
    assert pipeline.bounds.max_replicas == 8
    assert question.objective == "frugal" and question.compat == "ipa-artifact"


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"rate_rps": 0}, "/rate_rps"),
        ({"rate_rps": "fast"}, "/rate_rps"),
        ({"rate_rps": 1, "solver": "cplex"}, "/solver"),
        ({"rate_rps": 1, "compat": "mine"}, "/compat"),
        ({"rate_rps": 1, "bounds": {"batch_sizes": [1, 0]}}, "/bounds/batch_sizes/1"),
        ({"rate_rps": 1, "bounds": {"core": 1}}, "/bounds/core"),
        ({"rate_rps": 1, "bounds": {"cores": 4, "transition_cores": 3}}, "/bounds/transition_cores"),
    ],
)
def test_a_what_if_that_makes_no_sense(api: ApiClient, body: dict[str, Any], pointer: str) -> None:
    answer = api.post(f"{OCR}/plans", body)
    assert answer.status_code == 422
    assert [item["pointer"] for item in answer.json()["errors"]] == [pointer]


@pytest.mark.parametrize(("path", "applied_only"), [("decisions", False), ("history", True)])
def test_pages_put_together_are_the_whole(
    api: ApiClient, world: FakeWorld, path: str, applied_only: bool
) -> None:
    # Requests share a tick with each other: a page may end amid them.
    for _ in range(3):
        api.change(f"{OCR}/apply", {"configs": as_body(LADDER[0][3])})
    whole = [
        decision.decision_id
        for decision in reversed(world.recorded)
        if decision.action is Action.APPLY or not applied_only
    ]
    ids: list[str] = []
    address: str | None = f"{OCR}/{path}?limit=2"
    while address:
        answer = api.get(address)
        page = answer.json()
        assert len(page["decisions"]) <= 2
        ids += [decision["decision_id"] for decision in page["decisions"]]
        link = answer.headers.get("link")
        assert (link is None) == (page["next_before"] is None)
        address = link.partition(">")[0][1:] if link else None
    assert ids == whole


@pytest.mark.parametrize("path", ["decisions", "history"])
def test_inputs_are_left_out_where_nobody_wants_them(api: ApiClient, world: FakeWorld, path: str) -> None:
    world.recorded = [replace(each, inputs='{"tick":1}') for each in world.recorded]
    whole, short = (api.get(f"{OCR}/{path}?limit=2{more}") for more in ("", "&inputs=false"))
    assert {each["inputs"] for each in whole.json()["decisions"]} == {'{"tick":1}'}
    assert [{**each, "inputs": ""} for each in whole.json()["decisions"]] == short.json()["decisions"]
    assert short.json()["next_before"] == whole.json()["next_before"]
    assert "inputs=false" in short.headers["Link"]


def test_the_status_says_what_was_planned_of_each_stage(api: ApiClient, world: FakeWorld) -> None:
    live, plan = api.get(f"{OCR}/status").json()["live"], world.snapshot().plan
    assert plan is not None
    for stage, planned in zip(live["stages"], plan.stages, strict=True):
        assert stage["planned_latency_s"] == pytest.approx(planned.latency_s + planned.queue_delay_s)
    assert live["series"][-1]["predicted_latency_s"] == world.history[-1].predicted_latency_s
    assert {each["stage"] for each in live["inputs"]} == {"", "detect", "recognise"}


def test_a_decision_carries_what_it_was_taken_from(api: ApiClient, world: FakeWorld) -> None:
    applied = next(decision for decision in reversed(world.recorded) if decision.action is Action.APPLY)
    shown = api.get(f"/v1/decisions/{applied.decision_id}").json()
    assert shown["reason"] == applied.reason.value
    assert shown["forecast"]["rung"] == "holt-winters"
    assert shown["plan"]["stages"][0]["capacity_rps"] > 0
    assert shown["configs"][0] == as_body(applied.configs)[0]


def test_a_pause_has_an_end_and_ends_by_itself(api: ApiClient, world: FakeWorld) -> None:
    body = {"for_s": 60, "reason": "release", "by": "kim"}
    control = api.post(f"{OCR}/pause", body).json()
    assert control["paused"] and control["paused_until"] == (
        world.clock.now() + timedelta(minutes=1)
    ).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert (control["paused_reason"], control["paused_by"], control["mode"]) == ("release", "kim", "active")
    assert api.get(f"{OCR}/status").json()["control"] == control
    world.clock.wait(61)
    assert api.get(f"{OCR}/status").json()["control"]["paused"] is False


def test_a_pause_without_an_end_lasts_until_it_is_resumed(api: ApiClient, world: FakeWorld) -> None:
    assert api.post(f"{OCR}/pause", {}).json()["paused_until"] is None
    assert world.control("ocr").paused
    assert api.post(f"{OCR}/resume").json()["paused"] is False
    assert not world.control("ocr").paused


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"for_s": 60, "until": "2030-01-01T00:00:00Z"}, "/for_s"),
        ({"until": NOW.isoformat()}, "/until"),
        ({"until": "2030-01-01T00:00:00"}, "/until"),
        ({"for_s": -1}, "/for_s"),
        ({"for_s": 1e9}, "/for_s"),
    ],
)
def test_a_pause_that_makes_no_sense(
    api: ApiClient, world: FakeWorld, body: dict[str, Any], pointer: str
) -> None:
    answer = api.post(f"{OCR}/pause", body)
    assert answer.status_code == 422
    assert [item["pointer"] for item in answer.json()["errors"]] == [pointer]
    assert not world.control("ocr").paused


def test_apply_hands_the_loop_what_was_asked_in_order(api: ApiClient, world: FakeWorld) -> None:
    body = {"configs": as_body(LADDER[3][3])[::-1], "by": "kim", "reason": "trial"}
    decision = api.change(f"{OCR}/apply", body).json()
    assert decision["reason"] == "apply.requested"
    assert decision["detail"].startswith("requested by kim: trial: detect=")
    assert world.recorded[-1].configs == LADDER[3][3]


def test_taking_capacity_while_requests_are_late_must_be_confirmed(api: ApiClient, world: FakeWorld) -> None:
    api.change(f"{OCR}/apply", {"configs": as_body(LADDER[3][3])})
    world.play(2)
    world.slo_broken = True
    detect, recognise = as_body(world.recorded[-1].configs)
    less = {"configs": [detect, {**recognise, "replicas": recognise["replicas"] - 1}]}
    before = len(world.recorded)
    refused = api.change(f"{OCR}/apply", less)
    assert refused.status_code == 409 and len(world.recorded) == before
    assert "60.0 % of the requests" in refused.json()["detail"]
    assert f"takes recognise from {recognise['replicas']}×" in refused.json()["detail"]
    assert "--confirm" in refused.json()["hint"]
    assert api.change(f"{OCR}/apply", {**less, "confirmed": True}).json()["reason"] == "apply.requested"
    more = {"configs": [detect, {**recognise, "replicas": recognise["replicas"] + 1}]}
    assert api.change(f"{OCR}/apply", more).status_code == 200
    world.slo_broken = False
    assert api.change(f"{OCR}/apply", less).status_code == 200


def test_apply_refuses_what_the_pipeline_cannot_run_all_at_once(api: ApiClient, world: FakeWorld) -> None:
    before = len(world.recorded)
    one, two = as_body(LADDER[3][3])
    wrong = [{**one, "variant": "v9", "batch_size": 3, "replicas": 9}, one, {**two, "stage": "translate"}]
    answer = api.change(f"{OCR}/apply", {"configs": wrong})
    assert answer.status_code == 422
    assert [item["pointer"] for item in answer.json()["errors"]] == [
        "/configs/0/variant",
        "/configs/1/stage",
        "/configs/2/stage",
        "/configs",
        "/configs/0/replicas",
        "/configs/0/batch_size",
        "/configs",
    ]
    assert len(world.recorded) == before


def test_rollback_goes_back_to_what_ran_before(api: ApiClient, world: FakeWorld) -> None:
    applied = [decision for decision in world.recorded if decision.action is Action.APPLY]
    before = world.recorded[-1].configs
    world.apply(next(rung[3] for rung in LADDER if rung[3] != before), "requested by kim", "kim")
    decision = api.change(f"{OCR}/rollback", {"by": "kim"}).json()
    assert decision["configs"] == as_body(before) and decision["undoes"]
    assert decision["detail"].startswith("rollback by kim: takes back revision ")
    for name in (applied[0].decision_id, str(applied[0].tick)):
        first = api.change(f"{OCR}/rollback", {"to": name}).json()
        assert first["configs"] == as_body(applied[0].configs) and not first.get("undoes")


def test_rollback_without_anything_to_go_back_to() -> None:
    answer = ApiClient(FakeWorld().services()).change(f"{OCR}/rollback", {})
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_health_readiness_and_metrics(api: ApiClient, world: FakeWorld) -> None:
    assert api.get("/healthz").json() == {"status": "ok"}
    ready = {"ready": True, "degraded": False, "checks": [], "version": ipa.__version__}
    assert api.get("/readyz").json() == ready
    world.checks = (
        DependencyCheck("store", True, required=True),
        DependencyCheck("prometheus", False, "no answer"),
    )
    verbose = api.get("/readyz?verbose").json()
    assert verbose["degraded"] and [check["name"] for check in verbose["checks"]] == ["store", "prometheus"]
    assert "ipa_test_total 1.0" in api.get("/metrics").text


def test_every_answer_says_what_a_browser_may_do_with_it(api: ApiClient) -> None:
    for path in ("/", "/healthz", "/nothing", f"{OCR}/status", "/assets/app.js"):
        headers = api.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-request-id"]


def as_body(configs: tuple[StageConfig, ...]) -> list[dict[str, Any]]:
    return [asdict(config) for config in configs]
