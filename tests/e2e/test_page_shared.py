"""The page of a pipeline whose load is shared: its parts, and a canary's measurement."""

from __future__ import annotations

from dataclasses import replace

import pytest
from playwright.sync_api import Browser, expect

from ipa.control.engine.canary import CanaryTrial, EndedCount
from ipa.control.loop.snapshot import Snapshot
from ipa.model.observation import Attainment, Measured, PartObservation, StageObservation
from ipa.model.parts import in_order, with_share
from ipa.model.pipeline import Canary
from ipa.model.plan import StageConfig
from tests.fakes.browsing import DESK, PHONE, opened, serious, serving, shoot
from tests.fakes.services import FakeWorld, a_pipeline, over

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
SLOWER = StageConfig("recognise", "v6-320", 8, 0.5, 1)


class SharedWorld(FakeWorld):
    """Runs a second configuration beside the first, under trial if it has a small share."""

    percent = 40

    def snapshot(self) -> Snapshot:
        found = super().snapshot()
        observation = found.observation
        assert observation is not None
        running = observation.running()
        assert running is not None
        detect, _ = running
        canary = with_share((replace(detect, replicas=1), SLOWER), self.percent)
        row = in_order([with_share(running, 100 - self.percent), canary])
        seen = [
            PartObservation(Measured(0.21), Measured(Attainment(570.0, 0.995, 30.0))),
            PartObservation(Measured(0.64), Measured(Attainment(30.0, 0.967, 30.0))),
        ]
        first = observation.stages[0]
        stages = [_stage(first, config) for config in row]
        trial = CanaryTrial(
            canary, with_share(canary, 100), 0.0, 60.0, 60.0, EndedCount(61, 2, 1), EndedCount(1100, 6)
        )
        return replace(
            found,
            observation=replace(observation, stages=tuple(stages), parts=tuple(seen)),
            trial=replace(trial, latency_s=0.64) if self.percent <= 5 else None,
        )


def _stage(like: StageObservation, config: StageConfig) -> StageObservation:
    ready = Measured(config.replicas)
    return replace(like, stage=config.stage, running=Measured(config), ready_replicas=ready)


@pytest.mark.parametrize(("look", "percent"), [("light", 40), ("dark", 5), ("phone", 5)])
def test_parts_and_canary_are_on_the_page(browser: Browser, look: str, percent: int) -> None:
    world = SharedWorld()
    world.percent = percent
    pipeline = replace(a_pipeline(), canary=Canary(5, 120.0))
    services = over(world.play(30).services(), pipelines={"ocr": pipeline})
    width, scheme = PHONE if look == "phone" else DESK, "dark" if look == "dark" else "light"
    with (
        serving(services) as url,
        opened(browser, f"{url}#/now/ocr", width=width, color_scheme=scheme) as page,
    ):
        shared = page.locator(".shared")
        rows = shared.locator("tbody tr")
        expect(rows).to_have_count(2)
        expect(rows.nth(0)).to_contain_text(f"{100 - percent} %")
        expect(rows.nth(1)).to_contain_text("640 ms")
        if percent == 5:
            expect(rows.nth(1)).to_contain_text("canary")
            expect(shared.locator(".trial")).to_contain_text("5 % of the requests, measured for 60 of 120 s")
            expect(shared.locator(".trial")).to_contain_text("96.7 % of its 61 requests in time, 1 failed")
        else:
            expect(shared.locator(".trial")).to_have_count(0)
        assert serious(page) == []
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        shoot(page, f"shared-{percent}-{look}")


def test_one_configuration_alone_has_no_such_section(browser: Browser) -> None:
    with serving(FakeWorld().play(5).services()) as url, opened(browser, f"{url}#/now/ocr") as page:
        expect(page.locator("#stages .stage, .stage").first).to_be_visible()
        expect(page.locator(".shared")).to_have_count(0)
