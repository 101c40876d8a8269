"""The page's Decision in a real Chromium: what it shows is what the API says of that decision."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from ipa.model.decision import Action, Decision, ReasonCode
from ipa.model.resources import Resources
from tests.fakes.browsing import PHONE, opened, serious, serving
from tests.fakes.services import GPU, FakeWorld
from tests.fakes.viewed import viewed

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
REASONS = re.compile(r"^  \"([a-z._]+)\": \"(.*)\",$", re.MULTILINE)


def change(world: FakeWorld) -> Decision:
    """A decision that switched a variant."""
    return next(it for it in reversed(world.recorded) if it.reason is ReasonCode.SWITCH_VARIANT)


def region(page: Page, name: str) -> Any:
    return page.get_by_role("region", name=name, exact=True)


def test_what_when_why_and_from_what_to_what(browser: Browser, url: str, world: FakeWorld) -> None:
    decision = change(world)
    with opened(browser, f"{url}#/decision/{decision.decision_id}") as page:
        section = region(page, "The decision")
        expect(section.get_by_role("heading")).to_have_text("Applied: switch variant")
        expect(section).to_contain_text(decision.detail)
        expect(section.locator("time")).to_have_attribute("datetime", decision.at)
        section.locator("summary").click()
        expect(section).to_contain_text("at least one stage runs another variant")
        rows = region(page, "The configuration of each stage before and after").locator("tbody tr")
        pairs = list(zip(decision.previous, decision.configs, strict=True))
        assert any(old.variant != new.variant for old, new in pairs)
        for at, (old, new) in enumerate(pairs):
            cell = rows.nth(at).locator("td").first
            text = new.variant if old.variant == new.variant else f"from {old.variant} → to {new.variant}"
            expect(cell).to_have_text(text)
        expect(region(page, "From and to")).to_contain_text("no guard changed it")


def test_the_inputs_are_those_of_the_decision(browser: Browser, url: str, world: FakeWorld) -> None:
    decision = change(world)
    assert decision.forecast is not None and decision.plan is not None
    observation = {
        "arrival_rate_rps": {"value": 7.5, "age_s": 2.5},
        "latency_s": {"value": 0.4, "age_s": 1.0},
    }
    inputs = json.dumps({"observation": observation})
    world.recorded[world.recorded.index(decision)] = replace(
        decision, inputs=inputs, inputs_digest="abcdef" * 8
    )
    with opened(browser, f"{url}#/decision/{decision.decision_id}") as page:
        inputs_shown = region(page, "Inputs")
        forecast = decision.forecast
        expect(inputs_shown).to_contain_text(f"{decision.observed_rate_rps:.2f} rps 2.5 s old")
        expect(inputs_shown).to_contain_text(
            f"{forecast.point_rps:.1f} to {forecast.upper_rps:.1f} rps (95 %)"
        )
        expect(inputs_shown).to_contain_text(f"{decision.plan.rate_rps:.2f} rps within 900 ms")
        expect(inputs_shown).to_contain_text(f"{decision.plan.solver} in")
        expect(inputs_shown).to_contain_text("abcdef" * 2)


def test_the_plan_has_all_its_resources(browser: Browser, url: str, world: FakeWorld) -> None:
    decision = change(world)
    assert decision.plan is not None
    first, *rest = decision.plan.stages
    fitted = replace(first, replicas=2, beside=Resources(0, 1.5, accelerators={GPU: 1}))
    plan = replace(decision.plan, stages=(fitted, *rest))
    world.recorded[world.recorded.index(decision)] = replace(decision, plan=plan)
    with opened(browser, f"{url}#/decision/{decision.decision_id}") as page:
        expect(region(page, "Inputs")).to_contain_text(f"{plan.cost_cores:g} cores, 3 GiB, 2 {GPU}, ")


def rounded(text: str) -> str:
    """A sentence of the service as people read it: three digits, true minus signs."""
    shown = re.sub(r"(?<![\w.])\d+\.\d{3,}", lambda it: f"{float(it[0]):.3g}", text)
    return re.sub(r"(?<=[\s(])-(?=\d)", "−", shown)


def test_why_that_plan_is_the_explanation_of_the_api(browser: Browser, url: str, world: FakeWorld) -> None:
    decision = change(world)
    assert decision.plan is not None
    body = {"rate_rps": decision.plan.rate_rps, "objective": "default", "sla_s": decision.plan.sla_s}
    wanted = httpx.post(f"{url}v1/pipelines/ocr/explanations", json=body, timeout=30).json()
    with opened(browser, f"{url}#/decision/{decision.decision_id}") as page:
        why = region(page, "Why this plan")
        expect(why).to_contain_text(rounded(wanted["summary"]))
        for binding in wanted["binding"]:
            expect(why).to_contain_text(rounded(binding["text"]))
        rows = region(page, "Rejected alternatives").locator("tbody tr")
        expect(rows).to_have_count(min(len(wanted["alternatives"]), 3))
        for at, alternative in enumerate(wanted["alternatives"][:3]):
            cells = rows.nth(at).locator("td").all_inner_texts()
            numbers = [float(cell.split(" ")[0].replace("−", "-")) for cell in cells[:3]]
            assert numbers == pytest.approx(
                [
                    alternative["pas_change"],
                    alternative["cost_cores_change"],
                    1000 * alternative["latency_change_s"],
                ],
                abs=0.51,
            )
            assert numbers[0] == pytest.approx(alternative["pas_change"], abs=0.0006)


def test_before_and_after_lead_from_one_to_the_next(browser: Browser, url: str, world: FakeWorld) -> None:
    ids = [decision.decision_id for decision in world.recorded]
    at = ids.index(change(world).decision_id)
    with opened(browser, f"{url}#/decision/{ids[at]}") as page:

        def shows(position: int) -> None:
            # The address alone is there before the view is.
            expect(page).to_have_url(f"{url}#/decision/{ids[position]}")
            time = region(page, "The decision").locator("time")
            expect(time).to_have_attribute("datetime", world.recorded[position].at)

        page.get_by_role("link", name="Decision before").click()
        shows(at - 1)
        page.get_by_role("link", name="Decision after").press("Enter")
        shows(at)
        page.get_by_role("link", name="Newest").click()
        expect(page.get_by_text("Decision after →: none")).to_be_visible()
        expect(region(page, "The decision")).to_contain_text(str(world.recorded[-1].tick))


def test_the_newest_stays_and_says_what_came_since(browser: Browser, url: str, world: FakeWorld) -> None:
    with opened(browser, f"{url}#/decision/?pipeline=ocr") as page:
        section, newest = region(page, "The decision"), world.recorded[-1]
        expect(section).to_contain_text(newest.detail)
        world.metrics_fail = True
        world.tick()
        since = section.get_by_role("link", name=f"Holding: metrics missing, tick {world.recorded[-1].tick}")
        expect(since).to_be_visible()
        expect(section).to_contain_text(newest.detail)
        since.click()
        expect(page).to_have_url(f"{url}#/decision/{world.recorded[-1].decision_id}")
        expect(section).to_contain_text("Prometheus did not answer")
        expect(page.get_by_text("There is no plan to explain")).to_be_visible()


def test_a_hold_says_what_the_best_plan_was(browser: Browser, url: str, world: FakeWorld) -> None:
    hold = next(it for it in reversed(world.recorded) if it.reason is ReasonCode.STABILISING)
    assert hold.plan is not None and hold.plan.configs != hold.configs
    with opened(browser, f"{url}#/decision/{hold.decision_id}") as page:
        expect(region(page, "From and to")).to_contain_text("The best plan, before the guards")
        rows = region(page, "The decision and the best plan").locator("tbody tr")
        for at, config in enumerate(hold.plan.configs):
            expect(rows.nth(at)).to_contain_text(config.variant)


def test_all_of_it_can_be_kept(browser: Browser, url: str, world: FakeWorld, tmp_path: Path) -> None:
    decision = change(world)
    with opened(browser, f"{url}#/decision/{decision.decision_id}", permissions=["clipboard-write"]) as page:
        assert decision.plan is not None
        again = region(page, "Again")
        command = f"ipa explain ocr --rate {decision.plan.rate_rps!r} --objective default"
        expect(again.locator("code")).to_have_text([f"ipa replay ocr {decision.decision_id}", command])
        again.get_by_role("button", name="Copy The command that replays it").click()
        expect(again.get_by_role("button").first).to_contain_text("Copied")
        page.get_by_text("Everything, as JSON").click()
        with page.expect_download() as download:
            page.get_by_role("button", name="Save as JSON").click()
        download.value.save_as(tmp_path / "decision.json")
        wanted = httpx.get(f"{url}v1/decisions/{decision.decision_id}").json()
        assert json.loads((tmp_path / "decision.json").read_text()) == wanted
        assert json.loads(page.get_by_label("The decision as JSON").inner_text()) == wanted
        assert serious(page) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_read_on_a_phone(browser: Browser, url: str, world: FakeWorld, scheme: Any) -> None:
    address = f"{url}#/decision/{change(world).decision_id}"
    with opened(browser, address, width=PHONE, color_scheme=scheme) as page:
        expect(region(page, "Rejected alternatives")).to_be_visible()
        assert serious(page) == []


def test_one_that_is_not_there_is_said(browser: Browser, url: str) -> None:
    with opened(browser, f"{url}#/decision/nope", allowed="404") as page:
        expect(page.locator("#view")).to_contain_text("there is no decision 'nope'")


def test_before_the_first_tick_it_says_so(browser: Browser) -> None:
    with serving(viewed(FakeWorld())) as url, opened(browser, f"{url}#/decision/?pipeline=ocr") as page:
        expect(page.locator("#view")).to_contain_text("There is no decision yet")


def test_every_reason_has_its_meaning_as_the_documentation_has_it(root: Path) -> None:
    shown = dict(REASONS.findall((root / "ipa/api/page/reasons.js").read_text()))
    assert set(shown) == {reason.value for reason in ReasonCode}
    table = (root / "docs/reference/reasons.md").read_text()
    written = dict(re.findall(r"^\| `([a-z._]+)` \| ([^|]*) \|", table, re.MULTILINE))
    assert shown == {code: re.sub(r"\[([^]]+)\]\([^)]*\)|`", r"\1", written[code]).strip() for code in shown}
    assert {code for code in shown if code.startswith("apply.")} == {
        reason.value for reason in ReasonCode if reason.value.startswith(Action.APPLY.value)
    }
