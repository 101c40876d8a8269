"""The page in a real Chromium, over a service that is told what to show."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ipa.api.app import create_app
from ipa.api.live import BesideLive
from ipa.control.ports import PipelineControl
from ipa.model.decision import Mode
from ipa.model.errors import UnavailableError
from tests.fakes.services import LADDER, NOW, FakeWorld

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"] + [
    f"--disable-{name}" for name in ("background-networking", "component-update", "sync")
]
pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.skip(f"needs Chromium at {CHROMIUM}")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld().play(57)


@pytest.fixture
def url(world: FakeWorld) -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        config = uvicorn.Config(create_app(world.services()), log_level="error", ws="none", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{port}/"
        server.should_exit = True
        thread.join()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    yield from opened(browser, url, width=1280, height=1180)


def opened(browser: Browser, url: str, *, width: int, height: int, **options: Any) -> Iterator[Page]:
    """The page, failing the test on anything the console complains of."""
    context = browser.new_context(viewport={"width": width, "height": height}, timezone_id="UTC", **options)
    page = context.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(url)
    expect(page.locator("#stages .stage")).to_have_count(2)
    yield page
    context.close()
    assert [text for text in complaints if "503" not in text] == []


def shoot(page: Page, name: str) -> None:
    """Keep a picture where IPA_SCREENSHOTS names a folder."""
    if folder := os.environ.get("IPA_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def test_it_shows_what_a_second_policy_would_have_and_pay(page: Page, world: FakeWorld) -> None:
    expect(page.locator("#figures")).not_to_contain_text("would")
    world.beside = (BesideLive("hpa", "ocr@hpa", 3, LADDER[1][3], pas=0.742, cost_cores=1.5),)
    expect(page.locator("#figures")).to_contain_text("hpa would have 0.742")
    expect(page.locator("#figures")).to_contain_text("hpa would pay 1.5")
    shoot(page, "beside")


def test_it_shows_what_runs_and_why(page: Page, world: FakeWorld) -> None:
    expect(page).to_have_title("ocr · ipa")
    expect(page.locator("#chips")).to_contain_text("active")
    expect(page.locator("#chips")).to_contain_text("healthy")
    config = world.log[-1].configs[1]
    stage = page.locator("#stages .stage").nth(1)
    expect(stage).to_contain_text("recognise")
    expect(stage.locator(".variant")).to_have_text(config.variant)
    expect(stage).to_contain_text(f"/ {config.replicas} ready")
    expect(page.locator("#stages .arrow")).to_have_text("×6")
    expect(page.locator("#figures")).to_contain_text("900 ms")
    shoot(page, "light")


def test_every_chart_draws_its_lines_and_the_marks_of_changes(page: Page, world: FakeWorld) -> None:
    applied = sum(decision.reason.startswith("apply.") for decision in world.log)
    charts = page.locator("#charts .chart")
    expect(charts).to_have_count(4)
    for index in range(4):
        expect(charts.nth(index).locator(".plot .flag")).to_have_count(applied)
        assert charts.nth(index).locator(".plot .l").count() >= 1
        drawn = charts.nth(index).locator(".plot .l").last.get_attribute("d") or ""
        assert "NaN" not in drawn and len(drawn) > 200
    expect(charts.nth(0).locator(".plot .a.violet")).to_have_count(1)


def test_pointing_at_a_chart_reads_it_out(page: Page, world: FakeWorld) -> None:
    plot = page.locator("#charts .chart").first.locator(".plot")
    plot.hover(position={"x": 300, "y": 60})
    tip = page.locator("#charts .chart").first.locator(".tip")
    expect(tip).to_be_visible()
    expect(tip).to_contain_text("seen")
    expect(tip).to_contain_text("rps")
    shoot(page, "tip")


def test_it_follows_the_loop(page: Page, world: FakeWorld) -> None:
    world.metrics_fail = True
    world.tick()
    expect(page.locator("#reason")).to_contain_text("metrics missing")
    expect(page.locator("#chips")).to_contain_text("degraded")
    expect(page.locator("#figures")).to_contain_text("–")
    shoot(page, "degraded")
    world.metrics_fail = False
    world.tick()
    expect(page.locator("#chips")).to_contain_text("healthy")


def test_a_pause_is_seen_with_who_and_why(page: Page, world: FakeWorld) -> None:
    until = NOW + timedelta(hours=2)
    world.set_control("ocr", PipelineControl(Mode.ADVISORY, True, until, "release", "kim"))
    world.tick()
    expect(page.locator("#chips")).to_contain_text("paused until 14:00:00")
    expect(page.locator("#chips")).to_contain_text("advisory")
    expect(page.locator("#reason")).to_contain_text("release, by kim")
    shoot(page, "paused")


def test_decisions_are_changes_first_and_holds_on_request(page: Page, world: FakeWorld) -> None:
    rows = page.locator("#decisions li")
    changes = [decision for decision in world.log if decision.action == "apply"]
    expect(rows).to_have_count(len(changes))
    expect(rows.first).to_contain_text(changes[-1].detail)
    expect(rows.first).to_contain_text("→")
    page.get_by_label("show holds").check()
    expect(page.locator("#decisions")).to_contain_text("no change")
    shoot(page, "holds")


def test_a_change_is_told_once(page: Page, world: FakeWorld) -> None:
    world.apply("ocr", LADDER[0][3], "requested by kim: trial")
    world.ticks += 1  # the page asks for decisions once a tick
    row = page.locator("#decisions li").first
    expect(row).to_contain_text("requested by kim: trial")
    expect(row.locator(".detail")).to_have_text("requested by kim: trial")
    expect(row.locator("ins").first).to_have_text("v4-640")


def test_a_service_that_fails_is_said_and_comes_back(page: Page, world: FakeWorld) -> None:
    world.broken = UnavailableError("the store did not answer")
    expect(page.locator("#reason")).to_contain_text("the store did not answer")
    world.broken = None
    expect(page.locator("#reason")).to_contain_text("Holding")
    expect(page.locator("body")).not_to_have_class("lost")


@pytest.mark.parametrize(("name", "width"), [("dark", 1280), ("phone", 390), ("phone-dark", 390)])
def test_it_fits_in_both_themes_and_on_a_phone(browser: Browser, url: str, name: str, width: int) -> None:
    scheme = "dark" if "dark" in name else "light"
    for page in opened(browser, url, width=width, height=1180, color_scheme=scheme):
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        lightness = sum(int(part) for part in background.removeprefix("rgb(").removesuffix(")").split(","))
        assert (lightness < 200) == (scheme == "dark")
        shoot(page, name)


def test_markup_in_a_name_stays_text(browser: Browser, url: str, world: FakeWorld) -> None:
    evil = "<img src=x onerror=alert(1)>"
    world.log[-1] = replace(world.log[-1], detail=evil)
    for page in opened(browser, url, width=1280, height=900):
        expect(page.locator("#reason")).to_contain_text(evil)
        expect(page.locator("#reason img")).to_have_count(0)


def test_the_documentation_lists_every_route_without_a_network(browser: Browser, url: str) -> None:
    context = browser.new_context(viewport={"width": 1000, "height": 900})
    page = context.new_page()
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{url}docs")
    expect(page.locator("#operations details").first).to_be_visible()
    expect(page.locator("#operations")).to_contain_text("/v1/pipelines/{pipeline}/plans")
    page.locator("summary", has_text="/plans").click()
    expect(page.locator("details[open]")).to_contain_text("rate_rps?")
    shoot(page, "docs")
    context.close()
    assert all(address.startswith(url) for address in asked)
