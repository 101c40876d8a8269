"""Helpers that the tests in a real browser share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from playwright.sync_api import Browser

from tests.fakes.browsing import chromium, serving
from tests.fakes.services import FakeWorld
from tests.fakes.viewed import viewed


class OneBrowser:
    """The browser of this process, started when it is asked for."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._browser: Browser | None = None

    def started(self) -> Browser:
        if self._browser is None:
            self._browser = self._stack.enter_context(chromium())
        return self._browser

    def close(self) -> None:
        self._browser = None
        self._stack.close()


ONE = OneBrowser()


@pytest.fixture(scope="module")
def browser() -> Browser:
    return ONE.started()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """Close the browser after the last test in it: this thread can run no other event loop before."""
    if nextitem is None or nextitem.get_closest_marker("browser") is None:
        ONE.close()


@pytest.fixture
def world() -> FakeWorld:
    """A pipeline that the loop has looked after for some minutes."""
    return FakeWorld().play(57)


@pytest.fixture
def url(world: FakeWorld) -> Iterator[str]:
    """The address of that world's service, with all that the page's views ask for."""
    with serving(viewed(world)) as url:
        yield url
