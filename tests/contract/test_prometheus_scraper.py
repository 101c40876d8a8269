"""The metrics server of this machine beside targets that do not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from ipa.adapters.prometheus.queries import Query, QueryShape, Selector, exact
from ipa.adapters.prometheus.scraper import Scraper

PATIENCE_S = 300.0


def eventually(holds: Callable[[], bool]) -> bool:
    """True if it held before patience ended."""
    deadline_s = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not holds():
        if time.monotonic() > deadline_s:
            return False
        pause.wait(0.05)
    return True


@contextmanager
def page(body: bytes) -> Iterator[str]:
    """The host:port of a server that answers every request with the body."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{http.server_address[1]}"
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


@pytest.fixture
def target() -> Iterator[str]:
    with page(b'# TYPE length gauge\nlength{pipeline="p"} 4\n') as address:
        yield address


@pytest.fixture
def web_page() -> Iterator[str]:
    with page(b"<html>{{{ no metrics }}}</html>\n") as address:
        yield address


def test_it_goes_on_past_targets_that_are_none(target: str, web_page: str) -> None:
    scraper = Scraper([web_page, "127.0.0.1:1", "no host", target], 0.1)
    try:
        seen: list[float] = []

        def length() -> bool:
            query = Query(QueryShape.GAUGE, Selector("length", exact({"pipeline": "p"})))
            seen.extend(samples[-1][1] for samples in scraper.ask(query).rows.values())
            return bool(seen)

        assert eventually(length)
        assert seen[0] == 4.0
    finally:
        scraper.stop()
