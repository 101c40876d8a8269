"""/metrics on a port of its own, answered by a thread: the event loop may be busy for seconds."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from ipa.dataplane.metrics import CONTENT_TYPE

# A scraper sends its request at once.
REQUEST_S = 2.0
# Scrapes at once; others wait in the socket.
MOST_SCRAPES = 8


class MetricsThread(ThreadingMixIn, HTTPServer):
    """A server of GET /metrics over a socket that listens already, from `start` on."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, registry: CollectorRegistry) -> None:
        class Handler(BaseHTTPRequestHandler):
            """One scrape."""

            timeout = REQUEST_S

            def do_GET(self) -> None:
                """Answer with all series in the Prometheus text format."""
                if self.path.partition("?")[0] != "/metrics":
                    self.send_error(404)
                    return
                body = generate_latest(registry)
                self.send_response(200)
                self.send_header("content-type", CONTENT_TYPE)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Log nothing: scrapes come every second."""

        super().__init__(listener.getsockname(), Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self._places = threading.BoundedSemaphore(MOST_SCRAPES)

    def start(self) -> None:
        """Serve in a thread that ends with the process."""
        threading.Thread(target=self.serve_forever, name="metrics", daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread of its own, once there is room."""
        self._places.acquire()
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and make room."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log nothing: a scraper that went away is no fault here."""
