"""Settings of router and queue from environment variables, and the server that both run."""

from __future__ import annotations

import gc
import math
import os
import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry

from ipa.dataplane import http
from ipa.dataplane.http import MAX_BODY_BYTES, MAX_HELD_BYTES, Application, BodyLimits
from ipa.dataplane.metrics import MetricsThread
from ipa.metering.traces import traced
from ipa.model.errors import IpaError, UsageError
from ipa.serving.connections import MOST_FILES, ServerBounds, raise_file_limit, within_files
from ipa.serving.protocol import BoundedConfig, BoundedServer

T = TypeVar("T")
D = TypeVar("D")
# The token of the process' supervisor.
ADMIN_TOKEN = "IPA_ADMIN_TOKEN"  # noqa: S105  (the name of a variable)
HOST, PORT = "IPA_HOST", "IPA_PORT"
# The variables by which the operator sets the port of a container.
OPERATORS_PORT = ("PREDICTIVE_UNIT_HTTP_SERVICE_PORT", "PREDICTIVE_UNIT_SERVICE_PORT")
# Inherited sockets that listen already: that of requests, and that of metrics.
SOCKET, METRICS_SOCKET = "IPA_FD", "IPA_METRICS_FD"
# Those by which what bodies may have is told to all processes of a pipeline.
MAX_BODY, MAX_HELD = "IPA_MAX_BODY_MB", "IPA_MAX_HELD_MB"
MIB = 1024 * 1024
# Well below the grace period of 20 s that the operator sets, 10 s of which the pod sleeps first.
DRAIN_S = 5.0
# Longer than clients keep idle connections, so that none writes to a connection that is closing.
KEEP_ALIVE_S = 75
# The time that the largest body takes at 1 MB/s.
BODY_S = 64
# Bytes of one read, asyncio's default, and connections that the kernel queues, uvicorn's default.
CHUNK_BYTES = 256 << 10
BACKLOG = 2048


def setting(name: str, kind: Callable[[str], T], default: D, *others: str) -> T | D:
    """Return the value of the variable, or of the first alternative name that is set.

    An invalid value ends the process with a message.
    """
    given = next((each for each in (name, *others) if os.environ.get(each)), None)
    if given is None:
        return default
    try:
        return kind(os.environ[given])
    except (ValueError, LookupError, IpaError, http.HttpError) as error:
        message = f"{given}={os.environ[given][:200]!r} cannot be used: {error}"
        raise SystemExit(f"error: {message}") from error


def required(*names: str) -> list[str]:
    """Return the values of the variables; if one is not set, end the process with a message."""
    if missing := [name for name in names if not os.environ.get(name)]:
        raise SystemExit(f"error: these variables must be set: {', '.join(missing)}")
    return [os.environ[name] for name in names]


def edge() -> dict[str, Any]:
    """Return a data-plane server's settings for its callers: `hosts`, `limits` and `admin_token`."""
    host = setting(HOST, str, http.LOOPBACK)
    body_mb = setting(MAX_BODY, float, MAX_BODY_BYTES / MIB)
    held_mb = setting(MAX_HELD, float, MAX_HELD_BYTES / MIB)
    return {
        "hosts": http.LOOPBACK_NAMES if http.is_loopback(host) else frozenset(),
        "limits": BodyLimits(round(body_mb * MIB), round(held_mb * MIB)),
        # Removed, so that child processes do not inherit it.
        "admin_token": os.environ.pop(ADMIN_TOKEN, ""),
    }


def serve(application: Application, registry: CollectorRegistry, service: str) -> None:
    """Serve the application and its metrics at their addresses until a stop signal.

    Its requests are traced as that service's, if OpenTelemetry's variables ask for it.

    The server then accepts no new connection, and requests in flight have IPA_DRAIN_S to be answered. Sockets
    that the parent process passes stay open while this process is replaced: connections wait in them.
    """
    host, port = setting(HOST, str, http.LOOPBACK), setting(PORT, int, None, *OPERATORS_PORT)
    if port is None:
        required(PORT)
    metrics_fd = setting(METRICS_SOCKET, int, None)
    metrics_port = setting("IPA_METRICS_PORT", int, None)
    if metrics_fd is not None:
        MetricsThread(socket.socket(fileno=metrics_fd), registry).start()
    elif metrics_port is not None:
        MetricsThread(socket.create_server((host, metrics_port)), registry).start()
    try:
        application = traced(application, service)
    except UsageError as error:
        raise SystemExit(f"error: {error}") from error
    listener = setting(SOCKET, lambda text: socket.socket(fileno=int(text)), None)
    run(application, host, port or 0, setting("IPA_DRAIN_S", float, DRAIN_S), listener)


def run(
    application: Application,
    host: str,
    port: int,
    drain_s: float = DRAIN_S,
    listener: socket.socket | None = None,
) -> None:
    """Serve the application until a stop signal, on `listener` if it is given."""
    # The limit of open files is the only bound on their number: all requests may come from one address.
    bounds = ServerBounds(
        connections=MOST_FILES,
        address_connections=MOST_FILES,
        body_s=BODY_S,
        idle_s=KEEP_ALIVE_S,
        chunk_bytes=CHUNK_BYTES,
    )
    bounds = within_files(bounds, raise_file_limit())
    # Each request is passed on over a connection of its own.
    most = bounds.connections // 2
    config = BoundedConfig(
        application,
        replace(bounds, connections=most, address_connections=most),
        host=host,
        port=port,
        backlog=BACKLOG,
        lifespan="on",
        log_level="warning",
        access_log=False,
        # The client is the peer of the connection, whatever a header says.
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=max(1, math.ceil(drain_s)),
    )
    # A search for garbage through all objects stops the event loop for longer the more connections there are.
    # What has been loaded stays, so none goes through it, and they come once for 700 000 new objects.
    gc.freeze()
    gc.set_threshold(700, 10, 100)
    BoundedServer(config).run(sockets=None if listener is None else [listener])
