"""The API's documentation in a real Chromium: operations by group, and the request of each."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from ipa.api.app import GROUPS
from tests.fakes.browsing import DESK, PHONE, serious

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
    return box


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
    expect(operation(page, "POST", "/v1/pipelines/{pipeline}/plans")).to_contain_text("rate_rps?")
    page.set_viewport_size({"width": PHONE, "height": 900})
    assert serious(page) == []


def test_the_request_of_an_operation_is_sent_from_a_shell(page: Page) -> None:
    box = operation(page, "POST", "/v1/pipelines/{pipeline}/plans")
    words = shlex.split(box.locator("pre").last.inner_text())
    assert words[:3] == ["curl", "-X", "POST"]
    kind, body = words[words.index("-H") + 1], words[words.index("--data-binary") + 1]
    headers = dict([kind.split(": ")])
    answer = httpx.post(words[3].replace("{pipeline}", "ocr"), content=body, headers=headers, timeout=30)
    assert answer.status_code == 201
