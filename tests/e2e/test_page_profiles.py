"""The page's Profiles in a real Chromium: points and fits are those of the API."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import replace
from io import StringIO
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from ipa.model.pipeline import Sla
from tests.fakes.browsing import PHONE, opened, serious, serving
from tests.fakes.services import FakeWorld, over
from tests.fakes.viewed import CORES, PROFILES, viewed

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(viewed(FakeWorld().play(20))) as url:
        yield url


def numbers(page: Page, figure: str, folder: Path) -> list[list[str]]:
    """The figure's CSV, without its heading."""
    with page.expect_download() as download:
        page.locator(f"#figure-{figure}").get_by_role("button", name="CSV").click()
    download.value.save_as(folder / "figure.csv")
    return list(csv.reader(StringIO((folder / "figure.csv").read_text())))


def test_the_figure_has_every_measured_point_and_the_fit(browser: Browser, url: str, tmp_path: Path) -> None:
    with opened(browser, f"{url}#/profiles/ocr/detect?variant=v4-480") as page:
        head, *rows = numbers(page, "over-batch", tmp_path)
        table = {name: at for at, name in enumerate(head)}
        for point in PROFILES["detect"].variant("v4-480").points:
            name = next(name for name in table if name.startswith(f"measured on {point.cores:g} core"))
            shown = {float(row[0]): row[table[name]] for row in rows if row[table[name]]}
            assert float(shown[point.batch_size]) == pytest.approx(1000 * point.latency_s)
        fits = httpx.get(f"{url}v1/pipelines/ocr/profiles/detect/fits").json()["variants"]
        for fit in next(each for each in fits if each["variant"] == "v4-480")["fits"]:
            name = next(name for name in table if name.startswith(f"fit on {fit['cores']:g} core"))
            shown = {float(row[0]): row[table[name]] for row in rows if row[table[name]]}
            first, last = (fit["latencies_s"][at] for at in (0, -1))
            assert float(shown[fit["batch_min"]]) == pytest.approx(1000 * first)
            assert float(shown[fit["batch_max"]]) == pytest.approx(1000 * last)


def test_residuals_are_how_far_the_fit_is_from_the_points(browser: Browser, url: str, tmp_path: Path) -> None:
    fits = httpx.get(f"{url}v1/pipelines/ocr/profiles/detect/fits").json()["variants"]
    worst = max(fit["max_error_ratio"] for fit in fits[-1]["fits"])
    with opened(browser, f"{url}#/profiles/ocr/detect?variant={fits[-1]['variant']}") as page:
        _, *rows = numbers(page, "residuals", tmp_path)
        shown = [abs(float(cell)) for row in rows for cell in row[1:] if cell]
        assert len(shown) == sum(len(fit["batch_sizes"]) for fit in fits[-1]["fits"])
        assert max(shown) == pytest.approx(100 * worst)


def test_the_tables_are_of_the_chosen_variant_and_stage(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}#/profiles/ocr") as page:
        expect(page.get_by_role("region", name="Where it was measured")).to_contain_text("2026-11-24")
        fits = page.get_by_role("region", name="Fits of v4-320").locator("tbody tr")
        expect(fits).to_have_count(len(CORES))
        page.get_by_role("combobox", name="Variant").select_option("v4-640")
        expect(page.get_by_role("region", name="Fits of v4-640")).to_be_visible()
        expect(page).to_have_url(re.compile("variant=v4-640"))
        page.get_by_role("navigation", name="Stages").get_by_role("link", name="recognise").press("Enter")
        rows = page.get_by_role("region", name="Variants", exact=True).locator("tbody tr")
        expect(rows).to_have_count(3)
        for at, variant in enumerate(PROFILES["recognise"].variants):
            expect(rows.nth(at)).to_contain_text(variant.variant)
            expect(rows.nth(at).locator("td").first).to_have_text(f"{variant.accuracy:.3f}")


def test_where_it_was_measured_is_one_sentence_and_points_are_named(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}#/profiles/ocr/detect") as page:
        origin = page.get_by_role("region", name="Where it was measured")
        expect(origin.get_by_role("paragraph")).to_have_count(1)
        expect(origin).to_contain_text("4 variants measured at 48 points")
        expect(origin).to_contain_text("2 cores; the worst fit is off by")
        expect(origin.get_by_text("Method")).to_be_hidden()
        origin.get_by_text("How it was measured").click()
        expect(origin.get_by_text("Method")).to_be_visible()
        labels = page.locator("#figure-trade .point-label")
        expect(labels).to_have_text([variant.variant for variant in PROFILES["detect"].variants])
        boxes = [label.bounding_box() for label in labels.all()]
        for at, one in enumerate(boxes):
            for other in boxes[:at]:
                assert one and other
                beside = one["x"] >= other["x"] + other["width"] or other["x"] >= one["x"] + one["width"]
                assert beside or abs(one["y"] - other["y"]) >= 10
        assert serious(page) == []


def test_the_axis_ends_at_the_sla_where_latencies_are_beyond(browser: Browser) -> None:
    context = viewed(FakeWorld().play(20))
    pipeline = replace(context.service.pipelines["ocr"], sla=Sla(0.1))
    with serving(over(context, pipelines={"ocr": pipeline}, profiles=PROFILES)) as url:
        assert max(point.latency_s for point in PROFILES["detect"].variant("v4-640").points) > 0.5
        with opened(browser, f"{url}#/profiles/ocr/detect?variant=v4-640") as page:
            figure = page.locator("#figure-over-batch")
            expect(figure.locator(".plot .limit")).to_have_count(1)
            ticks = [
                float(text)
                for text in figure.locator(".plot text[text-anchor=end]").all_text_contents()
                if text.isdigit()
            ]
            assert max(ticks) <= 115
        with opened(browser, f"{url}#/profiles/ocr/detect?variant=v4-320&batch=1") as page:
            # Those of the slower variants come near.
            expect(page.locator("#figure-over-cores .legend")).to_contain_text("SLA")


def test_a_link_restores_variant_and_batch(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}#/profiles/ocr/detect?variant=v6-320&batch=4", width=PHONE) as page:
        expect(page.get_by_role("combobox", name="Variant")).to_have_value("v6-320")
        expect(page.get_by_role("combobox", name="Batch")).to_have_value("4")
        expect(page.locator("#figure-over-cores")).to_contain_text("batches of 4")
        assert serious(page) == []


def test_a_stage_that_is_not_there_names_those_that_are(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}#/profiles/ocr/nope") as page:
        expect(page.locator("#view")).to_contain_text("no stage nope")
        page.locator("#view").get_by_role("link", name="recognise").click()
        expect(page.get_by_role("region", name="Fits of v4-160")).to_be_visible()


def test_a_profile_that_cannot_be_believed_is_told_on_profiles_and_now(browser: Browser) -> None:
    detect = PROFILES["detect"]
    beside = [
        replace(it, points=tuple(replace(point, foreign_cpu_ratio=0.4) for point in it.points))
        for it in detect.variants
    ]
    profiles = {**PROFILES, "detect": replace(detect, variants=tuple(beside))}
    words = "ther work used up to 40% of the CPUs while"
    with serving(over(viewed(FakeWorld().play(20)), profiles=profiles)) as url:
        with opened(browser, f"{url}#/profiles/ocr/detect") as page:
            expect(page.locator(".banner.warn")).to_contain_text(f"Not credibleO{words}")
            expect(page.locator(".banner.warn")).to_contain_text(
                ". Measure it on a quiet machine: ipa profile "
            )
            expect(page.locator(".banner.warn code")).to_have_text("ipa profile ocr -s detect --write")
            assert serious(page) == []
            page.goto(f"{url}#/profiles/ocr/recognise")
            expect(page.locator(".banner.warn")).to_have_count(0)
        for mode, place in (("advisory", "p.note"), ("active", ".banner.warn")):
            httpx.put(f"{url}v1/pipelines/ocr/mode", json={"mode": mode}).raise_for_status()
            with opened(browser, f"{url}#/now/ocr", width=PHONE) as page:
                expect(page.locator(f"#edit {place}")).to_contain_text(f"is not credible: o{words}")
