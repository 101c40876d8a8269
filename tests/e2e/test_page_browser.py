"""The page's views of a pipeline, in a real Chromium, over a service that is told its state."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from ipa.control.engine.actuation import ActuationPhase
from ipa.control.loop.snapshot import Snapshot
from ipa.control.ports import PipelineControl
from ipa.model.decision import Mode
from ipa.model.errors import UnavailableError
from tests.fakes.browsing import opened, shoot
from tests.fakes.services import LADDER, NOW, FakeLoop, FakeWorld

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, url) as page:
        yield page


def test_it_shows_what_a_second_policy_would_have_and_pay(page: Page, world: FakeWorld) -> None:
    expect(page.locator("#figures")).not_to_contain_text("would")
    other = Snapshot("ocr@hpa", 3, PipelineControl(), ActuationPhase.IDLE, would=LADDER[1][3])
    world.beside["ocr"] = FakeLoop(lambda: other, world.answer, "hpa")
    expect(page.locator("#figures")).to_contain_text("hpa would have 0.742")
    expect(page.locator("#figures")).to_contain_text("hpa would pay 1.5")
    shoot(page, "beside")


def test_now_is_the_graph_of_the_stages_with_what_runs(page: Page, world: FakeWorld) -> None:
    expect(page.locator("#chips")).to_contain_text("active")
    expect(page.locator("#chips")).to_contain_text("healthy")
    config = world.recorded[-1].configs[1]
    first, second = (page.locator("#stages .stage").nth(index) for index in (0, 1))
    expect(second).to_contain_text("recognise")
    expect(second).to_contain_text("after detect")
    expect(second.locator(".variant")).to_have_text(config.variant)
    expect(second).to_contain_text(f"/ {config.replicas} ready")
    expect(second).to_contain_text("% of the SLA")
    expect(second).to_contain_text("planned")
    expect(page.locator("#stages .arrows text")).to_have_text("×6")
    left, right = first.bounding_box(), second.bounding_box()
    assert left and right and left["x"] + left["width"] < right["x"]
    expect(page.locator("#figures")).to_contain_text("900 ms")
    expect(page.locator("#requests code")).to_have_text("http://127.0.0.1:9/v2/models/ocr/infer")
    expect(page.locator("#requests button")).to_have_text(["Copy The URL", "Copy curl The curl command"])


def test_an_edit_is_told_with_what_changed_or_why_it_is_refused(page: Page) -> None:
    edit = {"source": "ocr/pipeline.yaml", "at": "2026-11-24T12:00:00+00:00", "by": "kim"}
    taken = {**edit, "state": "taken", "changes": ["sla.latency: 1s → <b>2s</b>"], "message": ""}
    refused = {**edit, "state": "refused", "changes": [], "message": "pipeline.yaml:5:16: latency is 400"}
    edits = [taken]

    def answer(route: Route) -> None:
        response = route.fetch()
        route.fulfill(response=response, json={**response.json(), "edit": edits[-1]})

    page.route("**/v1/pipelines/ocr/status", answer)
    expect(page.locator("#edit")).to_contain_text("Changed by kim at")
    expect(page.locator("#edit")).to_contain_text("sla.latency: 1s → <b>2s</b>")
    edits.append(refused)
    expect(page.locator("#edit .banner.warn b")).to_have_text("Edit refused")
    expect(page.locator("#edit")).to_contain_text("latency is 400. The version before it is in force.")
    page.unroute_all(behavior="wait")


def test_the_stages_stand_below_each_other_on_a_phone(browser: Browser, url: str) -> None:
    with opened(browser, url, width=390) as page:
        boxes = [page.locator("#stages .stage").nth(index).bounding_box() for index in (0, 1)]
        assert boxes[0] and boxes[1] and boxes[0]["y"] + boxes[0]["height"] < boxes[1]["y"]
        expect(page.locator("#stages .arrows path").first).to_have_attribute("d", re.compile(r"^M\d[^N]*$"))


def test_the_countdown_counts(page: Page) -> None:
    countdown = page.locator(".next span")
    expect(countdown).to_have_text(re.compile(r"^\d\.\d s$"))


def test_it_follows_the_loop(page: Page, world: FakeWorld) -> None:
    world.metrics_fail = True
    world.tick()
    expect(page.locator("#reason")).to_contain_text("metrics missing")
    expect(page.locator("#reason")).to_contain_text("Check that Prometheus is up")
    expect(page.locator("#chips")).to_contain_text("degraded")
    expect(page.locator("#figures")).to_contain_text("not seen")
    expect(page.locator("#said")).to_have_text("Holding: metrics missing")
    shoot(page, "degraded")
    page.locator("#reason").get_by_role("link", name="Health").click()
    expect(page.locator("h1")).to_have_text("Health")
    page.go_back()
    world.metrics_fail = False
    world.tick()
    expect(page.locator("#chips")).to_contain_text("healthy")


def test_a_pause_is_seen_with_who_and_why(page: Page, world: FakeWorld) -> None:
    until = NOW + timedelta(hours=2)
    world.set_control("ocr", PipelineControl(Mode.ADVISORY, True, until, "release", "kim"))
    world.tick()
    expect(page.locator("#chips")).to_contain_text(re.compile(r"paused until .*14:00:00"))
    expect(page.locator("#chips")).to_contain_text("advisory")
    expect(page.locator("#reason")).to_contain_text("release, by kim")
    expect(page.locator("#reason")).to_contain_text("ipa resume ocr")
    shoot(page, "paused")


def test_a_change_is_told_once(page: Page, world: FakeWorld) -> None:
    world.apply(LADDER[0][3], "requested by kim: trial")
    world.ticks += 1  # the page asks for decisions once a tick
    row = page.locator("#decisions li").first
    expect(row).to_contain_text("requested by kim: trial")
    expect(row.locator(".detail")).to_have_text("requested by kim: trial")
    expect(row.locator("ins").first).to_have_text("v4-640")
    assert row.get_by_role("link").get_attribute("href") == f"#/decision/{world.recorded[-1].decision_id}"


def test_a_service_that_fails_is_said_and_the_last_picture_stays(page: Page, world: FakeWorld) -> None:
    world.failing = UnavailableError("the store did not answer")
    expect(page.locator("#trouble")).to_contain_text("the store did not answer")
    expect(page.locator("#trouble")).to_contain_text("The page shows the state of")
    expect(page.locator("body")).to_have_class("lost")
    expect(page.locator("#stages .stage")).to_have_count(2)
    shoot(page, "lost")
    world.failing = None
    expect(page.locator("#trouble")).to_be_empty()
    expect(page.locator("body")).not_to_have_class("lost")


def test_a_service_that_is_gone_is_said_and_comes_back(browser: Browser, url: str) -> None:
    with opened(browser, url, allowed="ERR_INTERNET_DISCONNECTED") as page:
        page.context.set_offline(True)
        expect(page.locator("#trouble")).to_contain_text("No answer from the service")
        page.context.set_offline(False)
        expect(page.locator("#trouble")).to_be_empty()


def test_markup_in_a_name_stays_text(browser: Browser, url: str, world: FakeWorld) -> None:
    evil = "<img src=x onerror=alert(1)>"
    world.recorded[-1] = replace(world.recorded[-1], detail=evil)
    with opened(browser, url, height=900) as page:
        expect(page.locator("#reason")).to_contain_text(evil)
        expect(page.locator("#reason img")).to_have_count(0)


def test_health_names_what_is_not_seen_and_what_to_do(browser: Browser, url: str, world: FakeWorld) -> None:
    with opened(browser, f"{url}#/health") as page:
        expect(page.locator("#view")).to_contain_text("ready")
        expect(page.get_by_role("region", name="Checks")).to_contain_text("prometheus")
        inputs = page.get_by_role("region", name="Inputs of ocr")
        expect(inputs).to_contain_text("recognise: ready replicas")
        expect(inputs.get_by_role("row", name="arrival rate seen").first).to_contain_text("under 1 s")
        world.metrics_fail = True
        world.checks = (world.checks[0], replace(world.checks[1], ok=False, detail="timed out"))
        world.tick()
        expect(inputs.get_by_role("row", name="latency no answer").first).to_contain_text(
            "Prometheus did not answer"
        )
        expect(page.get_by_role("region", name="Checks")).to_contain_text("IPA_PROMETHEUS_URL")
        expect(page.locator("#view")).to_contain_text("degraded")
