"""Sends requests at given times from a process of its own, so that it does not slow the service."""

from __future__ import annotations

import argparse
import asyncio
import json
from dataclasses import asdict
from pathlib import Path

from experiments.demo.load import play
from experiments.fidelity.case import bodies_of


def main() -> None:
    """Send the pipeline's requests at the times of a JSON file and write one JSON line a request."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--pipeline", required=True)
    parser.add_argument("--url", required=True)
    parser.add_argument("--times", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--timeout", type=float, default=10.0)
    options = parser.parse_args()
    times_s: list[float] = json.loads(options.times.read_text())
    sent = asyncio.run(play(options.url, bodies_of(options.pipeline), times_s, options.timeout))
    with options.out.open("w") as file:
        file.writelines(json.dumps(asdict(record)) + "\n" for record in sent)


if __name__ == "__main__":
    main()
