"""The API behind a real socket, served as `ipa serve` does."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from ipa.api.app import create_app
from ipa.api.server import config_of
from ipa.api.services import Services


@contextmanager
def served(services: Services) -> Iterator[tuple[str, int]]:
    """Address and port, once it answers."""
    answers = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            answers.set()

    server = Server(config_of(create_app(services)))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert answers.wait(60)
            yield listener.getsockname()[:2]
        finally:
            server.should_exit = True
            thread.join(60)
