"""The page's What-if in a real Chromium: what it shows is what the API says, and nothing is written."""

from __future__ import annotations

import asyncio
import math
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Request, expect

from ipa.model.plan import Plan
from ipa.policies.planning import PlanQuestion
from tests.fakes.browsing import PHONE, opened, serious, serving
from tests.fakes.services import FakeWorld, over
from tests.fakes.viewed import viewed

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
PLANS = "/v1/pipelines/ocr/plans"


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, f"{url}#/what-if/ocr") as page:
        yield page


def planned(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """The API's answer to that what-if."""
    answer = httpx.post(f"{url.rstrip('/')}{PLANS}", json=body, timeout=30)
    plan: dict[str, Any] = answer.raise_for_status().json()
    return plan


def row(page: Page, caption: str, name: str) -> list[str]:
    """The cells of that row of that table."""
    rows = page.get_by_role("region", name=caption).locator("tbody tr")
    return (
        rows.filter(has=page.locator("th", has_text=re.compile(f"^{name}"))).locator("td").all_inner_texts()
    )


def expect_figures(page: Page, plan: dict[str, Any]) -> None:
    """Wait until the figures are those of that plan."""
    rows = page.get_by_role("region", name="Figures now and of the plan").locator("tbody tr")
    for at, text in enumerate((f"{plan['pas']:.3f}", f"{plan['cost_cores']:g}")):
        expect(rows.nth(at).locator("td").nth(1)).to_have_text(text)


def expect_plan(page: Page, plan: dict[str, Any]) -> None:
    """Wait until the tables show that plan: its figures, and what each stage would run."""
    expect_figures(page, plan)
    rows = page.get_by_role("region", name="What each stage runs now and would run").locator("tbody tr")
    for stage in plan["stages"]:
        cells = rows.filter(has=page.get_by_role("rowheader", name=stage["stage"])).locator("td")
        total = stage["cores"] * stage["replicas"]
        values = (stage["batch_size"], stage["replicas"], stage["cores"], total)
        for at, value in enumerate([stage["variant"], *(f"{value:g}" for value in values)]):
            # Where it is another than what runs: from … to …
            expect(cells.nth(at)).to_have_text(re.compile(rf"(^|to ){re.escape(value)}$"))


def test_it_shows_the_plan_of_the_api_beside_what_runs(page: Page, url: str) -> None:
    live = httpx.get(f"{url}v1/pipelines/ocr/status").json()["live"]
    plan = planned(url, {})
    expect_plan(page, plan)
    cells = row(page, "Figures now and of the plan", "Accuracy")
    change = plan["pas"] - live["pas"]
    assert cells[0] == f"{live['pas']:.3f}"
    assert cells[2].startswith(f"{'+' if change > 0 else '−'}{abs(change):.3f}")
    assert cells[2].endswith(f"({'+' if change > 0 else '−'}{abs(100 * change / live['pas']):.0f} %)")
    assert row(page, "Figures now and of the plan", "Cost")[0] == f"{live['cost_cores']:g}"


@pytest.mark.parametrize(
    ("name", "label", "value", "body"),
    [
        ("rate_rps", "Rate, rps, slider", "12", {"rate_rps": 12}),
        ("sla_s", "SLA, s, slider", "0.3", {"sla_s": 0.3}),
        ("cores", "Core budget, cores, slider", "1.5", {"rate_rps": 12, "bounds": {"cores": 1.5}}),
        ("beta", "Weight of a core, β, slider", "0.5", {"weights": {"beta": 0.5}}),
    ],
)
def test_a_slider_plans_anew(
    page: Page, url: str, name: str, label: str, value: str, body: dict[str, Any]
) -> None:
    before = planned(url, {})
    expect_plan(page, before)
    if "rate_rps" in body and name != "rate_rps":
        page.locator("#what-if-rate_rps").fill(str(body["rate_rps"]))
    page.get_by_role("slider", name=label).fill(value)
    plan = planned(url, body)
    assert (plan["pas"], plan["cost_cores"]) != (before["pas"], before["cost_cores"])
    expect_plan(page, plan)
    assert float(page.locator(f"#what-if-{name}").input_value()) == float(value)
    expect(page).to_have_url(re.compile(rf"[?&]{name}={value}"))


def test_the_keyboard_alone_moves_a_slider(page: Page, url: str) -> None:
    slider = page.get_by_role("slider", name="Rate, rps, slider")
    slider.focus()
    page.keyboard.press("End")
    most = float(slider.get_attribute("max") or 0)
    expect_plan(page, planned(url, {"rate_rps": most}))
    page.keyboard.press("Tab")
    expect(page.locator("#what-if-rate_rps")).to_be_focused()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("6")
    expect_plan(page, planned(url, {"rate_rps": 6}))
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect_plan(page, planned(url, {}))
    expect(page.locator("#what-if-rate_rps")).to_be_focused()


def test_a_link_restores_all_that_was_set(browser: Browser, url: str) -> None:
    query = "rate_rps=11&sla_s=0.5&alpha=2&cores=3&batch_sizes=1%2C2&max_replicas=5&objective=frugal"
    body = {
        "rate_rps": 11,
        "sla_s": 0.5,
        "objective": "frugal",
        "weights": {"alpha": 2},
        "bounds": {"cores": 3, "batch_sizes": [1, 2], "max_replicas": 5},
    }
    with opened(browser, f"{url}#/what-if/ocr?{query}") as page:
        expect_plan(page, planned(url, body))
        expect(page.locator("#what-if-objective")).to_have_value("frugal")
        expect(page.locator("#what-if-batch_sizes")).to_have_value("1,2")
        page.get_by_role("button", name="Reset all").click()
        expect_plan(page, planned(url, {}))
        expect(page).to_have_url(f"{url}#/what-if/ocr")
        expect(page.locator("#what-if-objective")).to_have_value("default")


def test_nothing_but_questions_is_sent_and_nothing_is_decided(page: Page, url: str, world: FakeWorld) -> None:
    sent: list[tuple[str, str]] = []

    def note(request: Request) -> None:
        sent.append((request.method, request.url.removeprefix(url)))

    page.on("request", note)
    decided, controls = list(world.recorded), dict(world.controls)
    for label, value in (("Rate, rps", "9"), ("SLA, s", "0.6"), ("Core budget, cores", "3")):
        page.get_by_role("slider", name=f"{label}, slider").fill(value)
    expect_plan(page, planned(url, {"rate_rps": 9, "sla_s": 0.6, "bounds": {"cores": 3}}))
    expect(page.get_by_role("region", name="Why this plan")).to_contain_text("limits")
    page.get_by_role("button", name="Reset all").click()
    expect_plan(page, planned(url, {}))
    asking = {f"v1/pipelines/ocr/{what}" for what in ("plans", "frontiers", "explanations")}
    changing = [each for each in sent if each[0] != "GET" and each[1] not in asking]
    assert changing == []
    assert ("POST", "v1/pipelines/ocr/plans") in sent
    assert (world.recorded, world.controls) == (decided, controls)


def test_what_is_infeasible_says_what_would_do(page: Page, url: str) -> None:
    page.locator("#what-if-sla_s").fill("0.01")
    answer = page.get_by_role("region", name="The running configuration and the best plan")
    expect(answer).to_contain_text("No plan is feasible")
    moves = planned(url, {"sla_s": 0.01})["relaxations"]
    # The limit is rounded to the side on which it holds.
    least = float(re.fullmatch(r"SLA ≥ ([\d.]+) s instead of 0.01 s", moves[0])[1])  # type: ignore[index]
    shown = math.ceil(least * 1e4) / 1e4
    assert shown > least
    expect(answer.get_by_role("listitem")).to_have_text([f"SLA ≥ {shown:g} s instead of 0.01 s"])
    assert planned(url, {"sla_s": shown})["stages"]
    expect(page.get_by_role("region", name="Why this plan")).to_contain_text("each alone")
    assert serious(page) == []


def test_a_number_that_is_none_is_said_and_not_planned_with(page: Page, url: str) -> None:
    plan = planned(url, {"rate_rps": 6})
    page.locator("#what-if-rate_rps").fill("6")
    expect_plan(page, plan)
    page.locator("#what-if-rate_rps").fill("-3")
    expect(page.locator("#what-if-rate_rps")).to_have_attribute("aria-invalid", "true")
    expect(page.locator("#what-if-rate_rps-now")).to_contain_text("The value is ignored")
    expect_plan(page, plan)


def test_what_the_service_refuses_is_said(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}#/what-if/ocr", allowed="422") as page:
        page.get_by_text("Replicas, batches, solver").click()
        page.locator("#what-if-transition_cores").fill("2")
        alert = page.get_by_role("alert").filter(has_text="contradict").first
        expect(alert).to_contain_text("/bounds/transition_cores")


def test_the_frontier_is_that_of_the_api_and_a_point_can_be_taken(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}#/what-if/ocr?rate_rps=12", width=PHONE) as page:
        most = float(page.get_by_role("slider", name="Core budget, cores, slider").get_attribute("max") or 0)
        body = {"rate_rps": 12, "bounds": {"cores": most, "accuracy_floor": 0}}
        points = httpx.post(f"{url}v1/pipelines/ocr/frontiers", json=body, timeout=30).json()["points"]
        assert len(points) > 2
        page.get_by_text(f"The {len(points)} plans as a list").click()
        rows = page.get_by_role("region", name="Plans that no other beats").locator("tbody tr")
        expect(rows).to_have_count(len(points))
        for at, point in enumerate(points):
            cells = rows.nth(at).locator("td").all_inner_texts()
            assert cells[:2] == [f"{point['pas']:.3f}", f"{round(point['cost_cores'], 2):g}"]
        rows.nth(1).get_by_role("link").click()
        expect_figures(page, points[1])
        assert serious(page) == []


def test_before_any_load_was_seen_a_rate_is_asked_for(browser: Browser) -> None:
    with serving(viewed(FakeWorld())) as url, opened(browser, f"{url}#/what-if/ocr") as page:
        answer = page.get_by_role("region", name="The running configuration and the best plan")
        expect(answer).to_contain_text("How many requests arrive per second?")
        for hidden in ("Why this plan", "Accuracy and its least cost"):
            expect(page.get_by_text(hidden, exact=True)).to_be_hidden()
        assert serious(page) == []
        page.locator("#what-if-rate_rps").fill("5")
        expect_figures(page, planned(url, {"rate_rps": 5}))
        expect(page.get_by_text("Why this plan", exact=False).first).to_be_visible()


def test_all_is_for_one_rate_that_stays_while_it_is_read(page: Page, url: str, world: FakeWorld) -> None:
    """Each tick has another forecast; plan, frontier and explanation stay with the one at the beginning."""
    held = httpx.get(f"{url}v1/pipelines/ocr/status").json()["live"]["forecast"]["upper_rps"]
    expect(page.get_by_text(re.compile("The .* plans as a list"))).to_be_visible()
    expect(page.get_by_role("region", name="Why this plan")).to_contain_text("limits")
    sent: list[tuple[str, Any]] = []
    page.on(
        "request",
        lambda it: sent.append((it.url.rsplit("/", 1)[1], it.post_data_json)) if it.post_data else None,
    )
    figures = page.get_by_role("region", name="Figures now and of the plan")
    # The load now is the one that is planned for, not another that is seen at the moment.
    now_rps, planned_rps = (
        figures.get_by_role("row", name="Rate to plan for").get_by_role("cell").all_inner_texts()[:2]
    )
    assert now_rps == planned_rps and float(now_rps.split()[0]) == round(held, 2)
    before = figures.inner_text()
    follow = page.get_by_role("button", name="Plan for the load now")
    expect(follow).to_be_hidden()
    world.tick()
    expect(follow).to_be_visible()
    assert figures.inner_text() == before
    assert sent == []
    with page.expect_response(re.compile("/explanations$")), page.expect_response(re.compile("/frontiers$")):
        page.get_by_role("slider", name="SLA, s, slider").fill("0.6")
    expect_plan(page, planned(url, {"rate_rps": held, "sla_s": 0.6}))
    assert {name for name, _ in sent} == {"plans", "frontiers", "explanations"}
    assert {body["rate_rps"] for _, body in sent} == {held}
    assert {body["sla_s"] for _, body in sent} == {0.6}
    now = httpx.get(f"{url}v1/pipelines/ocr/status").json()["live"]["forecast"]["upper_rps"]
    assert abs(now / held - 1) > 0.01
    follow.click()
    expect_plan(page, planned(url, {"rate_rps": now, "sla_s": 0.6}))
    expect(follow).to_be_hidden()


def test_a_taken_point_keeps_the_rate(page: Page, url: str, world: FakeWorld) -> None:
    held = httpx.get(f"{url}v1/pipelines/ocr/status").json()["live"]["forecast"]["upper_rps"]
    page.get_by_text(re.compile("The .* plans as a list")).click()
    world.play(3)
    page.get_by_role("region", name="Plans that no other beats").get_by_role("link").first.click()
    expect(page).to_have_url(re.compile(f"rate_rps={held}"))


def test_a_budget_above_that_of_a_change_raises_both(browser: Browser, world: FakeWorld) -> None:
    services = viewed(world)
    ocr = services.service.pipelines["ocr"]
    ocr = replace(ocr, bounds=replace(ocr.bounds, cores=2.0, transition_cores=3.0))
    given = over(services, pipelines={"ocr": ocr})
    with serving(given) as url, opened(browser, f"{url}#/what-if/ocr?rate_rps=14") as page:
        expect_plan(page, planned(url, {"rate_rps": 14}))
        expect(page.get_by_text(re.compile("The .* plans as a list"))).to_be_visible()
        page.locator("#what-if-cores").fill("6")
        expect_plan(page, planned(url, {"rate_rps": 14, "bounds": {"cores": 6, "transition_cores": 6}}))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_that_follows_is_read_by_everyone(browser: Browser, url: str, scheme: Any) -> None:
    with opened(browser, f"{url}#/what-if/ocr?rate_rps=9", color_scheme=scheme) as page:
        expect(page.get_by_role("region", name="Rejected alternatives")).to_be_visible()
        expect(page.get_by_text(re.compile("The .* plans as a list"))).to_be_visible()
        page.get_by_text("Replicas, batches, solver").click()
        assert serious(page) == []


def test_the_last_move_wins_over_one_that_is_still_planned(browser: Browser, world: FakeWorld) -> None:
    services, may_answer = viewed(world), threading.Event()

    async def slow(question: PlanQuestion, solver: str, deadline_s: float) -> Plan:
        if question.rate_rps == 7:
            assert await asyncio.to_thread(may_answer.wait, 60)
        return await services.service.planner.plan(question, solver, deadline_s)

    with serving(over(services, plan=slow)) as url, opened(browser, f"{url}#/what-if/ocr") as page:
        rate = page.locator("#what-if-rate_rps")
        with page.expect_request(lambda request: request.post_data == '{"rate_rps":7}'):
            rate.fill("7")
        rate.fill("9")
        expect_plan(page, planned(url, {"rate_rps": 9}))
        may_answer.set()
        # Answered by then: this one was asked for later.
        planned(url, {"rate_rps": 7})
        expect(page.get_by_role("region", name="Why this plan")).to_contain_text("limits")
        expect_plan(page, planned(url, {"rate_rps": 9}))
