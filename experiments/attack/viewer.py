"""A viewer's largest demands on a service, with a key: the largest lists, every stream.

`python -m experiments.attack.viewer` starts the real service and tries each beside an ordinary user.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import httpx

from experiments.attack.bystander import beside
from experiments.attack.figures import Figure, print_table
from experiments.attack.service import PIPELINE, Service, service
from ipa.adapters.store import open_store

LISTERS, STREAMS = 30, 200
LISTS_S = 10.0
LARGEST = 500
# What the service remembers at the start: some hours of ticks.
DECISIONS = 1000

Attack = Callable[[Service, httpx.AsyncClient], Awaitable[list[Figure]]]


async def lists(target: Service, client: httpx.AsyncClient) -> list[Figure]:
    """Ask for the largest pages from many connections at once, over and over."""
    statuses: Counter[int] = Counter()
    end_s = time.monotonic() + LISTS_S

    async def one() -> None:
        while time.monotonic() < end_s:
            answer = await client.get(f"/v1/pipelines/{PIPELINE}/history?limit={LARGEST}&inputs=true")
            statuses[answer.status_code] += 1

    await asyncio.gather(*(one() for _ in range(LISTERS)))
    return [Figure("lists answered", statuses[200], note=_in_words(statuses))]


async def streams(target: Service, client: httpx.AsyncClient) -> list[Figure]:
    """Take as many streams of events as there are, then see whether another user still gets one."""
    statuses: Counter[int] = Counter()

    async def take(sender: httpx.AsyncClient) -> httpx.Response:
        request = sender.build_request("GET", f"/v1/events?pipeline={PIPELINE}")
        return await sender.send(request, stream=True)

    taken = await asyncio.gather(*(take(client) for _ in range(STREAMS)))
    for answer in taken:
        statuses[answer.status_code] += 1
    headers = {"Authorization": f"Bearer {target.key('viewer', 'other')}"}
    async with httpx.AsyncClient(base_url=target.url, headers=headers, trust_env=False) as other:
        answer = await take(other)
        status = answer.status_code
        await answer.aclose()
    for answer in taken:
        await answer.aclose()
    return [
        Figure("streams taken by one", statuses[200], note=_in_words(statuses)),
        Figure("another user's stream", int(status == 200), at_least=1, note=str(status)),
    ]


async def revoked(target: Service, client: httpx.AsyncClient) -> list[Figure]:
    """Revoke a key while its stream goes on; the seconds until that ends."""
    made = target.key("viewer", "leaver")
    headers = {"Authorization": f"Bearer {made}"}
    store, open_s = open_store(target.store_url), 20.0
    async with (
        httpx.AsyncClient(base_url=target.url, headers=headers, timeout=30.0, trust_env=False) as leaver,
        leaver.stream("GET", f"/v1/events?pipeline={PIPELINE}") as answer,
    ):
        lines = answer.aiter_raw()
        await anext(lines)
        store.keys.revoke(made.split("_")[1], now=datetime.now(UTC))
        revoked_s = time.monotonic()
        with suppress(TimeoutError, httpx.TransportError):
            async with asyncio.timeout(open_s):
                async for _ in lines:
                    continue
            open_s = time.monotonic() - revoked_s
    store.close()
    return [Figure("stream after its key is revoked s", open_s, at_most=2.0)]


def _in_words(statuses: Counter[int]) -> str:
    return ", ".join(f"{count} × {status}" for status, count in statuses.most_common())


# The attacks, and by how many megabytes the service may grow in each.
ATTACKS: dict[str, tuple[Attack, float]] = {
    "largest lists, 30 connections": (lists, 50.0),
    "every event stream": (streams, 50.0),
    "a key that is revoked": (revoked, 50.0),
}


def run(tell: Callable[[str], None] = lambda line: None) -> dict[str, list[Figure]]:
    """The figures of each attack."""
    by_load: dict[str, list[Figure]] = {}
    with tempfile.TemporaryDirectory() as folder, service(Path(folder), auth="keys") as target:
        target.remember(DECISIONS)
        ordinary, abusive = target.key("owner", "ordinary"), target.key("viewer", "abusive")
        target.start()
        for name, (attack, most_memory_mb) in ATTACKS.items():
            with beside(target, ordinary) as watched:
                figures = asyncio.run(_attacked(target, abusive, attack))
            by_load[name] = [*figures, *watched.figures(most_memory_mb)]
            tell(f"{name}: done")
    return by_load


async def _attacked(target: Service, key: str, attack: Attack) -> list[Figure]:
    headers, limits = {"Authorization": f"Bearer {key}"}, httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=target.url, headers=headers, timeout=60.0, limits=limits, trust_env=False
    ) as client:
        return await attack(target, client)


def main() -> int:
    """Run it and print the figures; exit code 1 where one is missed."""
    argparse.ArgumentParser(prog="python -m experiments.attack.viewer", description=__doc__).parse_args()
    return print_table(run(lambda line: print(line, flush=True)))


if __name__ == "__main__":
    sys.exit(main())
