"""The card of Now that tells where a request's time goes."""

from __future__ import annotations

from dataclasses import replace

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


def test_nothing_is_told_while_no_stage_has_answered(browser: Browser) -> None:
    with serving(FakeWorld().services()) as address, opened(browser, f"{address}#/now/ocr") as page:
        expect(page.locator("#time-spent")).to_be_empty()
