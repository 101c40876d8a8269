"""The Timeline and what every figure gives away, in a real Chromium."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from ipa.model.resources import Resources
from tests.fakes.browsing import opened, serious, serving, shoot
from tests.fakes.services import GPU, TICK_S, FakeWorld

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
# More than the status keeps.
TICKS = 400


@pytest.fixture
def world() -> FakeWorld:
    return FakeWorld().play(TICKS)


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    permissions = ["clipboard-read", "clipboard-write"]
    with opened(browser, f"{url}#/timeline/ocr", permissions=permissions) as page:
        yield page


def applied_since(world: FakeWorld, ticks: int) -> int:
    return sum(each.action == "apply" for each in world.recorded if each.tick >= world.ticks - ticks)


def rows(page: Page, figure: str, tmp_path: Path) -> list[list[str]]:
    """The CSV of that figure."""
    expect(page.locator("#charts[aria-busy]")).to_have_count(0)
    with page.expect_download() as download:
        page.locator(f"#figure-{figure}").get_by_role("button", name="CSV").click()
    assert download.value.suggested_filename == f"ocr-{figure}.csv"
    download.value.save_as(tmp_path / "figure.csv")
    return list(csv.reader(io.StringIO((tmp_path / "figure.csv").read_text())))


def path_of(figure: Locator) -> str:
    return figure.locator(".plot .l").last.get_attribute("d") or ""


def test_other_resources_have_figures_of_their_own(browser: Browser) -> None:
    world = FakeWorld(held=Resources(0, 3.5, accelerators={GPU: 2})).play(50)
    with serving(world.services()) as url, opened(browser, f"{url}#/timeline/ocr") as page:
        expect(page.locator("#charts .chart")).to_have_count(10)
        for figure, held in (("memory-gib", "3.5"), ("nvidia-com-gpu", "2")):
            box = page.locator(f"#figure-{figure}")
            box.get_by_role("button", name="Table").click()
            expect(box.get_by_role("cell", name=held, exact=True).first).to_be_visible()
        expect(page.locator("#figure-memory-gib h3")).to_have_text("Memory GiB")
        assert serious(page) == []


def test_every_figure_draws_its_lines_and_the_marks_of_changes(page: Page, world: FakeWorld) -> None:
    figures = page.locator("#charts .chart")
    expect(figures).to_have_count(8)
    for index in range(8):
        expect(figures.nth(index).locator(".flag")).to_have_count(applied_since(world, 180))
        drawn = path_of(figures.nth(index))
        assert "NaN" not in drawn and len(drawn) > 100
    expect(figures.first.locator(".plot .a.violet")).to_have_count(1)
    expect(page.locator("#figure-latency .legend")).to_contain_text("predicted")
    expect(page.locator("#figure-latency .legend")).to_contain_text("SLA")
    expect(page.locator("#figure-replicas .legend")).to_contain_text("recognise")


def test_it_moves_with_the_loop_and_without_a_reload(page: Page, world: FakeWorld) -> None:
    page.evaluate("window.stays = true")
    load = page.locator("#figure-load")
    before = path_of(load)
    world.tick()
    expect(load.locator(".plot .l").last).not_to_have_attribute("d", before)
    assert page.evaluate("window.stays") is True


def test_a_new_change_gets_its_mark_and_row(page: Page, world: FakeWorld) -> None:
    before = page.locator("#decisions li").count()
    while world.tick() or world.recorded[-1].action != "apply":
        pass
    first = page.locator("#decisions li").first
    expect(first).to_contain_text(f"tick {world.ticks}")
    assert page.locator("#decisions li").count() <= before + 1
    assert first.get_by_role("link").get_attribute("href") == f"#/decision/{world.recorded[-1].decision_id}"
    mark = page.locator("#figure-load .flag").first
    expect(mark).to_have_attribute("href", f"#/decision/{world.recorded[-1].decision_id}")
    mark.click()
    expect(page.locator("h1")).to_contain_text("Decision")


def test_pointing_at_a_figure_reads_it_out(page: Page) -> None:
    page.locator("#figure-load .plot").hover(position={"x": 300, "y": 60})
    tip = page.locator("#figure-load .tip")
    expect(tip).to_be_visible()
    expect(tip).to_contain_text(re.compile(r"forecast .*rps"))
    expect(tip).to_contain_text(re.compile(r"seen .*rps"))
    shoot(page, "tip")


def test_the_arrow_keys_read_a_figure_out(page: Page) -> None:
    figure = page.locator("#figure-latency")
    figure.locator(".plot").focus()
    page.keyboard.press("End")
    last = figure.locator("[aria-live]").inner_text()
    assert "predicted" in last and "ms" in last
    page.keyboard.press("ArrowLeft")
    expect(figure.locator("[aria-live]")).not_to_have_text(last)
    expect(figure.locator(".tip")).to_be_visible()


def test_a_figure_is_a_table_too(page: Page) -> None:
    figure = page.locator("#figure-load")
    button = figure.get_by_role("button", name="Table")
    button.focus()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    table = figure.get_by_role("table")
    expect(table.get_by_role("columnheader")).to_have_text(
        ["time", "forecast (rps)", "forecast upper (rps)", "seen (rps)", "change"]
    )
    expect(table.get_by_role("link", name="apply").first).to_be_visible()
    button.click()
    expect(table).to_be_hidden()


def test_its_numbers_are_kept_as_csv(page: Page, world: FakeWorld, tmp_path: Path) -> None:
    head, *points = rows(page, "latency", tmp_path)
    assert head == ["time", "predicted (ms)", "seen, p99 (ms)", "change"]
    assert len(points) == 180
    at = {row[0]: row for row in points}
    for point in world.history[-180:]:
        assert point.latency_s is not None
        assert float(at[point.at][2]) == pytest.approx(1000 * point.latency_s)


def test_its_picture_is_kept_as_png(page: Page, tmp_path: Path) -> None:
    with page.expect_download() as download:
        page.locator("#figure-load").get_by_role("button", name="PNG").click()
    assert download.value.suggested_filename == "ocr-load.png"
    download.value.save_as(tmp_path / "figure.png")
    picture = (tmp_path / "figure.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    # Two points a pixel, and something on it: one colour alone packs into less.
    assert int.from_bytes(picture[16:20]) > 2 * 500
    assert len(picture) > 10_000


def test_a_link_leads_back_to_the_same_figure_and_time(browser: Browser, page: Page, url: str) -> None:
    page.get_by_role("button", name="5 min", exact=True).click()
    page.locator("#figure-cores").get_by_role("link", name="Link").click()
    expect(page.locator("#figure-cores")).to_contain_text("The link is copied")
    link = page.evaluate("navigator.clipboard.readText()")
    assert link.startswith(f"{url}#/timeline/ocr?from=2026-11-24T12") and link.endswith("figure=cores")
    with opened(browser, link, height=500) as other:
        figure = other.locator("#figure-cores")
        expect(figure).to_have_class(re.compile("linked"))
        expect(figure).to_be_in_viewport()
        assert path_of(figure) == path_of(page.locator("#figure-cores"))
        expect(other.locator("#figure-load")).not_to_have_class(re.compile("linked"))


def test_it_reaches_further_back_than_the_service_keeps_ticks(
    page: Page, world: FakeWorld, tmp_path: Path
) -> None:
    expect(page.get_by_role("button", name="15 min")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="all").click()
    expect(page.get_by_role("button", name="all")).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#figure-load .flag")).to_have_count(applied_since(world, TICKS))
    _, *points = rows(page, "load", tmp_path)
    assert len(points) == TICKS
    oldest = world.recorded[0]
    assert points[0][0] == oldest.at
    assert float(points[0][3]) == pytest.approx(oldest.observed_rate_rps)
    shoot(page, "timeline-all")


def test_two_times_are_shown_and_kept_in_the_address(page: Page, world: FakeWorld, tmp_path: Path) -> None:
    page.get_by_label("from").fill("2026-11-24T12:05:00")
    page.get_by_label("to", exact=True).fill("2026-11-24T12:04:00")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("alert").filter(has_text="before")).to_be_visible()
    page.get_by_label("to", exact=True).fill("2026-11-24T12:10:00")
    page.get_by_role("button", name="Show").click()
    expect(page).to_have_url(re.compile(r"from=2026-11-24T12%3A05%3A00.000Z&to=2026-11-24T12%3A10"))
    for name in ("5 min", "all"):
        expect(page.get_by_role("button", name=name, exact=True)).to_have_attribute("aria-pressed", "false")
    _, *points = rows(page, "load", tmp_path)
    assert len(points) == 5 * 60 / TICK_S + 1
    world.tick()
    page.reload()
    _, *again = rows(page, "load", tmp_path)
    assert again == points


def test_decisions_are_changes_first_and_holds_on_request(page: Page, world: FakeWorld) -> None:
    changes = [each for each in world.recorded if each.action == "apply" and each.tick >= world.ticks - 180]
    expect(page.locator("#decisions li")).to_have_count(len(changes))
    expect(page.locator("#decisions li").first).to_contain_text(changes[-1].detail)
    expect(page.locator("#decisions li").first).to_contain_text("→")
    page.get_by_label("show holds").check()
    expect(page.locator("#decisions")).to_contain_text("no change")


def test_another_theme_recolours_what_is_drawn(page: Page) -> None:
    line = page.locator("#figure-cores .plot .l").last
    before = line.evaluate("node => getComputedStyle(node).stroke")
    page.emulate_media(color_scheme="dark")
    assert line.evaluate("node => getComputedStyle(node).stroke") != before
