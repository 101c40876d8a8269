"""Sends requests at given times from a process of its own, so that it does not slow the service."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from experiments.demo.load import play


def main() -> None:
    """Send bodies in turn at the times, both lists in JSON files; write one JSON line a request."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--bodies", type=Path, required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--times", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--timeout", type=float, default=10.0)
    options = parser.parse_args()
    # A client has a machine of its own; here it would be late itself where neighbours are busy.
    with contextlib.suppress(PermissionError):
        os.nice(-10)
    times_s: list[float] = json.loads(options.times.read_text())
    bodies = [body.encode() for body in json.loads(options.bodies.read_text())]
    sent = asyncio.run(play(options.url, bodies, times_s, options.timeout))
    with options.out.open("w") as file:
        file.writelines(json.dumps(asdict(record)) + "\n" for record in sent)


if __name__ == "__main__":
    main()
