"""Attempts of strangers at the doors of a service: a `Range` that never ends, and secrets of its settings.

`python -m experiments.attack.doors` starts the real service and tries each beside an ordinary user.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import httpx

from experiments.attack.bystander import beside
from experiments.attack.figures import Figure, print_table
from experiments.attack.service import PIPELINE, service

# As long as a header may be. Each digit made starlette before 0.49.1 look at all that follow.
DIGITS, RANGES = 31_000, 20
FILES = ("/assets/style.css", "/")
SECRET = "planted5f1c9e"
# The secret in each part of a setting that may hold one.
SETTINGS = {
    # With a user, a password or a query it is refused.
    "IPA_GATEWAY_URL": f"http://127.0.0.1:1/{SECRET}",
    "IPA_GITOPS_REMOTE": f"https://ada:{SECRET}@127.0.0.1:1/x.git?key={SECRET}",
    "IPA_PROMETHEUS_TOKEN": SECRET,
}
PATHS = (
    *("/healthz", "/readyz", "/readyz?verbose", "/metrics", "/openapi.json", "/v1/me", "/v1/configuration"),
    *("/v1/pipelines", "/v1/fleet"),
    *(f"/v1/pipelines/{PIPELINE}{part}" for part in ("", "/status", "/history", "/record")),
)


def run(tell: Callable[[str], None] = lambda line: None) -> dict[str, list[Figure]]:
    """The figures of each attack."""
    with tempfile.TemporaryDirectory() as folder, service(Path(folder), auth="keys", **SETTINGS) as target:
        ordinary = target.key("owner", "ordinary")
        operator = (
            target.command("key", "create", "--role", "operator", "--name", "ops").strip().splitlines()[-1]
        )
        target.start()
        answers: Counter[int] = Counter()
        with (
            beside(target, ordinary) as watched,
            httpx.Client(base_url=target.url, trust_env=False) as client,
        ):
            for number in range(RANGES):
                headers = {"Range": f"bytes={'9' * DIGITS}"}
                answers[
                    client.get(FILES[number % len(FILES)], headers=headers, timeout=60.0).status_code
                ] += 1
        statuses = ", ".join(f"{count} × {status}" for status, count in answers.items())
        doors = {
            "a Range of 31 000 digits": [
                Figure("sent", RANGES),
                Figure("answered other than whole", RANGES - answers[200], at_most=0, note=statuses),
                *watched.figures(most_memory_mb=50.0),
            ]
        }
        tell("ranges: done")
        hits: list[str] = []
        with httpx.Client(base_url=target.url, timeout=30.0, trust_env=False) as client:
            for who, key in {
                "nobody": "",
                "a stranger": "x",
                "an owner": ordinary,
                "an operator": operator,
            }.items():
                headers = {"Authorization": f"Bearer {key}"} if key else {}
                for path in PATHS:
                    answer = client.get(path, headers=headers)
                    if SECRET in answer.text or SECRET in repr(answer.headers):
                        hits.append(f"{who} {path}")
        target.stop()
        if SECRET in target.log.read_text(encoding="utf-8"):
            hits.append("log")
        if any(SECRET.encode() in path.read_bytes() for path in Path(folder).glob("ipa.sqlite3*")):
            hits.append("store")
    tell("secrets: done")
    searched = Figure("answers searched", 4 * len(PATHS), note="and the log and the store")
    return {
        **doors,
        "secrets in settings": [searched, Figure("found", len(hits), at_most=0, note="; ".join(hits[:5]))],
    }


def main() -> int:
    """Run it and print the figures; exit code 1 where one is missed."""
    argparse.ArgumentParser(prog="python -m experiments.attack.doors", description=__doc__).parse_args()
    return print_table(run(lambda line: print(line, flush=True)))


if __name__ == "__main__":
    sys.exit(main())
