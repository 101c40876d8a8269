"""What the tests in a real browser share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.fakes.browsing import chromium, serving
from tests.fakes.services import FakeWorld
from tests.fakes.viewed import viewed


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def world() -> FakeWorld:
    """A pipeline that the loop has looked after for some minutes."""
    return FakeWorld().play(57)


@pytest.fixture
def url(world: FakeWorld) -> Iterator[str]:
    """Where the service of that world is, with all that the page's views ask for."""
    with serving(viewed(world)) as url:
        yield url
