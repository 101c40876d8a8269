"""A program that sends one gRPC request by Seldon's own client: JSON on standard input, JSON out.

It runs in the interpreter that has seldon-core, which may differ from the service's: seldon-core 1.17.1, the
last under the Apache License, needs older versions of packages that the service has. So this module imports
none of these. `SeldonClient` has no timeouts: an alarm ends it.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from importlib import import_module
from typing import Any


def main() -> None:
    """Send the request that standard input describes, and print its result."""
    request = json.load(sys.stdin)
    try:
        client = import_module("seldon_core.seldon_client").SeldonClient(**request["client"])
        result = _within(request["timeout_s"], lambda: client.predict(raw_data=request["body"]))
    except ImportError as error:
        result = {"lacks": str(error)}
    print(json.dumps(result, default=str))  # noqa: T201


def _ring(*_of: object) -> None:
    raise TimeoutError


def _within(timeout_s: float, call: Any) -> dict[str, Any]:
    """The answer of the call, its error, and the time that it took."""
    signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, timeout_s)
    started_s, answer, fault = time.perf_counter(), None, ""
    try:
        result = call()
        answer = result.response
        fault = "" if result.success else f"it answered {_brief(result.msg)}"
    except Exception as error:
        fault = f"no answer: {_brief(str(error) or type(error).__name__)}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    latency_s = time.perf_counter() - started_s
    if latency_s >= timeout_s:
        # The client turns exceptions of all kinds into a message.
        answer, fault = None, f"no answer within {timeout_s:g} s"
    return {"answer": answer, "detail": fault, "latency_s": latency_s}


def _brief(message: str) -> str:
    """The details of gRPC's error, whose text has many lines; of another error the message."""
    match = re.search(r'details = "([^"]*)"', message)
    return match.group(1) if match else message


if __name__ == "__main__":
    main()
