"""Measured batches on Now: where a request's time goes, and which variants answered."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
from playwright.sync_api import Browser, expect

from ipa.control.loop.snapshot import Snapshot
from ipa.model.observation import NOT_ASKED, Batches, Measured
from tests.fakes.browsing import DESK, PHONE, opened, serious, serving, shoot
from tests.fakes.services import FakeWorld

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
SERVICE_S = 0.05


class BatchesWorld(FakeWorld):
    """The batches of the first stage are measured, those of others are not."""

    def snapshot(self) -> Snapshot:
        found = super().snapshot()
        assert found.observation is not None
        first, *others = found.observation.stages
        seen = replace(first, latency_s=Measured(0.18), batches=Measured(Batches(40.0, SERVICE_S, 2.0, 10.0)))
        unseen = [replace(stage, batches=NOT_ASKED) for stage in others]
        return replace(found, observation=replace(found.observation, stages=(seen, *unseen)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [DESK, PHONE])
def test_the_time_of_a_stage_is_told_as_wait_and_model(browser: Browser, width: int, scheme: str) -> None:
    with (
        serving(BatchesWorld().play(20).services()) as address,
        opened(browser, f"{address}#/now/ocr", width=width, color_scheme=scheme) as page,
    ):
        card = page.locator("#time-spent")
        expect(card.locator("li").first).to_contain_text("130 ms waiting, 50 ms in the model")
        expect(card.locator("li").nth(1)).not_to_contain_text("waiting")
        expect(card.locator("li").last).to_contain_text("whole request")
        expect(card).to_contain_text("ipa probe ocr")
        assert card.evaluate("node => node.scrollWidth <= node.clientWidth")
        assert serious(page) == []
        shoot(page, f"time-spent-{width}-{scheme}")


class VariantsWorld(FakeWorld):
    """A tenth of the first stage's items is answered by a variant that does not run."""

    def snapshot(self) -> Snapshot:
        found = super().snapshot()
        assert found.observation is not None
        first, *others = found.observation.stages
        assert isinstance(first.running, Measured)
        runs = first.running.value.variant
        other = "v4-320" if runs != "v4-320" else "v4-640"
        seen = replace(first, served=((runs, 0.9), (other, 0.1)))
        return replace(found, observation=replace(found.observation, stages=(seen, *others)))


@pytest.mark.parametrize("width", [DESK, PHONE])
def test_a_stage_tells_which_variants_answered(browser: Browser, width: int) -> None:
    with (
        serving(VariantsWorld().play(20).services()) as address,
        opened(browser, f"{address}#/now/ocr", width=width) as page,
    ):
        live = httpx.get(f"{address}v1/pipelines/ocr/status", trust_env=False).json()["live"]
        first = page.locator("article.stage").first
        shares = [f"{it['variant']} ({100 * it['share_ratio']:g} %)" for it in live["stages"][0]["served"]]
        expect(first.locator(".runs")).to_contain_text(f"answered by {', '.join(shares)}")
        expect(first).to_contain_text(f"{live['stages'][0]['served_accuracy']:.3f} as answered")
        expect(page.locator("#figures")).to_contain_text(f"{live['served_pas']:.3f} as answered")
        assert page.locator("article.stage").nth(1).get_by_text("answered by").count() == 0
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert serious(page) == []
        shoot(page, f"answered-{width}")


def test_nothing_is_told_while_no_stage_has_answered(browser: Browser) -> None:
    with serving(FakeWorld().services()) as address, opened(browser, f"{address}#/now/ocr") as page:
        expect(page.locator("#time-spent")).to_be_empty()
