"""The API's documentation in a real Chromium: operations by group, and each tried from there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from ipa.api.app import GROUPS
from tests.fakes.browsing import DESK, PHONE, serious
from tests.fakes.services import FakeWorld

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": DESK, "height": 900})
    page, asked, complaints = context.new_page(), [], []
    page.on("request", lambda it: asked.append(it.url))
    page.on("console", lambda it: complaints.append(it.text) if it.type == "error" else None)
    page.goto(f"{url}docs")
    page.locator("#operations:not([aria-busy])").wait_for()
    yield page
    # Nothing comes from elsewhere, and the policy of the page refuses nothing of it.
    assert all(each.startswith(url) for each in asked)
    assert [text for text in complaints if "status of 4" not in text] == []
    context.close()


def operation(page: Page, method: str, path: str) -> Locator:
    """The operation, opened."""
    box = page.locator("#operations section > details").filter(
        has=page.locator("summary", has_text=re.compile(f"^{method}{re.escape(path)}[A-Z]"))
    )
    box.locator("summary").first.click()
    return box.get_by_role("form")


def test_operations_are_grouped_found_and_read_by_everyone(page: Page, url: str) -> None:
    document = httpx.get(f"{url}openapi.json").json()
    assert [each["name"] for each in document["tags"]] == list(GROUPS)
    used = {tag for methods in document["paths"].values() for it in methods.values() for tag in it["tags"]}
    assert used == set(GROUPS)
    count = sum(len(methods) for methods in document["paths"].values())
    expect(page.locator("#operations section > details")).to_have_count(count)
    expect(page.get_by_role("navigation", name="Groups").get_by_role("link")).to_have_text(list(GROUPS))
    page.get_by_role("searchbox").fill("post frontier")
    expect(page.locator("#operations section > details:visible")).to_have_count(1)
    page.get_by_role("searchbox").fill("")
    operation(page, "POST", "/v1/pipelines/{pipeline}/plans")
    assert serious(page) == []
    page.set_viewport_size({"width": PHONE, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_an_operation_is_tried_with_its_example(page: Page) -> None:
    form = operation(page, "POST", "/v1/pipelines/{pipeline}/plans")
    expect(form.get_by_label("pipeline")).to_have_value("ocr")
    form.get_by_role("button", name="Send POST").click()
    expect(form.locator(".status")).to_contain_text("201 Created")
    expect(form).to_contain_text("Location: /v1/plans/")
    form.get_by_label("Body").fill('{"rate_rps": -1}')
    form.get_by_role("button", name="Send POST").click()
    expect(form.locator(".status")).to_contain_text("422")
    expect(form.locator("pre")).to_contain_text("/rate_rps")
    form.get_by_role("button", name="Copy as curl").click()
    expect(form.locator("pre")).to_contain_text("curl -X POST 'http://127.0.0.1:")


def test_a_change_is_sent_only_once_it_is_said_to_be_one(page: Page, world: FakeWorld) -> None:
    sent: list[Any] = []
    page.on("request", lambda it: sent.append(it.url) if it.method == "POST" else None)
    form = operation(page, "POST", "/v1/pipelines/{pipeline}/apply")
    form.get_by_role("button", name="Read it").click()
    expect(form.get_by_label("if-match")).not_to_have_value("")
    form.get_by_role("button", name="Send POST").click()
    assert sent == [] and form.get_by_label("This changes the service").evaluate(
        "box => box.matches(':invalid')"
    )
    decided = len(world.log)
    form.get_by_label("This changes the service").check()
    form.get_by_role("button", name="Send POST").click()
    expect(form.locator(".status")).to_contain_text("200")
    assert len(world.log) == decided + 1
    expect(form.get_by_label("This changes the service")).not_to_be_checked()
