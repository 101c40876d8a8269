"""The page in an incident: never healthy while the SLO is broken; what is lost, and why."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from ipa.control.audit.reason_log import BLIND, LATE
from ipa.model.decision import UNHEALTHY, ReasonCode
from ipa.model.observation import DROPS
from tests.fakes.browsing import LOOKS, VIEWS, opened, serious, serving, shoot
from tests.fakes.services import FakeWorld
from tests.fakes.viewed import in_an_incident, viewed

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
PAGE = Path(__file__).resolve().parents[2] / "ipa" / "api" / "page"
HELD = UNHEALTHY - BLIND - LATE - {ReasonCode.ROLLBACK}


@pytest.fixture(scope="module")
def world() -> FakeWorld:
    return in_an_incident()


@pytest.fixture(scope="module")
def url(world: FakeWorld) -> Iterator[str]:
    with serving(viewed(world)) as url:
        yield url


@pytest.mark.parametrize("view", ["now", "timeline", "fleet", "health"])
@pytest.mark.parametrize("look", LOOKS)
def test_an_incident_is_told_and_axe_finds_nothing_serious(
    browser: Browser, url: str, view: str, look: str
) -> None:
    with opened(browser, f"{url}#{VIEWS[view]}", **LOOKS[look]) as page:
        expect(page.locator("#view")).to_contain_text("SLO broken")
        expect(page.locator("#view").get_by_text("healthy", exact=True)).to_have_count(0)
        expect(page.locator("#view")).not_to_contain_text("Nothing to do")
        assert serious(page) == []
        shoot(page, f"incident-{view}-{look}")


def test_now_reads_from_the_load_to_the_reason(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}#{VIEWS['now']}") as page:
        titles = page.locator("#figures h3")
        expect(titles).to_have_text(["Load", "Latency p99", "In time", "Accuracy (PAS)", "Cost"])
        tile = page.locator("#figures .tile").nth(2)
        expect(tile).to_contain_text("60.0%")
        expect(tile).to_contain_text("dropped 3.0 · failed 0.4 rps · 0.2 batches/s retried")
        expect(page.locator("#stages .stage").first).to_contain_text("72 %measured; the load is")
        order = page.evaluate("['figures', 'reason', 'stages', 'decisions'].map((id) => document"
                              ".getElementById(id).getBoundingClientRect().top)")  # fmt: skip
        assert order == sorted(order)


def test_the_timeline_shades_what_was_broken_blind_and_held_and_marks_absurd_predictions(
    browser: Browser, url: str
) -> None:
    with opened(browser, f"{url}#{VIEWS['timeline']}") as page:
        titles = page.locator("#charts .chart h3")
        expect(titles.nth(0)).to_have_text("Load rps")
        expect(titles.nth(1)).to_have_text("Latency ms")
        expect(titles.nth(2)).to_have_text("In time %")
        for figure in ("load", "latency", "in-time", "lost", "utilisation"):
            shades = page.locator(f"#figure-{figure} .plot > .shade")
            expect(shades).to_have_count(4)
            kinds = [shades.nth(at).get_attribute("class") for at in range(4)]
            assert kinds == ["shade broken", "shade blind", "shade held", "shade broken"]
        latency = page.locator("#figure-latency")
        expect(latency.locator(".legend")).to_contain_text("predicted beyond the axis")
        expect(latency.locator(".plot > .beyond").first).to_be_attached()
        # The axis ends where the SLA and what was seen do, far below a prediction of 40 s.
        labels = latency.locator(".plot text").all_text_contents()
        assert max(int(text) for text in labels if text.isdigit()) <= 1500
        latency.locator(".plot").focus()
        page.keyboard.press("End")
        expect(latency.locator("[aria-live]")).to_contain_text("predicted without bound")
        expect(latency.locator("[aria-live]")).to_contain_text("SLO broken")


def test_the_fleet_has_columns_of_what_is_late_and_lost(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}#{VIEWS['fleet']}") as page:
        row = page.locator("tbody tr")
        expect(row.locator("td.over")).to_have_text(
            ["Holding: no change", "SLO broken", "60.0 % of 99 %", "3.4"]
        )
        expect(page.get_by_role("region", name="All together")).to_contain_text("SLO broken1")


def test_the_page_knows_the_same_kinds_of_reasons_and_causes_as_the_service() -> None:
    text = (PAGE / "reasons.js").read_text()

    def named(name: str) -> set[str]:
        match = re.search(rf"{name} = new Set\(\[(.*?)\]\)", text, re.DOTALL)
        assert match
        return set(re.findall(r'"([^"]+)"', match[1]))

    assert named("BLIND") == {reason.value for reason in BLIND}
    by_people = {f"hold.{name}" for name in ("advisory", "shadow", "guarded", "frozen", "paused")}
    assert named("HELD") == {reason.value for reason in HELD} | by_people
    assert named("DROPS") == DROPS
