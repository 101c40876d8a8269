"""The page's own modules, called in a real Chromium: how it asks, and what figures draw."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.fakes.browsing import opened, serious, serving
from tests.fakes.services import FakeWorld

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
ASK = """async ([path, options]) => {
  const { callApi } = await import("/assets/api.js");
  try { return await callApi.full(path, options); } catch (error) { return { name: error.name, ...error }; }
}"""
DRAW = """async (facts) => {
  const { Figure } = await import("/assets/figure.js");
  document.querySelector("#view").replaceChildren();
  new Figure(document.querySelector("#view"), { id: "drawn", title: "Drawn", unit: "cores" }).show(facts);
}"""


@pytest.fixture
def page(browser: Browser, world: FakeWorld) -> Iterator[Page]:
    # The browser says of each answer what went wrong, also of those that are asked for here.
    with serving(world.services()) as url, opened(browser, f"{url}#/health", allowed="status of 4") as page:
        yield page


def test_what_the_service_refuses_is_told_with_its_hint(page: Page) -> None:
    refused = page.evaluate(ASK, ["/v1/pipelines/nobody/status", {}])
    assert (refused["name"], refused["status"], refused["code"]) == ("Refused", 404, "not_found")
    assert "nobody" in refused["detail"]
    assert refused["hint"]
    wrong = page.evaluate(ASK, ["/v1/pipelines/ocr/plans", {"method": "POST", "body": {"rate_rps": -1}}])
    assert wrong["status"] == 422
    assert wrong["errors"]


def test_what_it_answers_comes_with_its_status_and_is_sent_as_json(page: Page) -> None:
    made = page.evaluate(ASK, ["/v1/pipelines/ocr/plans", {"method": "POST", "body": {"rate_rps": 5}}])
    assert made["status"] in (200, 201)
    assert made["body"]


def test_a_point_is_read_out_and_followed(page: Page) -> None:
    points = {
        "name": "plans", "kind": "points", "x": [1, 2, 4], "y": [0.2, 0.5, 0.9],
        "text": ["first", "second", "third"], "href": ["#/fleet", "#/health", "#/fleet"],
    }  # fmt: skip
    page.evaluate(DRAW, {"series": [points], "x_title": "cost"})
    expect(page.locator("#figure-drawn .plot .dot")).to_have_count(3)
    page.locator("#figure-drawn .plot .dot").nth(1).hover(force=True)
    expect(page.locator("#figure-drawn .tip")).to_contain_text("second")
    expect(page.locator("#figure-drawn .tip")).to_contain_text("0.5 cores")
    page.locator("#figure-drawn .plot .dot").nth(1).click(force=True)
    assert page.evaluate("location.hash") == "#/health"


def test_a_gap_is_a_gap_and_markup_stays_text(page: Page) -> None:
    evil = "<img src=x>"
    line = {"name": evil, "kind": "line", "x": [0, 1, 2, 3, 4], "y": [1, 1, None, 1, 1]}
    page.evaluate(DRAW, {"series": [line]})
    expect(page.locator("#figure-drawn .plot .l")).to_have_count(2)
    expect(page.locator("#figure-drawn .legend")).to_contain_text(evil)
    assert page.locator("#figure-drawn img").count() == 0


def test_nothing_to_draw_is_said(page: Page) -> None:
    page.evaluate(DRAW, {"series": [], "empty": "No run has ended yet."})
    expect(page.locator("#figure-drawn")).to_contain_text("No run has ended yet.")
    assert serious(page) == []
