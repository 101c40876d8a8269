"""The page's Fleet in a real Chromium, of one pipeline and of a thousand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from ipa.api.context import ApiContext
from ipa.model.observation import Measured, Missing, MissingReason
from tests.fakes.browsing import PHONE, opened, serious, serving
from tests.fakes.services import GPU, FakeLoop, FakeWorld, a_pipeline, over, with_resources

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
MANY = 1000
UNSEEN = Missing(MissingReason.UNREACHABLE, "nothing was observed yet")


def many() -> ApiContext:
    """A thousand pipelines, each under another load; every tenth was not seen, every seventh is late."""
    world = FakeWorld().play(30)
    present = world.snapshot()
    assert present.observation is not None

    def loop(at: int) -> FakeLoop:
        rate = Measured(float((at * 7919) % MANY))
        observation = replace(
            present.observation,
            arrival_rate_rps=UNSEEN if at % 10 == 0 else rate,
            latency_s=Measured(1.2 if at % 7 == 0 else 0.3),
            problem=UNSEEN.detail if at % 10 == 0 else "",
        )
        snapshot = replace(present, observation=observation)
        return FakeLoop(lambda: snapshot, world.answer)

    names = [f"p{at:04d}" for at in range(MANY)]
    pipelines = {name: replace(a_pipeline(), name=name) for name in names}
    loops = {name: loop(at) for at, name in enumerate(names)}
    return over(world.services(), pipelines=pipelines, loops=loops)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(many()) as url:
        yield url


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, f"{url}#/fleet") as page:
        expect(page.locator("tbody tr")).to_have_count(MANY)
        yield page


def names(page: Page) -> list[str]:
    return page.locator("tbody th").all_inner_texts()


def test_every_row_is_what_the_api_says(page: Page, url: str) -> None:
    shares = httpx.get(f"{url}v1/fleet").json()["pipelines"]
    assert names(page) == [share["pipeline"] for share in shares]
    for at in (0, 1, 7, MANY - 1):
        share = shares[at]
        cells = page.locator("tbody tr").nth(at).locator("td").all_inner_texts()
        late = 100 * share["latency_s"] / share["sla_s"]
        assert cells[0] == share["mode"]
        assert cells[2] == ("healthy" if share["healthy"] else "degraded")
        assert cells[3] == ("–" if share["rate_rps"] is None else f"{share['rate_rps']:.1f}")
        assert cells[4] == f"{late:.0f} % of 900 ms"
        assert cells[5:8] == [f"{100 * share['in_time_ratio']:.1f} % of 99 %", "0.0", "0.0"]
        assert cells[8:10] == [f"{share['pas']:.3f}", f"{share['cores']:g}"]
        assert cells[10] == f"{100 * share['cores'] / share['budget_cores']:.0f} % of 4"
    together = page.get_by_role("region", name="All together")
    expect(together).to_contain_text(f"{sum(share['cores'] for share in shares):g} of {4 * MANY}")
    expect(together).to_contain_text(str(sum(share["latency_s"] > share["sla_s"] for share in shares)))


def test_memory_and_accelerators_have_columns_where_a_pipeline_has_them(browser: Browser, page: Page) -> None:
    expect(page.get_by_role("columnheader", name="Memory, GiB")).to_have_count(0)
    context = FakeWorld().play(30).services()
    fitted = {"ocr": with_resources(a_pipeline(), gpus=2), "plain": replace(a_pipeline(), name="plain")}
    with serving(over(context, pipelines=fitted)) as url:
        fleet = httpx.get(f"{url}v1/fleet").json()
        held = fleet["pipelines"][0]["held"]
        with opened(browser, f"{url}#/fleet?sort=-memory_gib") as fitted_page:
            heads = fitted_page.locator("thead th").all_inner_texts()
            assert [head.strip(" ▼") for head in heads[-2:]] == ["Memory, GiB", GPU]
            assert names(fitted_page) == ["ocr", "plain"]
            rows = [row.locator("td").all_inner_texts()[-2:] for row in fitted_page.locator("tbody tr").all()]
            assert rows == [[f"{held['memory_gib']:g} of 16", f"{held[GPU]:g} of 2"], ["0", "0"]]
            together = fitted_page.get_by_role("region", name="All together")
            expect(together).to_contain_text(f"{held[GPU]:g} of 2, the budgets together")
            expect(together).to_contain_text(f"{held['memory_gib']:g} of 16, the budgets together")
            expect(together).to_contain_text(f"{fleet['held']['cpu_cores']:g} of 8, the budgets together")
            fitted_page.get_by_role("columnheader", name="Memory, GiB").get_by_role("button").click()
            assert names(fitted_page) == ["plain", "ocr"]
            assert serious(fitted_page) == []


def test_it_sorts_both_ways_with_what_was_not_seen_last(page: Page, url: str) -> None:
    shares = httpx.get(f"{url}v1/fleet").json()["pipelines"]
    measured = [share for share in shares if share["rate_rps"] is not None]
    rising = [each["pipeline"] for each in sorted(measured, key=lambda it: (it["rate_rps"], it["pipeline"]))]
    head = page.get_by_role("columnheader", name="Load, rps")
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    expect(head).to_have_attribute("aria-sort", "ascending")
    expect(page.locator("tbody tr")).to_have_count(MANY)
    assert names(page)[: len(rising)] == rising
    page.keyboard.press("Enter")
    expect(head).to_have_attribute("aria-sort", "descending")
    expect(page.locator("tbody tr")).to_have_count(MANY)
    falling = [
        each["pipeline"] for each in sorted(measured, key=lambda it: (-it["rate_rps"], it["pipeline"]))
    ]
    assert names(page)[: len(falling)] == falling
    assert page.url.endswith("sort=-load")


def test_a_filter_is_kept_in_the_link_and_leads_on(browser: Browser, url: str, page: Page) -> None:
    page.get_by_role("searchbox").fill("p09 degraded")
    expect(page.locator("tbody tr")).to_have_count(10)
    expect(page.get_by_role("status")).to_have_text(f"10 of {MANY}")
    with opened(browser, page.url, width=PHONE) as again:
        expect(again.locator("tbody tr")).to_have_count(10)
        expect(again.get_by_role("searchbox")).to_have_value("p09 degraded")
        assert serious(again) == []
        again.get_by_role("searchbox").fill("none of these")
        expect(again.locator("tbody")).to_have_text("No pipeline matches.")
        again.get_by_role("searchbox").fill("p0042")
        again.get_by_role("link", name="p0042").click()
        expect(again).to_have_title("Now · p0042 · ipa")


def test_it_begins_with_those_that_need_somebody(page: Page, url: str) -> None:
    shares = httpx.get(f"{url}v1/fleet").json()["pipelines"]
    bad = [share for share in shares if not share["healthy"] or share["latency_s"] > 0.85 * share["sla_s"]]
    attention = page.get_by_role("region", name="Needs attention")
    expect(attention.get_by_role("heading")).to_have_text(f"{len(bad)} need attention")
    lines = attention.get_by_role("listitem")
    expect(lines).to_have_count(6)
    # Those that are degraded and late come first.
    worst = {
        share["pipeline"] for share in bad if not share["healthy"] and share["latency_s"] > share["sla_s"]
    }
    assert len(worst) >= 6
    assert {line.get_by_role("link").inner_text() for line in lines.all()} <= worst
    expect(attention).to_contain_text(f"and {len(bad) - 6} more")
    lines.first.get_by_role("link").click()
    expect(page).to_have_title(re.compile(r"Now · p\d{4} · ipa"))
