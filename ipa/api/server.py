"""How the application is served: the limits of a connection, before there is a request."""

from __future__ import annotations

import gc

import uvicorn
from fastapi import FastAPI

from ipa.api.limits import UNREAD_LIMIT_BYTES

# An answer under way when the service ends has so long.
GRACE_S = 5


def config_of(app: FastAPI) -> uvicorn.Config:
    """The server's configuration."""
    return uvicorn.Config(
        app,
        log_level="warning",
        # Its own would write to the terminal itself; ours does so without waiting.
        log_config=None,
        timeout_graceful_shutdown=GRACE_S,
        # The other one, where it is installed, reads headers without an end.
        http="h11",
        h11_max_incomplete_event_size=UNREAD_LIMIT_BYTES,
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
