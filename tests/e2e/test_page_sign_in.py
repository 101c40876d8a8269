"""Signing in on the page, in a real Chromium: only where the service wants it, and kept in the tab alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from playwright.sync_api import Browser, expect

from tests.fakes.browsing import serving
from tests.fakes.people import People, token
from tests.fakes.services import FakeWorld

pytestmark = [pytest.mark.browser, pytest.mark.xdist_group("browser")]


def test_who_looks_signs_in_once_and_out_again(browser: Browser) -> None:
    services = replace(FakeWorld().play(20).services(), authenticators=(People(),))
    with serving(services) as url:
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        form = page.get_by_role("dialog", name="Sign in")
        expect(form).to_be_visible()
        expect(page.get_by_label("Your key or token")).to_be_focused()
        expect(page.locator("#stages .stage")).to_have_count(0)
        page.keyboard.press("Escape")
        expect(form).to_be_visible()
        page.keyboard.type("nonsense")
        page.keyboard.press("Enter")
        expect(form.get_by_role("alert")).to_contain_text("does not accept")
        page.keyboard.type(token("watch-here"))
        page.keyboard.press("Enter")
        expect(page.locator("#stages .stage")).to_have_count(2)
        expect(form).to_have_count(0)
        assert context.cookies() == []
        page.reload()
        expect(page.locator("#stages .stage")).to_have_count(2)
        other = context.new_page()
        other.goto(url)
        expect(other.get_by_role("dialog", name="Sign in")).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(form).to_be_visible()
        expect(page.locator("#stages .stage")).to_have_count(0)
        context.close()


def test_where_nobody_has_to_say_who_they_are_nothing_is_asked(browser: Browser) -> None:
    with serving(FakeWorld().play(20).services()) as url:
        page = browser.new_page()
        page.goto(url)
        expect(page.locator("#stages .stage")).to_have_count(2)
        expect(page.get_by_role("dialog")).to_have_count(0)
        expect(page.get_by_role("button", name="Sign out")).to_have_count(0)
        page.close()
