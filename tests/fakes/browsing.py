"""A real Chromium over a service in this process, for the tests of the page."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from ipa.api.app import create_app
from ipa.api.context import ApiContext

# The shell has the same engine and no windows: a page takes a third of the CPU time.
_PROGRAMS = (Path("/usr/bin/chromium-headless-shell"), Path("/usr/bin/chromium"))
CHROMIUM = next((path for path in _PROGRAMS if path.exists()), None)
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"] + [
    f"--disable-{name}" for name in ("background-networking", "component-update", "sync")
]
# What a view says while it is not there yet is not there any more.
OPENED = ".view:not([aria-busy])"
DESK, PHONE = 1280, 390
# The options of `opened` for each look.
LOOKS: dict[str, dict[str, Any]] = {"light": {}, "dark": {"color_scheme": "dark"}, "phone": {"width": PHONE}}
# As long as the browser waits for an element that is acted on: other tests run beside.
expect.set_options(timeout=30_000)
# Of each view an address that works over FakeWorld, without the #.
VIEWS = {
    "now": "/now/ocr",
    "timeline": "/timeline/ocr",
    "decision": "/decision/?pipeline=ocr",
    "what-if": "/what-if/ocr",
    "profiles": "/profiles/ocr/detect",
    "fleet": "/fleet",
    "health": "/health",
}


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser; the test is skipped where there is none."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: chromium-headless-shell or chromium in /usr/bin")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield browser
        browser.close()


@contextmanager
def serving(services: ApiContext, port: int = 0) -> Iterator[str]:
    """The address of the page over these services."""
    with socket.create_server(("127.0.0.1", port)) as listener:
        config = uvicorn.Config(create_app(services), log_level="error", ws="none", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@contextmanager
def opened(
    browser: Browser,
    address: str,
    *,
    width: int = DESK,
    height: int = 1180,
    allowed: str = "503",
    **options: Any,
) -> Iterator[Page]:
    """The page at that address, failing on anything the console complains of; `options` of the context."""
    context = browser.new_context(viewport={"width": width, "height": height}, timezone_id="UTC", **options)
    page = context.new_page()
    complaints: list[str] = []
    page.on(
        "console",
        lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(address)
    page.locator(OPENED).wait_for()
    yield page
    context.close()
    assert [text for text in complaints if allowed not in text] == []


def serious(page: Page) -> list[str]:
    """The faults that keep somebody from using the page, a line each: those that axe finds, and its width."""
    # The elements that are as they should be would only take time to tell.
    violations = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    over = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    faults = [f"{over} px wider than the window"] if over > 0 else []
    return faults + [
        f"{each['id']} ({each['impact']}): {node['html'][:120]} {node['failureSummary']}"
        for each in violations
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


def shoot(page: Page, name: str) -> None:
    """Keep a picture where IPA_SCREENSHOTS names a folder."""
    if folder := os.environ.get("IPA_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)
