"""How the application is served: the limits of a connection, before there is a request."""

from __future__ import annotations

import gc

from fastapi import FastAPI

from ipa.serving.connections import ServerBounds, raise_file_limit, within_files
from ipa.serving.protocol import BoundedConfig
from ipa.settings import Settings

# An answer under way when the service ends has so long.
GRACE_S = 5


def bounds_of(settings: Settings) -> ServerBounds:
    """The bounds of the server's connections: those of the settings, within the limit of open files."""
    bounds = ServerBounds(
        connections=settings.api_connections,
        address_connections=settings.api_address_connections,
        # The application answers 408 itself, a second before the connection is closed.
        body_s=settings.api_body_s + 1.0,
    )
    return within_files(bounds, raise_file_limit())


def config_of(app: FastAPI, bounds: ServerBounds | None = None) -> BoundedConfig:
    """The server's configuration."""
    return BoundedConfig(
        app,
        bounds or ServerBounds(),
        # uvloop, where something else brought it along, reads and accepts as much at once as there is.
        loop="asyncio",
        log_level="warning",
        # Its own would write to the terminal itself; ours does so without waiting.
        log_config=None,
        timeout_graceful_shutdown=GRACE_S,
        # Who asks is who connects: a header that says otherwise may be anybody's.
        proxy_headers=False,
        server_header=False,
    )


def settle() -> None:
    """Have the garbage collector leave alone what is there now: modules, and what the service is made of.

    It looks through everything every few seconds under load, and nobody is answered for a tenth of one.
    """
    gc.collect()
    gc.freeze()
