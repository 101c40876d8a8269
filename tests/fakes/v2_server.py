"""A model server over HTTP, as the pod of a stage: it doubles what it is given, row by row."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class V2Server:
    """A context manager. `asked` are the path and the rows of every batch; `status` is what it answers."""

    asked: list[tuple[str, int]] = field(default_factory=list)
    status: int = 200

    def __enter__(self) -> V2Server:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            # Else every answer waits for the acknowledgement of its head.
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                self._answer(200, {"ready": True})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                [given] = body["inputs"]
                server.asked.append((self.path, given["shape"][0]))
                doubled = [2 * value for value in given["data"]]
                output = {"name": "y", "shape": given["shape"], "datatype": "FP64", "data": doubled}
                self._answer(server.status, {"model_name": "m", "outputs": [output]})

            def _answer(self, status: int, body: Any) -> None:
                content = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        return int(self._http.server_address[1])
