"""Starting and ending a metrics server on this machine."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from ipa.adapters.prometheus.queries import Gauge, Selector
from ipa.adapters.prometheus.server import start_metrics_server
from ipa.model.errors import UnavailableError

PATIENCE_S = 300.0


def eventually(holds: Callable[[], bool]) -> bool:
    """Whether it held before patience ended."""
    deadline_s = time.monotonic() + PATIENCE_S
    pause = threading.Event()
    while not holds():
        if time.monotonic() > deadline_s:
            return False
        pause.wait(0.05)
    return True


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", trust_env=False, timeout=1.0).is_success
    except httpx.HTTPError:
        return False


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


def test_built_in_goes_on_past_targets_that_are_none(target: str, web_page: str, tmp_path: Path) -> None:
    server = start_metrics_server(
        [web_page, "127.0.0.1:1", "no host", target],
        scrape_interval_s=0.1,
        folder=tmp_path,
        prefer="built-in",
    )
    try:
        ask, seen = server.source, []
        assert callable(ask)

        def length() -> bool:
            found = ask(Gauge(Selector("length", {"pipeline": "p"})), None)
            seen.extend(series["value"][1] for series in found.result)
            return bool(seen)

        assert eventually(length)
        assert seen[0] == 4.0
    finally:
        server.stop()


def test_built_in_where_prometheus_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    server = start_metrics_server([], scrape_interval_s=1.0, folder=tmp_path)
    try:
        assert server.kind == "built-in"
        assert callable(server.source)
    finally:
        server.stop()


def test_a_prometheus_that_ends_at_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "prometheus"
    binary.write_text("#!/bin/sh\necho 'no space left on device' >&2\nexit 3\n")
    binary.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError, match="exited with code 3 at start: no space left on device"):
        start_metrics_server([], scrape_interval_s=1.0, folder=tmp_path / "data")


@pytest.mark.xdist_group("prometheus")
@pytest.mark.skipif(shutil.which("prometheus") is None, reason="needs the prometheus binary")
def test_prometheus_begins_without_the_series_of_an_earlier_run(tmp_path: Path) -> None:
    earlier = tmp_path / "data" / "left-over"
    earlier.mkdir(parents=True)
    start_metrics_server([], scrape_interval_s=1.0, folder=tmp_path).stop()
    assert not earlier.exists()


def test_prometheus_dies_with_its_parent(tmp_path: Path) -> None:
    if not shutil.which("prometheus"):
        pytest.skip("needs the prometheus binary, which is not installed")
    program = (
        "import pathlib, sys, threading\n"
        "from ipa.adapters.prometheus.server import start_metrics_server\n"
        "server = start_metrics_server([], scrape_interval_s=1.0, folder=pathlib.Path(sys.argv[1]))\n"
        "print(server.kind, server.source, flush=True)\n"
        "threading.Event().wait()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with parent:
        assert parent.stdout is not None
        kind, url = parent.stdout.readline().split()
        assert kind == "prometheus"
        assert answers(url)
        os.kill(parent.pid, signal.SIGKILL)
    assert eventually(lambda: not answers(url))
