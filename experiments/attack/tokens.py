"""Tokens that do not hold, against the real service: `python -m experiments.attack.tokens`."""

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
from tests.fakes.bad_tokens import bad_tokens

# Keys of the right form that do not exist: each is looked up in the store.
STRANGERS = 300
PATHS = (
    ("GET", "/v1/pipelines"),
    ("GET", f"/v1/pipelines/{PIPELINE}/status"),
    ("POST", f"/v1/pipelines/{PIPELINE}/plans"),
    ("POST", f"/v1/pipelines/{PIPELINE}/pause"),
)


def run(tell: Callable[[str], None] = lambda line: None) -> dict[str, list[Figure]]:
    """Send every bad token to every kind of operation, and a flood of unknown keys."""
    with tempfile.TemporaryDirectory() as name, service(Path(name), auth="keys") as target:
        ordinary = target.key("owner", "ordinary")
        target.start()
        sent = {name: f"Bearer {each}" for name, each in bad_tokens().items()}
        sent |= {f"stranger {number}": f"Bearer ipa_{number:012x}_{'A' * 43}" for number in range(STRANGERS)}
        let_in, answers, without_challenge = list[str](), Counter[int](), 0
        with (
            beside(target, ordinary) as watched,
            httpx.Client(base_url=target.url, timeout=30.0, trust_env=False) as client,
        ):
            for what, header in sent.items():
                for method, path in PATHS:
                    body = None if method == "GET" else {}
                    # As bytes: some are no ASCII, which a client of good manners would not send.
                    headers = {"Authorization": header.strip().encode()}
                    answer = client.request(method, path, json=body, headers=headers)
                    answers[answer.status_code] += 1
                    without_challenge += "www-authenticate" not in answer.headers
                    if answer.status_code != 401:
                        let_in.append(f"{what}: {answer.status_code}")
        headers = {"Authorization": f"Bearer {ordinary}"}
        good = httpx.get(f"{target.url}{PATHS[0][1]}", headers=headers, timeout=30.0)
    tell("hostile tokens: done")
    return {
        "hostile tokens": [
            Figure("requests with bad tokens", sum(answers.values()), note=f"{len(sent)} tokens"),
            Figure("answered other than 401", len(let_in), at_most=0, note="; ".join(let_in[:3])),
            Figure("without WWW-Authenticate", without_challenge, at_most=0),
            Figure("a good key is let in", int(good.is_success), at_least=1, note=str(good.status_code)),
            *watched.figures(most_memory_mb=50.0),
        ]
    }


def main() -> int:
    """Run it and print the figures; exit code 1 where one is missed."""
    argparse.ArgumentParser(prog="python -m experiments.attack.tokens", description=__doc__).parse_args()
    return print_table(run(lambda line: print(line, flush=True)))


if __name__ == "__main__":
    sys.exit(main())
