"""One request by Seldon's own client, as a program: JSON in on standard input, JSON out.

It runs in the interpreter that has seldon-core, which may be another than the service's: seldon-core 1.17.1,
the last under the Apache License, wants older versions of packages that the service has. So nothing that
needs those is imported. `SeldonClient` has no timeouts: an alarm ends it.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from importlib import import_module
from types import FrameType
from typing import Any


class Late(Exception):  # noqa: N818  (no error: the answer to the alarm)
    """The alarm: there is no answer in time."""


def main() -> None:
    """Send the request that standard input describes, and print its result."""
    asked = json.load(sys.stdin)
    try:
        found = _sent(asked)
    except ImportError as error:
        found = {"lacks": str(error)}
    print(json.dumps(found, default=str))  # noqa: T201


def _ring(_signal: int, _frame: FrameType | None) -> None:
    raise Late


def _within(timeout_s: float, call: Any) -> tuple[Any, str, float]:
    """The result of the call, the fault, and the time that it took."""
    signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    started_s, result, fault = time.perf_counter(), None, ""
    try:
        result = call()
    except Exception as error:
        fault = f"no answer: {_brief(str(error) or type(error).__name__)}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    took_s = time.perf_counter() - started_s
    if took_s >= timeout_s:
        # The client turns exceptions of all kinds into a message.
        result, fault = None, f"no answer within {timeout_s:g} s"
    return result, fault, took_s


def _brief(message: str) -> str:
    """The details of gRPC's error, whose text has many lines; else the message."""
    found = re.search(r'details = "([^"]*)"', message)
    return found.group(1) if found else message


def _sent(asked: dict[str, Any]) -> dict[str, Any]:
    """The result of a request by `SeldonClient`."""
    client = import_module("seldon_core.seldon_client").SeldonClient(
        gateway="istio" if asked["gateway"] else "seldon",
        transport=asked["transport"],
        namespace=asked["namespace"],
        deployment_name=asked["name"],
        gateway_endpoint=asked["endpoint"],
    )
    result, fault, latency_s = _within(asked["timeout_s"], lambda: client.predict(raw_data=asked["body"]))
    if result is not None and not result.success:
        fault = f"it answered {_brief(result.msg)}"
    return {"answer": getattr(result, "response", None), "detail": fault, "latency_s": latency_s}


if __name__ == "__main__":
    main()
