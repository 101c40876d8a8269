"""Settings of the router and the queue, which are variables of their environment, and how both serve."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from prometheus_client import CollectorRegistry

from ipa.dataplane import http
from ipa.dataplane.http import MAX_BODY_BYTES, MAX_HELD_BYTES, Application, BodyLimits
from ipa.dataplane.scraping import MetricsThread
from ipa.model.errors import IpaError

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


def setting(name: str, kind: Callable[[str], T], default: D, *others: str) -> T | D:
    """Return the value of the variable, or of the first of the others that is set.

    It ends the process with a message if that is not of its kind.
    """
    found = next((each for each in (name, *others) if os.environ.get(each)), None)
    if found is None:
        return default
    try:
        return kind(os.environ[found])
    except (ValueError, LookupError, IpaError, http.HttpError) as error:
        _end(f"{found}={os.environ[found][:200]!r} cannot be used: {error}")


def required(*names: str) -> list[str]:
    """Return the values of the variables. It ends the process with a message if one of them is not set."""
    if missing := [name for name in names if not os.environ.get(name)]:
        _end(f"these variables must be set: {', '.join(missing)}")
    return [os.environ[name] for name in names]


def _end(words: str) -> NoReturn:
    raise SystemExit(f"error: {words}")


def edge() -> dict[str, Any]:
    """Return what a server of the data plane is told of its callers: `hosts`, `limits` and `admin_token`."""
    host = setting(HOST, str, http.LOOPBACK)
    body_mb = setting(MAX_BODY, float, MAX_BODY_BYTES / MIB)
    held_mb = setting(MAX_HELD, float, MAX_HELD_BYTES / MIB)
    return {
        "hosts": http.LOOPBACK_NAMES if http.is_loopback(host) else frozenset(),
        "limits": BodyLimits(round(body_mb * MIB), round(held_mb * MIB)),
        # No process that this one starts inherits it.
        "admin_token": os.environ.pop(ADMIN_TOKEN, ""),
    }


def told_limits() -> dict[str, str]:
    """Return the limits of bodies that the environment sets, for processes that do not inherit it."""
    return {name: os.environ[name] for name in (MAX_BODY, MAX_HELD) if name in os.environ}


def serve(application: Application, registry: CollectorRegistry) -> None:
    """Serve the application and its metrics at their addresses until a stop signal."""
    host, port = setting(HOST, str, http.LOOPBACK), setting(PORT, int, None, *OPERATORS_PORT)
    if port is None:
        required(PORT)
    metrics_fd = setting(METRICS_SOCKET, int, None)
    metrics_port = setting("IPA_METRICS_PORT", int, None)
    if metrics_fd is not None:
        MetricsThread(socket.socket(fileno=metrics_fd), registry).start()
    elif metrics_port is not None:
        MetricsThread(socket.create_server((host, metrics_port)), registry).start()
    drain_s = setting("IPA_DRAIN_S", float, DRAIN_S)
    http.serve(application, host, port or 0, drain_s, fd=setting(SOCKET, int, None))
