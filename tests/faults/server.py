"""The API behind a real socket, served as `ipa serve` does."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from ipa.api.app import create_app
from ipa.api.context import ApiContext
from ipa.api.wiring import server_config
from ipa.serving.connections import ServerBounds
from ipa.serving.protocol import BoundedServer

BEAT_S = 0.005


@dataclass
class Pulse:
    """The lag of the event loop for a task that wants to run every few milliseconds."""

    latest_s: float = 0.0
    beats: int = 0
    ends: threading.Event = field(default_factory=threading.Event)

    async def beat(self) -> None:
        """Run until told to end."""
        while not self.ends.is_set():
            due_s = time.monotonic() + BEAT_S
            await asyncio.sleep(BEAT_S)
            self.latest_s = max(self.latest_s, time.monotonic() - due_s)
            self.beats += 1


@contextmanager
def served(
    services: ApiContext, bounds: ServerBounds | None = None, pulse: Pulse | None = None
) -> Iterator[tuple[str, int]]:
    """Address and port, once it answers."""
    answers = threading.Event()
    beating: list[asyncio.Task[None]] = []

    class Server(BoundedServer):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if pulse is not None:
                beating.append(asyncio.create_task(pulse.beat()))
            answers.set()

    server = Server(server_config(create_app(services), bounds))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            assert answers.wait(60)
            yield listener.getsockname()[:2]
        finally:
            if pulse is not None:
                pulse.ends.set()
            server.should_exit = True
            thread.join(60)
