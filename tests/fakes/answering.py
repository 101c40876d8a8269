"""Servers on loopback: one that answers requests as it is told and keeps them, and the base of others."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

# Status and body of the answer to a path and the JSON that was sent there; None: nothing was sent.
Answer = Callable[[str, Any], tuple[int, Any]]


class Quiet:
    """Logs no request."""

    def log_message(self, format: str, *args: Any) -> None:
        pass


class Listener(ThreadingHTTPServer):
    """A server whose clients may be killed before they are answered."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Tell of an error, unless the client is gone or was refused."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class Listening:
    """A context in which a thread serves."""

    def __init__(self, handler: type[BaseHTTPRequestHandler]) -> None:
        self.stopping = threading.Event()
        self._http = Listener(("127.0.0.1", 0), handler)
        # Short polls, so that stopping takes no half second.
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )

    @property
    def target(self) -> str:
        """Host and port, as Prometheus has targets."""
        return f"127.0.0.1:{self._http.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.target}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


class Answering(Listening):
    """Its answers are bytes, the text of metrics, or JSON."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[tuple[str, Any]] = []
        requests = self.requests

        class Handler(Quiet, BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Else every answer waits for the acknowledgement of its head.
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                sent = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = self.path, json.loads(sent) if sent else None
                requests.append(request)
                status, body = answer(*request)
                text = body if isinstance(body, bytes | str) else json.dumps(body)
                content = text if isinstance(text, bytes) else text.encode()
                self.send_response(status)
                self.send_header("Content-Type", "text/plain; version=0.0.4")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815

        super().__init__(Handler)
