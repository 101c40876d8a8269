"""Another client of an attacked service, in a process of its own: it times the answers to its probes.

    python -m experiments.attack.prober HOST PORT PATH [PATH ...]

It prints a line once it was answered for the first time, and its figures as JSON once its standard input
ends.
"""

from __future__ import annotations

import http.client
import json
import select
import sys
import time

# Seconds between two requests, and until one is given up.
EVERY_S = 0.05
GIVE_UP_S = 20.0


def ask(host: str, port: int, path: str) -> tuple[float, int]:
    """Seconds until the answer had come over a connection of its own, and its status; 0 for none."""
    began_s = time.monotonic()
    connection = http.client.HTTPConnection(host, port, timeout=GIVE_UP_S)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        answer.read()
        status = answer.status
    except (OSError, http.client.HTTPException):
        status = 0
    finally:
        connection.close()
    return time.monotonic() - began_s, status


def main(host: str, port: int, paths: list[str]) -> None:
    """Ask each path in turn until standard input ends."""
    answers_of: dict[str, list[tuple[float, int]]] = {path: [] for path in paths}
    for path in paths:
        ask(host, port, path)
    sys.stdout.write("asking\n")
    sys.stdout.flush()
    while not select.select([sys.stdin], [], [], EVERY_S)[0]:
        for path in paths:
            answers_of[path].append(ask(host, port, path))
    summary = {
        path: {
            "asked": len(answers),
            "failed": sum(status != http.HTTPStatus.OK for _, status in answers),
            "worst_s": max(seconds for seconds, _ in answers),
        }
        for path, answers in answers_of.items()
    }
    sys.stdout.write(json.dumps(summary) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3:])
