"""The page's Experiments in a real Chromium: started, watched, cancelled and forgotten there."""

from __future__ import annotations

import re
from collections.abc import Iterator

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
        expect(shown).not_to_contain_text("±")
        expect(shown).to_contain_text(f"{result['pas_mean']:.4f}")
        expect(shown).to_contain_text(f"{result['cores_mean']:.2f}")
        expect(shown).to_contain_text(f"{100 * result['violation_ratio']:.2f} % of {result['requests']}")
        figure = page.locator("#figure-reasons")
        figure.get_by_role("button", name="Table").click()
        for count in result["decisions_by_reason"].values():
            expect(figure.get_by_role("cell", name=str(count), exact=True).first).to_be_visible()
        assert serious(page) == []
        keeps = page.get_by_role("group", name="The report")
        for name, ending in (("HTML", "html"), ("Markdown", "md"), ("JSON", "json")):
            with page.expect_download() as download:
                keeps.get_by_role("button", name=name).click()
            assert download.value.suggested_filename == f"experiment-{found['experiment_id']}.{ending}"
        with page.context.expect_page() as another:
            keeps.get_by_role("link", name="Open the report").click()
        report = another.value
        expect(report.get_by_role("heading", name="ocr under steady_low, 1 min, × 0.5")).to_be_visible()
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
        fill(page, workload="bursty", minutes="2", times="0.5", seed="4", repeats="3")
        page.get_by_role("button", name="Start").click()
        shown = page.get_by_role("region", name="The experiment")
        expect(shown.get_by_role("heading").first).to_have_text("Done", timeout=RUN_MS)
        (found,) = httpx.get(f"{url}v1/experiments").json()["experiments"]
        assert (found["asked"]["seed"], found["asked"]["repeats"]) == (4, 3)
        result, halves = found["result"], found["result"]["intervals"]

        def value_of(term: str) -> str:
            of = shown.locator("dl > div").filter(has=page.get_by_role("term").filter(has_text=term))
            return of.get_by_role("definition").inner_text()

        def both(name: str, form: str, scale: float = 1) -> str:
            return f"{scale * result[name]:{form}} ± {scale * halves[name]:{form}}"

        assert halves["cores_mean"] > 0 and halves["requests"] > 0
        assert value_of("Seeds") == "4 to 6"
        assert value_of("Accuracy of a request") == both("pas_mean", ".4f")
        assert value_of("Cores, mean") == both("cores_mean", ".2f")
        late = both("violation_ratio", ".2f", 100)
        assert value_of("Late or lost") == f"{late} % of {both('requests', '.1f')}"
        assert value_of("Changes") == both("changes", ".1f")
        assert re.fullmatch(r"[\d.]+ m?s ± [\d.]+ m?s", value_of("Latency p50"))
        assert re.match(r"[\d.]+ m?s ± [\d.]+ m?s SLA", value_of("Latency p99"))
        assert serious(page) == []
        with page.context.expect_page() as another:
            page.get_by_role("link", name="Open the report").click()
        report = another.value
        expect(report.locator("p.lead")).to_contain_text("3 seeds (4 to 6)")
        expect(report.get_by_role("heading", name="By seed")).to_be_visible()
        report.close()
        alone = page.context.new_page()
        alone.set_content(httpx.get(f"{url}{found['report'][1:]}").text)
        assert serious(alone) == []
        alone.close()


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
