"""A service in a process of its own, for tests that measure its memory while others crowd it.

    python -m tests.faults.crowded FOLDER

It prints its address and the tokens of two viewers, and ends with its input.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from ipa.adapters.store import open_store
from ipa.adapters.store.state import DECISION, KeyIdentities
from ipa.api.context import ApiContext
from ipa.control.loop.scheduler import SystemClock
from ipa.model.access import Grant, Role
from tests.fakes.services import FakeWorld, over
from tests.faults.server import served

# Of an ordinary decision these are some tens of kilobytes.
INPUTS_BYTES = 30_000
DECISIONS = 600


@dataclass(frozen=True)
class Crowded:
    """Its address, its clients, and its process."""

    url: str
    viewer: str
    other: str
    process: psutil.Process

    @property
    def memory_mb(self) -> float:
        return float(self.process.memory_info().rss) / 1e6


@contextmanager
def crowded(folder: Path) -> Iterator[Crowded]:
    """The service, once it answers."""
    command = [sys.executable, "-m", "tests.faults.crowded", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            announced = json.loads(process.stdout.readline())
            yield Crowded(**announced, process=psutil.Process(process.pid))
        finally:
            process.stdin.close()
            process.wait(60)


@contextmanager
def crowd_of(folder: Path) -> Iterator[tuple[ApiContext, list[str]]]:
    """The services over a record of large decisions, and the tokens of two viewers."""
    clock, store = SystemClock(), open_store(f"sqlite:///{folder / 'ipa.sqlite3'}")
    made = [store.keys.create(name, Grant(Role.VIEWER, "default"), now=clock.now()) for name in "ab"]
    world = FakeWorld().play(20)
    texts = []
    for tick in range(DECISIONS):
        inputs = json.dumps({"tick": tick, "filler": "x" * INPUTS_BYTES})
        decision = replace(world.recorded[-1], tick=tick, decision_id=f"d-{tick}", inputs=inputs)
        texts.append((decision, DECISION.text(decision)))
    store._record_all(texts)
    services = over(world.services(), log=store, verify=store.verify)
    identities = (KeyIdentities(store.keys, clock),)
    yield replace(services, record=store, authenticators=identities), [token for _, token in made]
    store.close()


def main(folder: Path) -> None:
    """Serve until the input ends."""
    with crowd_of(folder) as (services, tokens), served(services) as (host, port):
        announced = {"url": f"http://{host}:{port}", "viewer": tokens[0], "other": tokens[1]}
        print(json.dumps(announced), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
