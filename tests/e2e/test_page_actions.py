"""Changes by the page, in a real Chromium: for who may, once a dialog is confirmed, and their outcomes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, Request, Route, expect

from ipa.control.election import LeaderStatus
from ipa.control.ports import PipelineControl
from ipa.model.decision import Action, Mode, ReasonCode
from ipa.model.pipeline import Bounds
from tests.fakes.browsing import PHONE, opened, serious, serving
from tests.fakes.people import People, token
from tests.fakes.services import LADDER, FakeWorld, over
from tests.fakes.viewed import viewed

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]
WHAT_IF = "#/what-if/ocr?rate_rps=12"


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Page]:
    with opened(browser, f"{url}{WHAT_IF}") as page:
        yield page


def open_dialog(page: Page, button: str) -> Locator:
    """The dialog that this button opens, with the focus within."""
    expect(page.get_by_role("dialog")).to_have_count(0)
    opener = page.get_by_role("button", name=button)
    opener.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.locator(":focus")).to_have_count(1)
    return dialog


def confirm(dialog: Locator, button: str, why: str = "the campaign") -> None:
    dialog.get_by_label("Why?").fill(why)
    dialog.get_by_role("button", name=button).press("Enter")


def requested(world: FakeWorld) -> list[tuple[str, str]]:
    """Detail and reason of what people asked for."""
    return [(it.detail, it.reason) for it in world.recorded if it.reason is ReasonCode.REQUESTED]


def test_a_plan_is_applied_as_it_was_shown_with_who_and_why(page: Page, world: FakeWorld) -> None:
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request) if request.url.endswith(":apply") else None)
    dialog = open_dialog(page, "Apply …")
    rows = dialog.get_by_role("region", name="From the running configuration to the plan").locator("tbody tr")
    expect(rows.first).to_contain_text("from v4-480 → to v4-640")
    shown = rows.first.locator("ins").first.inner_text()
    expect(dialog.get_by_role("region", name="Figures now and of the plan")).to_contain_text("Cost, cores")
    assert serious(page) == []
    # It goes on by itself; what is to be applied stays what is shown.
    world.tick()
    dialog.get_by_label("Who are you?").fill("kim")
    confirm(dialog, "Apply")
    expect(dialog.get_by_role("heading", name="Applied: requested")).to_be_focused()
    ((detail, _),) = requested(world)
    assert detail.startswith("requested by kim: the campaign; plan ")
    assert world.recorded[-1].configs[0].variant == shown
    (request,) = sent
    assert re.fullmatch("[0-9a-f]{32}", request.headers["idempotency-key"])
    assert request.headers["if-match"].startswith('"')
    assert serious(page) == []
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_nothing_is_sent_before_it_is_confirmed_and_the_focus_goes_back(page: Page, world: FakeWorld) -> None:
    before = len(world.recorded)
    for leave in ("Escape", "Cancel"):
        dialog = open_dialog(page, "Apply …")
        dialog.get_by_label("Why?").fill("never mind")
        page.keyboard.press("Escape") if leave == "Escape" else dialog.get_by_role(
            "button", name=leave
        ).click()
        expect(dialog).to_have_count(0)
        expect(page.get_by_role("button", name="Apply …")).to_be_focused()
    dialog = open_dialog(page, "Apply …")
    dialog.get_by_role("button", name="Apply").click()
    # Without a reason the browser says what is missing.
    expect(dialog.get_by_role("heading", name="Apply this plan to ocr?")).to_be_visible()
    assert len(world.recorded) == before


def test_a_dialog_that_closes_leaves_the_focus_where_somebody_moved_it(page: Page) -> None:
    open_dialog(page, "Apply …")
    # The browser says that it is closed a moment after it is.
    focused = page.evaluate("""async () => {
        const dialog = document.querySelector("dialog");
        const told = new Promise((resolve) => dialog.addEventListener("close", resolve));
        dialog.close();
        document.getElementById("what-if-rate_rps").focus();
        await told;
        return document.activeElement.id;
    }""")
    assert focused == "what-if-rate_rps"


def test_what_runs_already_and_what_cannot_be_are_not_offered(browser: Browser, world: FakeWorld) -> None:
    # Plans of the ladder, on which also is what runs. Once nothing moves they are to be explained, which is
    # refused: they are not what these profiles come to.
    with (
        serving(world.services()) as url,
        opened(browser, f"{url}#/what-if/ocr", allowed="422") as page,
    ):
        answer = page.get_by_role("region", name="The running configuration and the best plan")
        button = page.get_by_role("button", name="Apply …")
        page.locator("#what-if-rate_rps").fill(str(LADDER[world.rung][0]))
        expect(answer).to_contain_text("The running plan is the best")
        expect(button).to_be_hidden()
        page.locator("#what-if-rate_rps").fill("30")
        expect(button).to_be_visible()
        page.locator("#what-if-sla_s").fill("0.1")
        expect(answer).to_contain_text("No plan is feasible")
        expect(button).to_be_hidden()


@pytest.mark.parametrize(
    ("control", "words"),
    [
        (PipelineControl(Mode.ADVISORY), "Its mode is advisory. Advisory mode writes nothing"),
        (
            PipelineControl(Mode.ACTIVE, True, None, "release"),
            "release. Continue with ipa resume ocr",
        ),
    ],
)
def test_what_would_refuse_it_is_said_beforehand_and_as_it_comes(
    page: Page, world: FakeWorld, control: PipelineControl, words: str
) -> None:
    dialog = open_dialog(page, "Apply …")
    expect(dialog.get_by_role("button", name="Apply")).to_be_enabled()
    world.set_control("ocr", control)
    expect(dialog).to_contain_text(words)
    expect(dialog.get_by_role("button", name="Apply")).to_be_disabled()
    assert serious(page) == []
    world.set_control("ocr", PipelineControl(Mode.ACTIVE))
    expect(dialog.get_by_role("button", name="Apply")).to_be_enabled()


def test_a_budget_of_the_owner_and_a_standby_are_obstacles_too(browser: Browser, world: FakeWorld) -> None:
    services = viewed(world)
    ocr = services.service.pipelines["ocr"]
    small = replace(ocr, bounds=Bounds(cores=2.0, max_replicas=8, batch_sizes=(1, 2, 4, 8)))
    behind = LeaderStatus(leading=False, identity="me", leader="ipa-1")
    given = over(services, pipelines={"ocr": small}, standing=lambda: behind)
    with serving(given) as url, opened(browser, f"{url}{WHAT_IF}&cores=4") as page:
        dialog = open_dialog(page, "Apply …")
        expect(dialog).to_contain_text("the pipeline's own bounds.cores is 2")
        expect(dialog).to_contain_text("Ask ipa-1.")


def test_a_plan_that_went_stale_says_what_moved_and_is_made_again(
    browser: Browser, url: str, world: FakeWorld
) -> None:
    with opened(browser, f"{url}{WHAT_IF}", allowed="412") as page:
        dialog = open_dialog(page, "Apply …")
        world.applied_tick += 1
        confirm(dialog, "Apply")
        expect(dialog.get_by_role("heading", name="Nothing was changed")).to_be_focused()
        expect(dialog.get_by_role("alert")).to_contain_text("the running configuration: its revision was")
        assert serious(page) == []
        dialog.get_by_role("button", name="Plan again").press("Enter")
        # The plan of now, asked about anew.
        expect(dialog.get_by_role("heading", name="Apply this plan to ocr?")).to_be_visible()
        assert requested(world) == []
        confirm(dialog, "Apply")
        expect(page.get_by_role("heading", name="Applied: requested")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.get_by_role("button", name="Apply …")).to_be_focused()


def test_a_hold_says_why_and_what_to_do(browser: Browser, world: FakeWorld) -> None:
    services = viewed(world)

    def held(wanted: Any) -> Any:
        last = world.recorded[-1]
        return replace(
            last, action=Action.HOLD, reason=ReasonCode.NO_ROOM, detail=f"{wanted.detail}: 2 cores short"
        )

    with (
        serving(over(services, request=held)) as url,
        opened(browser, f"{url}{WHAT_IF}", width=PHONE) as page,
    ):
        dialog = open_dialog(page, "Apply …")
        confirm(dialog, "Apply")
        expect(dialog.get_by_role("heading", name="Nothing was changed")).to_be_focused()
        expect(dialog).to_contain_text("Holding: no room")
        expect(dialog).to_contain_text("2 cores short")
        expect(dialog).to_contain_text("Raise bounds.cores")
        assert serious(page) == []


def test_a_lost_answer_is_asked_for_again_and_nothing_is_done_twice(
    browser: Browser, url: str, world: FakeWorld
) -> None:
    with opened(browser, f"{url}{WHAT_IF}", allowed="net::ERR_FAILED") as page:
        lost: list[str] = []

        def lose(route: Route) -> None:
            """Carried out, and the answer does not come through."""
            route.fetch()
            lost.append(route.request.headers["idempotency-key"])
            route.abort("failed")

        page.route("**/*:apply", lose, times=1)
        dialog = open_dialog(page, "Apply …")
        confirm(dialog, "Apply")
        expect(dialog.get_by_role("heading", name="The outcome is unknown")).to_be_focused()
        assert len(requested(world)) == len(lost) == 1
        with page.expect_request("**/*:apply") as repeated:
            dialog.get_by_role("button", name="Ask again").press("Enter")
        assert repeated.value.headers["idempotency-key"] == lost[0]
        expect(dialog.get_by_role("heading", name="Applied: requested")).to_be_visible()
        assert len(requested(world)) == 1


@pytest.mark.parametrize(("who", "may"), [("watch-here", False), ("act-here", True)])
def test_it_is_offered_to_who_may_alone(browser: Browser, world: FakeWorld, who: str, may: bool) -> None:
    services = replace(viewed(world), authenticators=(People(),))
    with serving(services) as url:
        context = browser.new_context()
        context.add_init_script(f"sessionStorage.setItem('ipa-token', '{token(who, sub='ada@x')}')")
        page = context.new_page()
        for address, names in ((WHAT_IF, ["Apply …"]), ("#/now/ocr", ["Pause …", "Mode …", "Roll back …"])):
            page.goto(f"{url}{address}")
            page.locator(".view:not([aria-busy])").wait_for()
            for name in names:
                expect(page.get_by_role("button", name=name)).to_be_visible(visible=may)
        if may:
            dialog = open_dialog(page, "Pause …")
            expect(dialog).to_contain_text("recorded as done by kubernetes:ada@x")
            expect(dialog.get_by_label("Who are you?")).to_have_count(0)
            confirm(dialog, "Pause")
            expect(dialog.get_by_role("heading", name="Paused")).to_be_visible()
            assert world.control("ocr").paused_by == "kubernetes:ada@x"
        context.close()


def test_a_role_that_was_taken_away_meanwhile_is_refused(browser: Browser, world: FakeWorld) -> None:
    who = People()
    with serving(replace(viewed(world), authenticators=(who,))) as url:
        context = browser.new_context()
        context.add_init_script(f"sessionStorage.setItem('ipa-token', '{token('act-here')}')")
        page = context.new_page()
        page.goto(f"{url}{WHAT_IF}")
        dialog = open_dialog(page, "Apply …")
        page.evaluate("token => sessionStorage.setItem('ipa-token', token)", token("watch-here"))
        confirm(dialog, "Apply")
        expect(dialog.get_by_role("alert")).to_contain_text("may not apply in the namespace default")
        expect(dialog.get_by_role("alert")).to_contain_text("docs/reference/access.md")
        assert requested(world) == []
        context.close()


def test_pause_and_resume_with_the_keyboard(browser: Browser, url: str, world: FakeWorld) -> None:
    with opened(browser, f"{url}#/now/ocr", width=PHONE, color_scheme="dark") as page:
        dialog = open_dialog(page, "Pause …")
        dialog.get_by_label("For how long?").select_option("2 hours")
        assert serious(page) == []
        confirm(dialog, "Pause", "night shift")
        expect(dialog.get_by_role("heading", name="Paused")).to_be_focused()
        control = world.control("ocr")
        assert (control.paused, control.paused_reason) == (True, "night shift")
        assert control.paused_until is not None
        assert (control.paused_until - world.clock.now()).total_seconds() == 7200
        page.keyboard.press("Escape")
        dialog = open_dialog(page, "Resume …")
        expect(dialog).to_contain_text("night shift")
        confirm(dialog, "Resume")
        expect(dialog.get_by_role("heading", name="Resumed")).to_be_focused()
        assert world.control("ocr").paused is False
        page.keyboard.press("Escape")
        dialog = open_dialog(page, "Mode …")
        dialog.get_by_label("Mode").select_option("guarded")
        confirm(dialog, "Change mode")
        expect(dialog.get_by_role("heading", name="It is guarded")).to_be_visible()
        assert world.control("ocr").mode is Mode.GUARDED


def test_a_rollback_shows_where_to_and_runs_that(browser: Browser, url: str, world: FakeWorld) -> None:
    before = world.recorded[-1].configs
    world.apply(next(rung[3] for rung in LADDER if rung[3] != before), "requested by someone")
    with opened(browser, f"{url}#/now/ocr", allowed="409") as page:
        dialog = open_dialog(page, "Roll back …")
        expect(dialog).to_contain_text(f"It takes back revision {world.recorded[-1].tick}.")
        rows = dialog.get_by_role("region", name="From the running configuration to the earlier one").locator(
            "tbody tr"
        )
        expect(rows.first.locator("ins").first).to_have_text(before[0].variant)
        confirm(dialog, "Roll back", "slower than before")
        expect(dialog.get_by_role("heading", name="Applied: requested")).to_be_visible()
        assert world.recorded[-1].configs == before
        assert world.recorded[-1].detail.startswith("rollback by someone: slower than before")
        page.keyboard.press("Escape")
        dialog = open_dialog(page, "Roll back …")
        expect(dialog).to_contain_text("no change by a person is left to take back")
        expect(dialog.get_by_role("button", name="Roll back")).to_be_disabled()
        dialog.get_by_label("Restore", exact=True).select_option(str(world.recorded[-2].tick))
        expect(dialog).to_contain_text(f"It restores revision {world.recorded[-2].tick}.")
        expect(dialog.get_by_role("button", name="Roll back")).to_be_enabled()
