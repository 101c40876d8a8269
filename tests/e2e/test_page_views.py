"""Every view of the page in a real Chromium: it opens, it fits, keys alone do, and axe finds nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from time import monotonic

import pytest
from playwright.sync_api import Browser, expect

from ipa.model.observation import Missing, MissingReason
from tests.fakes.browsing import LOOKS, OPENED, PHONE, VIEWS, opened, serious, serving, shoot
from tests.fakes.services import FakeWorld, a_pipeline, over
from tests.fakes.viewed import viewed

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
# A view that takes so long hangs; how long it takes `python -m experiments.page_speed` measures.
HANGS_S = 15.0


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(viewed(FakeWorld().play(57))) as url:
        yield url


@pytest.mark.parametrize("view", VIEWS)
def test_every_view_opens_with_its_title_and_the_console_is_silent(
    browser: Browser, url: str, view: str
) -> None:
    began_s = monotonic()
    with opened(browser, f"{url}#{VIEWS[view]}") as page:
        assert monotonic() - began_s < HANGS_S
        heading = page.locator("h1")
        expect(heading).to_have_count(1)
        current = page.get_by_role("navigation", name="Views").locator("[aria-current=page]")
        expect(current).to_have_count(1)
        assert heading.inner_text().startswith(current.inner_text())
        assert page.title().startswith(current.inner_text())
        assert page.title().endswith("ipa")
        expect(page.locator("#trouble")).to_be_empty()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_serious_and_the_width_is_enough(
    browser: Browser, url: str, view: str, look: str
) -> None:
    with opened(browser, f"{url}#{VIEWS[view]}", **LOOKS[look]) as page:
        assert serious(page) == []
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        lightness = sum(int(part) for part in background.removeprefix("rgb(").removesuffix(")").split(","))
        assert (lightness < 200) == (look == "dark")
        shoot(page, f"{view}-{look}")


def test_the_keyboard_alone_walks_through_all_views(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}#/now/ocr") as page:
        first, *others = page.get_by_role("navigation", name="Views").get_by_role("link").all_inner_texts()
        page.locator("h1").focus()
        for name in (*others, first):
            for _ in range(len(others) + 2):
                page.keyboard.press("Shift+Tab")
                if page.evaluate("document.activeElement.innerText") == name:
                    break
            assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
            page.keyboard.press("Enter")
            expect(page.locator("h1")).to_contain_text(name)
            expect(page.locator("h1")).to_be_focused()
            expect(page.locator(OPENED)).to_have_count(1)


def test_the_skip_link_comes_first_and_leads_to_the_content(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}#/now/ocr") as page:
        page.keyboard.press("Tab")
        expect(page.locator("#skip")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("h1")).to_be_focused()
        page.keyboard.press("Tab")
        assert page.evaluate("document.querySelector('#view').contains(document.activeElement)")


@pytest.mark.parametrize(
    ("address", "leads_to"),
    [("", "#/now/ocr"), ("#ocr", "#/now/ocr"), ("#/timeline", "#/timeline/ocr"), ("#/nonsense", "#/now/ocr")],
)
def test_other_addresses_lead_to_a_view(browser: Browser, url: str, address: str, leads_to: str) -> None:
    with opened(browser, f"{url}{address}") as page:
        expect(page.locator(OPENED)).to_have_count(1)
        assert page.url.removeprefix(url) == leads_to
        expect(page).to_have_title("Timeline · ocr · ipa" if "timeline" in leads_to else "Now · ocr · ipa")


def test_a_pipeline_that_is_not_there_names_those_that_are(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}#/now/nobody") as page:
        expect(page.locator("#view")).to_contain_text("no pipeline nobody")
        page.locator("#view").get_by_role("link", name="ocr").click()
        expect(page.locator("#stages .stage")).to_have_count(2)


def test_without_pipelines_every_view_says_what_to_do(browser: Browser) -> None:
    world = FakeWorld()
    with serving(over(world.services(), pipelines={})) as url:
        for view in ("now", "timeline", "what-if", "health"):
            with opened(browser, f"{url}#/{view}") as page:
                expect(page.locator("#view")).to_contain_text("ipa init")
                assert serious(page) == []


def test_nothing_is_asked_of_anyone_else(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}#/now/ocr") as page:
        urls: list[str] = []
        page.on("request", lambda request: urls.append(request.url))
        for address in VIEWS.values():
            page.goto(f"{url}#{address}")
            expect(page.locator(OPENED)).to_have_count(1)
        assert urls
        assert all(each.startswith((url, "data:", "blob:")) for each in urls)


def test_a_planned_only_pipeline_says_why_on_its_page_and_in_the_fleet(browser: Browser) -> None:
    pipeline = replace(a_pipeline(), runnable=False, not_runnable_because="its weights are missing")
    services = over(FakeWorld().play(3).services(), pipelines={"ocr": pipeline})
    with serving(services) as url:
        with opened(browser, f"{url}#/now/ocr") as page:
            expect(page.locator(".banner", has_text="Planned only")).to_have_text(
                "Planned only" + pipeline.not_runnable_because
            )
        with opened(browser, f"{url}#/fleet") as page:
            expect(page.locator("tbody tr")).to_contain_text("planned only")
            expect(page.get_by_role("region", name="All together")).to_contain_text("1, 1 planned only")


@pytest.mark.parametrize("width", [1440, PHONE])
@pytest.mark.parametrize("is_runnable", [False, True], ids=["planned only", "runnable"])
def test_a_pipeline_of_which_nothing_runs_is_no_fault_if_it_is_only_planned(
    browser: Browser, width: int, is_runnable: bool
) -> None:
    world = FakeWorld().play(3)
    words = "" if is_runnable else "its weights are missing"
    pipeline = replace(a_pipeline(), runnable=is_runnable, not_runnable_because=words)
    present = world.snapshot()
    assert present.observation is not None
    missing = Missing(MissingReason.ABSENT, "SeldonDeployment default/ocr: does not exist")
    stages = tuple(
        replace(each, running=missing, ready_replicas=missing) for each in present.observation.stages
    )
    nothing = replace(present.observation, stages=stages, settled=False, problem=missing.detail)
    world.snapshot = lambda: replace(present, observation=nothing)  # type: ignore[method-assign]
    with serving(over(viewed(world), pipelines={"ocr": pipeline})) as url:
        with opened(browser, f"{url}#/now/ocr", width=width) as page:
            chips = page.locator("#view .standing .chip").all_inner_texts()
            shoot(page, f"nothing-runs-{'runnable' if is_runnable else 'planned'}-{width}")
            assert ("planned only" in chips, "degraded" in chips) == (not is_runnable, is_runnable)
            # What is not seen is neither healthy nor rolling out.
            assert not {"healthy", "rolling out"} & set(chips)
            assert serious(page) == []
        with opened(browser, f"{url}#/fleet", width=width) as page:
            expect(page.locator("tbody tr td.over", has_text="degraded")).to_have_count(int(is_runnable))
        with opened(browser, f"{url}#/health", width=width) as page:
            expect(page.locator(".card.health .chip.bad")).to_have_count(int(is_runnable))
        with opened(browser, f"{url}#/what-if/ocr?rate_rps=6", width=width) as page:
            page.get_by_role("button", name="Apply").click()
            dialog = page.get_by_role("dialog")
            expect(dialog).to_contain_text(
                "The running configuration is unknown" if is_runnable else "it is only planned"
            )
            expect(dialog).not_to_contain_text("rolling out")
            expect(dialog.get_by_role("button", name="Apply")).to_be_disabled()
