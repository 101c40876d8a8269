"""Settings of the router and the queue: flags, or environment variables if they run as containers."""

from __future__ import annotations

import argparse
import os
import socket
from typing import Any

from prometheus_client import CollectorRegistry

from ipa.dataplane import http
from ipa.dataplane.http import MAX_BODY_BYTES, MAX_HELD_BYTES, Application, BodyLimits
from ipa.dataplane.scraping import MetricsThread

# The variable that tells a process the token of its supervisor.
ADMIN_TOKEN = "IPA_ADMIN_TOKEN"  # noqa: S105  (the name of a variable)
# The variables by which the operator sets the port of a container.
OPERATORS_PORT = ("PREDICTIVE_UNIT_HTTP_SERVICE_PORT", "PREDICTIVE_UNIT_SERVICE_PORT")
# Those by which what bodies may have is told to all processes of a pipeline.
MAX_BODY, MAX_HELD = "IPA_MAX_BODY_MB", "IPA_MAX_HELD_MB"
MIB = 1024 * 1024
# Well below the grace period of 20 s that the operator sets, 10 s of which the pod sleeps first.
DRAIN_S = 5.0


def add(parser: argparse.ArgumentParser, flag: str, *names: str, **given: Any) -> None:
    """Add a flag whose default is the first of the environment variables `names` that is set.

    The flag is required if it has no default.
    """
    found = next((os.environ[name] for name in names if os.environ.get(name)), None)
    default = given.pop("default", None)
    # A flag that is appended to has no default: it would be appended to as well.
    chosen = None if given.get("action") == "append" else default if found is None else found
    is_optional = given.pop("optional", False)
    words = f"{given.pop('help', '')} (env {', '.join(names)})".strip()
    parser.add_argument(
        flag,
        default=chosen,
        required=found is None and default is None and not is_optional,
        help=words,
        **given,
    )


def add_address(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the address to listen on and the drain time."""
    add(parser, "--host", "IPA_HOST", default="127.0.0.1")
    add(parser, "--port", "IPA_PORT", *OPERATORS_PORT, type=int)
    parser.add_argument("--fd", type=int, help="an inherited socket that already listens on that port")
    add(
        parser,
        "--metrics-port",
        "IPA_METRICS_PORT",
        type=int,
        optional=True,
        help="answer /metrics there too, in a thread that requests do not delay",
    )
    parser.add_argument("--metrics-fd", type=int, help="an inherited socket for it")
    add(parser, "--drain-s", "IPA_DRAIN_S", type=float, default=DRAIN_S, help="to end requests in flight")

    add(
        parser,
        "--max-body-mb",
        MAX_BODY,
        type=float,
        default=MAX_BODY_BYTES / MIB,
        help="the most MiB of a request's body; it may have one value per 8 bytes of that",
    )
    add(
        parser,
        "--max-held-mb",
        MAX_HELD,
        type=float,
        default=MAX_HELD_BYTES / MIB,
        help="the most MiB of all bodies that are read or served at once, their parsed forms included",
    )


def told_limits() -> dict[str, str]:
    """Return the limits of bodies that the environment sets, for processes that do not inherit it."""
    return {name: os.environ[name] for name in (MAX_BODY, MAX_HELD) if name in os.environ}


def body_limits(given: argparse.Namespace) -> BodyLimits:
    """Return the limits of bodies that are given."""
    return BodyLimits(round(given.max_body_mb * MIB), round(given.max_held_mb * MIB))


def serve(given: argparse.Namespace, application: Application) -> None:
    """Serve the application at the address that is given, until a stop signal."""
    http.serve(application, given.host, given.port, given.drain_s, fd=given.fd)


def start_metrics(given: argparse.Namespace, registry: CollectorRegistry) -> None:
    """Start to answer /metrics by a thread, if a port or socket for it is given."""
    if given.metrics_fd is not None:
        listener = socket.socket(fileno=given.metrics_fd)
    elif given.metrics_port is not None:
        listener = socket.create_server((given.host, given.metrics_port))
    else:
        return
    MetricsThread(listener, registry).start()


def words(given: list[str] | None, name: str) -> list[str]:
    """Return the values of a flag with the action append; without it, those of the environment variable."""
    return given or os.environ.get(name, "").split()
