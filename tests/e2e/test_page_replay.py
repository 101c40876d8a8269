"""Taking a decision again on the page's Decision: it says what the API answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from ipa.model.decision import Action, Decision
from tests.fakes.browsing import PHONE, opened, serious, serving
from tests.fakes.services import FakeWorld
from tests.fakes.taken import again, taken

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def world() -> FakeWorld:
    return taken()


@pytest.fixture
def url(world: FakeWorld) -> Iterator[str]:
    with serving(again(world)) as url:
        yield url


def change(world: FakeWorld) -> Decision:
    """A decision that changed something after some time."""
    return next(it for it in reversed(world.log) if it.action is Action.APPLY and it.plan)


def region(page: Page) -> Any:
    return page.get_by_role("region", name="Replay", exact=True)


def test_it_comes_out_the_same_and_another_policy_says_otherwise(
    browser: Browser, url: str, world: FakeWorld
) -> None:
    decision = change(world)
    with opened(browser, f"{url}#/decision/{decision.decision_id}") as page:
        box = region(page)
        box.get_by_role("button", name="Replay").click()
        expect(box.get_by_role("status")).to_contain_text("The same. ours decides")
        expect(box.get_by_label("With")).to_contain_text("hpa")
        assert "oracle" not in box.get_by_label("With").inner_text()
        box.get_by_label("With").select_option("rim")
        box.get_by_role("button", name="Replay").press("Enter")
        expect(box.get_by_role("status")).to_contain_text("It differs. rim decides")
        address = f"{url}v1/decisions/{decision.decision_id}:replay"
        wanted = httpx.post(address, json={"policy": "rim"}, timeout=30).json()
        rows = page.get_by_role("region", name="Differences").locator("tbody tr")
        expect(rows).to_have_count(len(wanted["differences"]))
        for at, each in enumerate(wanted["differences"]):
            expect(rows.nth(at)).to_have_text("".join((each["what"], each["recorded"], each["again"])))
        plans = page.get_by_role("region", name="The recorded plan and the replayed one")
        for at, stage in enumerate(wanted["again"]["plan"]["stages"]):
            expect(plans.locator("tbody tr").nth(at)).to_contain_text(stage["variant"])
        assert serious(page) == []


def test_why_it_cannot_be_taken_again_is_said(browser: Browser, world: FakeWorld) -> None:
    decision = replace(change(world), decision_id="ocr-1-old", inputs="", inputs_digest="")
    other = FakeWorld()
    other.record(decision)
    with serving(again(other)) as url, opened(browser, f"{url}#/decision/ocr-1-old", width=PHONE) as page:
        box = region(page)
        box.get_by_role("button", name="Replay").click()
        expect(box.get_by_role("status")).to_contain_text("it was recorded without its inputs")
        assert serious(page) == []


def test_a_refusal_is_shown_and_it_can_be_tried_again(browser: Browser, url: str, world: FakeWorld) -> None:
    with opened(browser, f"{url}#/decision/{change(world).decision_id}", allowed="400") as page:
        box = region(page)
        box.get_by_label("With").select_option("infadapter")
        box.get_by_role("button", name="Replay").click()
        expect(box.get_by_role("alert")).to_contain_text("cannot be planned as a set")
        expect(box.get_by_role("button", name="Replay")).to_be_enabled()
