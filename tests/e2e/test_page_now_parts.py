"""The parts of Now that are there where there is something to tell: a shared load, times, variants."""

from __future__ import annotations

from dataclasses import replace

import httpx
import pytest
from playwright.sync_api import Browser, expect

from ipa.control.engine.canary import CanaryTrial, EndedCount
from ipa.control.loop.snapshot import Snapshot
from ipa.model.observation import (
    NOT_ASKED,
    Attainment,
    Batches,
    Measured,
    PartObservation,
    StageObservation,
)
from ipa.model.parts import in_order, with_share
from ipa.model.pipeline import Canary
from ipa.model.plan import StageConfig
from ipa.profiling.measured_accuracy import Feedback, MeasuredAccuracy
from tests.fakes.browsing import LOOKS, opened, serious, serving, shoot
from tests.fakes.services import FakeWorld, a_pipeline, over

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
SERVICE_S = 0.05
SLOWER = StageConfig("recognise", "v6-320", 8, 0.5, 1)


class SharedWorld(FakeWorld):
    """Runs a second configuration beside the first, under trial if it has a small share."""

    percent = 40

    def snapshot(self) -> Snapshot:
        snapshot = super().snapshot()
        observation = snapshot.observation
        assert observation is not None
        running = observation.running()
        assert running is not None
        detect, _ = running
        canary = with_share((replace(detect, replicas=1), SLOWER), self.percent)
        row = in_order([with_share(running, 100 - self.percent), canary])
        parts = [
            PartObservation(Measured(0.21), Measured(Attainment(570.0, 0.995, 30.0))),
            PartObservation(Measured(0.64), Measured(Attainment(30.0, 0.967, 30.0))),
        ]
        first = observation.stages[0]
        stages = [_stage(first, config) for config in row]
        trial = CanaryTrial(
            canary, with_share(canary, 100), 0.0, 60.0, 60.0, EndedCount(61, 2, 1), EndedCount(1100, 6)
        )
        return replace(
            snapshot,
            observation=replace(observation, stages=tuple(stages), parts=tuple(parts)),
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
    with serving(services) as url, opened(browser, f"{url}#/now/ocr", **LOOKS[look]) as page:
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
        shoot(page, f"shared-{percent}-{look}")


class BatchesWorld(FakeWorld):
    """The batches of the first stage are measured, those of others are not."""

    def snapshot(self) -> Snapshot:
        snapshot = super().snapshot()
        assert snapshot.observation is not None
        first, *others = snapshot.observation.stages
        shown = replace(
            first, latency_s=Measured(0.18), batches=Measured(Batches(40.0, SERVICE_S, 2.0, 10.0))
        )
        unseen = [replace(stage, batches=NOT_ASKED) for stage in others]
        return replace(snapshot, observation=replace(snapshot.observation, stages=(shown, *unseen)))


@pytest.mark.parametrize("look", LOOKS)
def test_the_time_of_a_stage_is_told_as_wait_and_model(browser: Browser, look: str) -> None:
    services = BatchesWorld().play(20).services()
    with serving(services) as address, opened(browser, f"{address}#/now/ocr", **LOOKS[look]) as page:
        card = page.locator("#time-spent")
        expect(card.locator("li").first).to_contain_text("130 ms waiting, 50 ms in the model")
        expect(card.locator("li").nth(1)).not_to_contain_text("waiting")
        expect(card.locator("li").last).to_contain_text("whole request")
        expect(card).to_contain_text("ipa probe ocr")
        assert card.evaluate("node => node.scrollWidth <= node.clientWidth")
        assert serious(page) == []
        shoot(page, f"time-spent-{look}")


class VariantsWorld(FakeWorld):
    """Another variant answers a tenth of the first stage's items; of the running one's, half are right."""

    def snapshot(self) -> Snapshot:
        snapshot = super().snapshot()
        assert snapshot.observation is not None
        first, *others = snapshot.observation.stages
        assert isinstance(first.running, Measured)
        runs = first.running.value.variant
        other = "v4-320" if runs != "v4-320" else "v4-640"
        shown = replace(first, served=((runs, 0.9), (other, 0.1)))
        observation = replace(snapshot.observation, stages=(shown, *others))
        judged = MeasuredAccuracy(first.stage, runs, 0.9).with_feedback(Feedback(n % 2) for n in range(400))
        correction = replace(snapshot.correction, accuracies=(judged,))
        return replace(snapshot, observation=observation, correction=correction)


@pytest.mark.parametrize("look", LOOKS)
def test_a_stage_tells_which_variants_answered_and_how_accurately(browser: Browser, look: str) -> None:
    services = VariantsWorld().play(20).services()
    with serving(services) as address, opened(browser, f"{address}#/now/ocr", **LOOKS[look]) as page:
        live = httpx.get(f"{address}v1/pipelines/ocr/status", trust_env=False).json()["live"]
        first = page.locator("article.stage").first
        shares = [f"{it['variant']} ({100 * it['share_ratio']:g} %)" for it in live["stages"][0]["served"]]
        expect(first.locator(".runs")).to_contain_text(f"answered by {', '.join(shares)}")
        expect(first).to_contain_text(f"{live['stages'][0]['served_accuracy']:.3f} as answered")
        expect(page.locator("#figures")).to_contain_text(f"{live['served_pas']:.3f} as answered")
        low, high = live["measured_pas"]
        expect(page.locator("#figures")).to_contain_text(f"{low:.3f} to {high:.3f} measured")
        (judged,) = live["stages"][0]["measured"]
        bounds = f"{judged['lower']:.3f} to {judged['upper']:.3f} {judged['variant']}, 400 labels"
        expect(first).to_contain_text(f"{bounds}; 0.900 by its profile")
        assert page.locator("article.stage").nth(1).get_by_text("answered by").count() == 0
        expect(page.locator("article.stage").nth(1)).not_to_contain_text("labels")
        assert serious(page) == []
        shoot(page, f"answered-{look}")


def test_what_is_not_there_has_no_part(browser: Browser) -> None:
    with serving(FakeWorld().services()) as address, opened(browser, f"{address}#/now/ocr") as page:
        expect(page.locator("#time-spent")).to_be_empty()
        expect(page.locator(".shared")).to_have_count(0)
