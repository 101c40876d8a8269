"""An application before a chain of models: it sends each item to the first, and each answer to the next.

CHAIN has the addresses in their order, by comma; the server beside it answers probes and says how the requests
went (`app_requests_total{outcome}`).
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

import tests.fakes.kube.in_cluster  # noqa: F401  (names of Services lead to pods)
from pipelines.digits.bench import workload

RATE_RPS, PORT, SEED = 6.0, 9000, 1
OUTCOMES: Counter[str] = Counter()


def ask(client: httpx.Client, chain: list[str], inputs: list[dict[str, Any]]) -> None:
    """Count the outcome of one request through the chain."""
    try:
        for address in chain:
            answer = client.post(address, json={"inputs": inputs}).raise_for_status().json()
            inputs = [{key: each[key] for key in ("name", "datatype", "shape", "data")} for each in answer["outputs"]]
        OUTCOMES["answered"] += 1
    except httpx.HTTPError as error:
        print(repr(error), flush=True)
        OUTCOMES["failed"] += 1


class Probed(BaseHTTPRequestHandler):
    """Ready, and the counts."""

    def do_GET(self) -> None:
        """Answer any path with the counts."""
        body = "".join(f'app_requests_total{{outcome="{it}"}} {OUTCOMES[it]}\n' for it in ("answered", "failed"))
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def main() -> None:
    """Wait for a first answer, then send at a constant rate until the process ends."""
    server = ThreadingHTTPServer(("", PORT), Probed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    chain, items = os.environ["CHAIN"].split(","), workload("locate", SEED).items
    with httpx.Client(trust_env=False, timeout=10.0) as client, ThreadPoolExecutor(32) as senders:
        while not OUTCOMES["answered"]:
            time.sleep(0.5)
            ask(client, chain, items[0])
        OUTCOMES.clear()
        began_s = time.monotonic()
        for number in range(10**9):
            time.sleep(max(0.0, began_s + number / RATE_RPS - time.monotonic()))
            senders.submit(ask, client, chain, items[number % len(items)])


if __name__ == "__main__":
    main()
