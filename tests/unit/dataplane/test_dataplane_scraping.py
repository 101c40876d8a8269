"""The thread that answers /metrics."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator

import httpx
import pytest

from ipa.dataplane.metrics import MOST_SCRAPES, MetricsThread, QueueMetrics


@pytest.fixture
def thread() -> Iterator[MetricsThread]:
    made = MetricsThread(socket.create_server(("127.0.0.1", 0)), QueueMetrics("p", "s").registry)
    made.start()
    yield made
    made.shutdown()
    made.server_close()


def port(thread: MetricsThread) -> int:
    return int(thread.socket.getsockname()[1])


def url(thread: MetricsThread, path: str = "/metrics") -> str:
    return f"http://127.0.0.1:{port(thread)}{path}"


def test_metrics_are_answered_while_the_event_loop_does_something_else(thread: MetricsThread) -> None:
    async def busy() -> httpx.Response:
        # Nothing of this loop runs until the answer is there.
        return httpx.get(url(thread), trust_env=False, timeout=300)

    answer = asyncio.run(busy())
    assert answer.status_code == 200
    assert 'ipa_queue_length{part="1",pipeline="p",stage="s"} 0.0' in answer.text


def test_there_is_nothing_else(thread: MetricsThread) -> None:
    assert httpx.get(url(thread, "/admin/config"), trust_env=False, timeout=300).status_code == 404
    assert httpx.post(url(thread), trust_env=False, timeout=300).status_code == 501


def test_clients_that_send_nothing_do_not_keep_a_scrape_out(thread: MetricsThread) -> None:
    idle = [socket.create_connection(("127.0.0.1", port(thread))) for _ in range(MOST_SCRAPES - 1)]
    try:
        assert httpx.get(url(thread), trust_env=False, timeout=300).status_code == 200
    finally:
        for each in idle:
            each.close()
