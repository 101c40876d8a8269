"""Run the service in this process until a signal ends it."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import typer

from ipa.model.errors import UnavailableError
from ipa.serving.logs import LineQueue
from ipa.settings import Settings

if TYPE_CHECKING:
    from ipa.bootstrap.app import App
    from ipa.bootstrap.targets import ServeOptions

LOG = logging.getLogger("ipa.serve")
# Seconds for a tick in flight: the solver's deadline and one write; later ticks end with the process.
JOIN_S = 15.0
# Seconds for changes that were requested over the API.
LAST_S = 1.0
# Milliseconds after which a connection whose client takes nothing is closed.
STUCK_MS = 60_000
# Pipelines whose addresses are printed at start.
MOST_ADDRESSES = 10


def run_service(settings: Settings, options: ServeOptions, logs: LineQueue) -> None:
    """Run the service until a signal; `logs` counts the lines that were lost.

    Errors: those of `build`; UnavailableError: the port.
    """
    from ipa.bootstrap.app import build
    from ipa.bootstrap.identity import check_listening
    from ipa.metering import table
    from ipa.metering.make import Figures

    check_listening(settings)
    # Before anything is started, so that a port in use is reported at once.
    with _bound(settings.host, settings.port) as listener:
        running = build(settings, options)
        running.registry.register(Figures((table.LOG_DROPPED, lambda: logs.dropped)))
        if options.simulated is not None:
            # What was built so far took time in which no loop controls the load.
            options.simulated.pace.begin()
        try:
            _serve(running, listener, LOG.info if logs.is_json else typer.echo)
        finally:
            running.close()


def _bound(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet. UnavailableError if the port is in use."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        # Inherited by accepted connections: a client that takes nothing is disconnected.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STUCK_MS)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UnavailableError(
            f"cannot listen on {host}:{port}: {error.strerror}", hint="Choose another port with --port."
        ) from error
    return listener


def _serve(running: App, listener: socket.socket, say: Callable[[str], None]) -> None:
    """Run the loops and the API until a signal; then finish ticks and changes, and hand over."""
    if running.leadership is not None:
        running.leadership.start()
    running.roster.start()
    _listen(running, listener, say)
    running.stop.set()
    running.roster.join(JOIN_S)
    running.hand_over(lambda: all(loop.idle(LAST_S) for loop in list(running.loops.values())))


def _listen(running: App, listener: socket.socket, say: Callable[[str], None]) -> None:
    from ipa.api.app import create_app
    from ipa.api.wiring import bounds_of, config_of, context_of, settle
    from ipa.bootstrap.identity import hosts_of
    from ipa.serving.protocol import BoundedServer

    class Server(BoundedServer):
        """A server without uvicorn's signal handling, which would end us before what we started."""

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            settle()
            # Only now, since a reader of the address may call it at once.
            say("ipa: page and API at http://{}:{}".format(*listener.getsockname()[:2]))
            pipelines = list(running.pipelines.values())
            found = [
                (it.name, address.url) for it in pipelines if (address := running.roster.address(it)).url
            ]
            for name, url in found[:MOST_ADDRESSES]:
                say(f"ipa: requests of {name} go to {url}")
            if len(found) > MOST_ADDRESSES:
                say(f"ipa: `ipa url PIPELINE` prints where those of {len(found) - MOST_ADDRESSES} others go")

    app = create_app(context_of(running), hosts=hosts_of(running.settings))
    server = Server(config_of(app, bounds_of(running.settings)))

    def stop(_number: int, _frame: FrameType | None) -> None:
        server.should_exit = True
        # No tick begins while the API ends.
        running.stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    server.run(sockets=[listener])
