"""The page's Experiments in a real Chromium: started, watched, cancelled and forgotten there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from ipa.bootstrap.service import experiment_jobs
from tests.fakes.browsing import PHONE, opened, serious, serving
from tests.fakes.services import FakeClock, FakeWorld
from tests.fakes.viewed import viewed

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
# Longer than a test waits for anything else: a process starts, and imports.
RUN_MS = 60_000


@pytest.fixture
def url() -> Iterator[str]:
    desk = experiment_jobs(FakeClock())
    with serving(viewed(FakeWorld(jobs=desk).play(20))) as url:
        yield url
    desk.close()


@pytest.fixture
def stuck() -> Iterator[str]:
    """Where no experiment comes to an end."""
    desk = experiment_jobs(FakeClock(), command=("sleep", "600"))
    with serving(viewed(FakeWorld(jobs=desk).play(20))) as url:
        yield url
    desk.close()


def fill(page: Page, **fields: str) -> None:
    page.locator("form details").evaluate("box => { box.open = true }")
    for name, value in fields.items():
        field = page.locator(f"form [name={name}]")
        if field.evaluate("field => field.tagName") == "SELECT":
            field.select_option(value)
        else:
            field.fill(value)


def test_it_starts_one_and_shows_what_came_of_it(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}#/experiments?policy=static") as page:
        expect(page.locator("#view")).to_contain_text("There is no experiment yet")
        fill(page, workload="steady_low", objective="frugal", minutes="1", times="0.5", seed="3")
        page.get_by_role("button", name="Start").press("Enter")
        expect(page).to_have_url(re.compile("#/experiments/."))
        shown = page.get_by_role("region", name="The experiment")
        expect(shown.get_by_role("heading").first).to_have_text("Done", timeout=RUN_MS)
        (found,) = httpx.get(f"{url}v1/experiments").json()["experiments"]
        assert found["asked"] == {
            "pipeline": "ocr",
            "workload": "steady_low",
            "policy": "static",
            "objective": "frugal",
            "minutes": 1.0,
            "times": 0.5,
            "seed": 3,
            "repeats": 1,
            "spacing": "poisson",
        }
        result = found["result"]
        expect(shown.get_by_role("term").filter(has_text=re.compile("^Seed$"))).to_be_visible()
        assert cells(page)["static"] == shown_figures(result)
        decided = page.get_by_role("region", name="What was decided").last.locator("tbody tr")
        expect(decided).to_have_count(len(result["decisions_by_reason"]))
        assert sorted(decided.locator("td").all_inner_texts()) == sorted(
            str(count) for count in result["decisions_by_reason"].values()
        )
        assert serious(page) == []
        keeps = page.get_by_role("group", name="The report")
        for name, ending in (("HTML", "html"), ("Markdown", "md"), ("JSON", "json")):
            with page.expect_download() as download:
                keeps.get_by_role("button", name=name).click()
            assert download.value.suggested_filename == f"experiment-{found['experiment_id']}.{ending}"
        with page.context.expect_page() as another:
            keeps.get_by_role("link", name="Open the report").click()
        report = another.value
        expect(
            report.get_by_role("heading", name="static on ocr under steady_low, 1 min, × 0.5")
        ).to_be_visible()
        # In an origin of its own, where no script runs and nothing can be asked for.
        assert report.evaluate("[self.origin, document.querySelectorAll('svg').length]") == ["null", 5]
        asked = report.evaluate("fetch('/v1/me').then(() => 'answered', () => 'refused')")
        assert asked == "refused"
        report.close()
        # Where scripts run, as those of the test.
        alone = page.context.new_page()
        alone.set_content(httpx.get(f"{url}{found['report'][1:]}").text)
        assert serious(alone) == []
        alone.close()
        page.get_by_role("button", name="Forget it").click()
        expect(page.locator("#view")).to_contain_text("There is no experiment yet")
        assert httpx.get(f"{url}v1/experiments").json()["experiments"] == []


def cells(page: Page) -> dict[str, list[str]]:
    """The cells of each run, of which what is under the figure is its difference."""
    rows = page.get_by_role("region", name="Runs side by side").locator("tbody tr")
    rows.first.wait_for(timeout=RUN_MS)
    return {row.locator("th").inner_text(): row.locator("td").all_inner_texts() for row in rows.all()}


def time_of(value_s: float) -> str:
    if value_s < 1:
        return f"{1000 * value_s:.1f} ms" if value_s < 0.01 else f"{1000 * value_s:.0f} ms"
    return f"{value_s:.2f} s"


def shown_figures(result: dict[str, Any], **halves: float) -> list[str]:
    """The figures as the table has them."""

    def both(name: str, show: Callable[[float], str], half: Callable[[float], str] | None = None) -> str:
        width = (half or show)(halves[name]) if name in halves else ""
        return show(result[name]) + (f" ± {width}" if re.search("[1-9]", width) else "")

    def count(value: float) -> str:
        return f"{value:.0f}" if value == int(value) else f"{value:.1f}"

    return [
        both("violation_ratio", lambda it: f"{100 - 100 * it:.2f} %", lambda it: f"{100 * it:.2f} %"),
        both("latency_p50_s", time_of),
        both("latency_p99_s", time_of),
        both("cores_mean", lambda it: f"{it:.2f}"),
        both("pas_mean", lambda it: f"{it:.3f}"),
        both("lost", count),
        both("changes", count),
    ]


def test_a_cluster_with_accelerators_is_asked_for_or_refused(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}#/experiments", allowed="422") as page:
        fill(page, minutes="1", accelerators="gpu")
        page.get_by_role("button", name="Start").click()
        expect(page.locator(".refusal")).to_contain_text(
            "'gpu' is not the name of a Kubernetes extended resource"
        )
        fill(page, accelerators="nvidia.com/gpu=many")
        page.get_by_role("button", name="Start").click()
        expect(page.locator(".refusal")).to_contain_text("/accelerators/nvidia.com~1gpu")
        fill(page, accelerators="nvidia.com/gpu=4, nvidia.com/mig-1g.5gb=0")
        page.get_by_role("button", name="Start").click()
        expect(page).to_have_url(re.compile("#/experiments/."))
        (found,) = httpx.get(f"{url}v1/experiments").json()["experiments"]
        assert found["asked"]["accelerators"] == {"nvidia.com/gpu": 4, "nvidia.com/mig-1g.5gb": 0}


def test_one_of_several_seeds_shows_how_sure_its_figures_are(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}#/experiments") as page:
        expect(page.get_by_label("Seeds")).to_have_value("1")
        page.get_by_label("static").uncheck()
        fill(page, workload="bursty", minutes="2", times="0.5", seed="4", repeats="3")
        page.get_by_role("button", name="Start").click()
        shown = page.get_by_role("region", name="The experiment")
        expect(shown.get_by_role("heading").first).to_have_text("Done", timeout=RUN_MS)
        (found,) = httpx.get(f"{url}v1/experiments").json()["experiments"]
        assert (found["asked"]["seed"], found["asked"]["repeats"]) == (4, 3)
        result, halves = found["result"], found["result"]["intervals"]
        assert halves["cores_mean"] > 0 and halves["requests"] > 0
        seeds = shown.locator("dl > div").filter(has=page.get_by_role("term").filter(has_text="Seeds"))
        expect(seeds.get_by_role("definition")).to_have_text("4 to 6")
        assert cells(page) == {"ours": shown_figures(result, **halves)}
        assert serious(page) == []
        with page.context.expect_page() as another:
            page.get_by_role("link", name="Open the report").click()
        report = another.value
        expect(report.locator("p.lead")).to_contain_text("3 seeds (4 to 6)")
        expect(report.get_by_role("table").filter(has_text="p99.9")).to_be_visible()
        report.close()
        alone = page.context.new_page()
        alone.set_content(httpx.get(f"{url}{found['report'][1:]}").text)
        assert serious(alone) == []
        alone.close()


def test_policies_side_by_side_and_experiments_compared(browser: Browser, url: str) -> None:
    body = {"pipeline": "ocr", "workload": "bursty", "minutes": 2, "seed": 1}
    asked = [{**body, "policies": ["ours", "static"], "repeats": 2}, {**body, "policy": "ours", "times": 0.5}]
    ids = [httpx.post(f"{url}v1/experiments", json=each).json()["experiment_id"] for each in asked]
    with opened(browser, f"{url}#/experiments/{ids[0]}") as page:
        rows = cells(page)
        found = httpx.get(f"{url}v1/experiments/{ids[0]}").json()
        for each in found["policies"]:
            figures = shown_figures(each["result"], **each["result"]["intervals"])
            assert [cell.split("\n")[0] for cell in rows[each["policy"]]] == figures
        other = found["policies"][1]["difference"]["cores_mean"]
        assert re.match(r"[−+]?[\d.]+", rows["static"][3].split("\n")[1])[0] == (  # type: ignore[index]
            f"{other['value']:+.2f}".replace("-", "−").rstrip("0").rstrip(".")
        )
        curves = httpx.get(f"{url}v1/experiments/{ids[0]}/curves").json()["runs"]
        for figure, names in (
            ("load", ["sent"]),
            ("latency", ["ours", "static", "SLA, 900 ms"]),
            ("cores", ["ours", "static"]),
        ):
            expect(page.locator(f"#figure-{figure} .legend > span")).to_have_text(names)
        page.locator("#figure-cores").get_by_role("button", name="Table").click()
        shown = page.locator("#figure-cores tbody tr").last.locator("td").all_inner_texts()
        assert shown[1:] == [f"{run['curves']['cores'][-1]:g}" for run in curves]
        with page.context.expect_page() as another:
            page.get_by_role("link", name="Open the report").click()
        report = another.value
        expect(report.locator("body")).to_contain_text("Differences from ours under the same requests")
        report.close()
        assert serious(page) == []
        page.get_by_role("link", name="All experiments").click()
        expect(page.get_by_role("button", name="Compare")).to_be_disabled()
        boxes = page.get_by_role("checkbox", name="Compare ocr")
        expect(boxes).to_have_count(2)
        expect(boxes.first).to_be_enabled(timeout=RUN_MS)
        for box in boxes.all():
            box.check()
        page.get_by_role("button", name="Compare").click()
        expect(page).to_have_url(re.compile("experiments/compare"))
        assert list(cells(page)) == [
            "ours · bursty, 2 min, × 0.5",
            "ours · bursty, 2 min",
            "static · bursty, 2 min",
        ]
        expect(page.locator("#figure-load .legend > span")).to_have_count(2)
        assert serious(page) == []
    with opened(browser, f"{url}#/experiments/{ids[0]}", width=PHONE, color_scheme="dark") as page:
        cells(page)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        assert serious(page) == []


def test_one_that_runs_is_cancelled_there(browser: Browser, stuck: str) -> None:
    with opened(browser, f"{stuck}#/experiments", width=PHONE) as page:
        page.get_by_role("button", name="Start").click()
        shown = page.get_by_role("region", name="The experiment")
        expect(shown.get_by_role("progressbar")).to_be_visible()
        shown.get_by_role("button", name="Cancel").click()
        expect(shown.get_by_role("heading").first).to_have_text("Cancelled")
        page.get_by_role("link", name="All experiments").click()
        rows = page.get_by_role("region", name="Experiments", exact=True).locator("tbody tr")
        expect(rows).to_have_count(1)
        expect(rows).to_contain_text("cancelled")
        assert serious(page) == []


def test_the_list_follows_and_cancels(browser: Browser, stuck: str) -> None:
    with opened(browser, f"{stuck}#/experiments") as page:
        body = {"pipeline": "ocr", "workload": "bursty", "minutes": 5}
        for _ in range(2):
            httpx.post(f"{stuck}v1/experiments", json=body).raise_for_status()
        rows = page.get_by_role("region", name="Experiments", exact=True).locator("tbody tr")
        expect(rows).to_have_count(2)
        expect(rows.first).to_contain_text("bursty, 5 min")
        rows.first.get_by_role("button", name="Cancel").click()
        expect(rows.first).to_contain_text("cancelled")


def test_what_the_service_refuses_is_said(browser: Browser, stuck: str) -> None:
    with opened(browser, f"{stuck}#/experiments", allowed="422") as page:
        fill(page, times="999999", workload="steady_high", minutes="20")
        page.get_by_role("button", name="Start").click()
        expect(page.locator("#view").get_by_role("alert")).to_contain_text("/times")
        expect(page).to_have_url(f"{stuck}#/experiments")


def test_one_that_is_not_there_is_said(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}#/experiments/nope", allowed="404") as page:
        expect(page.locator("#view")).to_contain_text("there is no experiment 'nope'")
