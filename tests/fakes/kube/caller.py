"""An application before a chain of models: it sends each item to the first, and each answer to the next.

CHAIN has the addresses in order, by comma. At its end it prints the failures, and how many it had answered.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import Any

import httpx

from pipelines.digits.bench import workload

RATE_RPS, PORT, SEED = 6.0, 9000, 1
FAILED, ANSWERED = "failed:", "answered:"


def ask(client: httpx.Client, chain: list[str], inputs: list[dict[str, Any]]) -> str:
    """What went wrong with a request through the chain; empty if it was answered."""
    try:
        for address in chain:
            answer = client.post(address, json={"inputs": inputs}).raise_for_status().json()
            keys = ("name", "datatype", "shape", "data")
            inputs = [{key: each[key] for key in keys} for each in answer["outputs"]]
    except httpx.HTTPError as error:
        return repr(error)
    return ""


class Probed(BaseHTTPRequestHandler):
    """Ready."""

    def do_GET(self) -> None:
        """Answer any path with nothing."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def main() -> None:
    """Once a first request is answered: be ready, and send at a constant rate until the process is to end."""
    import tests.fakes.kube.in_cluster  # noqa: F401  (names of Services lead to pods from here on)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    chain, items = os.environ["CHAIN"].split(","), workload("locate", SEED).items
    outcomes = []
    with httpx.Client(trust_env=False, timeout=10.0) as client:
        while ask(client, chain, items[0]):
            time.sleep(0.5)
        server = ThreadingHTTPServer(("", PORT), Probed)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        began_s = time.monotonic()
        try:
            with ThreadPoolExecutor(32) as senders:
                for number in count():
                    time.sleep(max(0.0, began_s + number / RATE_RPS - time.monotonic()))
                    outcomes.append(senders.submit(ask, client, chain, items[number % len(items)]))
        finally:
            failures = list(filter(None, (each.result() for each in outcomes)))
            for each in failures:
                print(FAILED, each)
            print(ANSWERED, len(outcomes) - len(failures), flush=True)


if __name__ == "__main__":
    main()
