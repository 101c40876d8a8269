"""A router or queue whose event loop is watched: `python -m experiments.attack.watched FILE MODULE [...]`.

It runs the module with the arguments that follow. Each time that the loop is late it writes a line of JSON to
the file: the moment on the machine's monotonic clock, the seconds by which it is late, and the CPU time that
the loop's own thread took since it was last looked at.
"""

from __future__ import annotations

import asyncio
import json
import runpy
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ipa.dataplane import environment
from ipa.serving.protocol import BoundedServer

# The loop is looked at this often, and lateness below the least is not written.
EVERY_S = 0.005
LEAST_S = 0.01


@dataclass(frozen=True, slots=True)
class Stop:
    """A time in which a loop read nothing: when it ended, its length, and the CPU time of its thread."""

    at_s: float
    late_s: float
    cpu_s: float


def stops(file: Path, since_s: float) -> Iterator[Stop]:
    """The stops that were written to the file from that moment on."""
    for line in file.read_text(encoding="utf-8").splitlines():
        stop = Stop(*json.loads(line))
        if stop.at_s >= since_s:
            yield stop


class WatchedServer(BoundedServer):
    """A server that writes when its event loop is late."""

    file: Path

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, and looking."""
        await super().startup(sockets=sockets)
        self._log = self.file.open("w", buffering=1, encoding="utf-8")
        self._plan()

    def _plan(self) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(EVERY_S, self._look, loop.time() + EVERY_S, time.thread_time())

    def _look(self, due_s: float, cpu_s: float) -> None:
        now_s = time.monotonic()
        late_s = now_s - due_s
        if late_s > LEAST_S:
            self._log.write(json.dumps((now_s, late_s, time.thread_time() - cpu_s)) + "\n")
        self._plan()


def main(file: str, module: str, *arguments: str) -> None:
    """Run the module."""
    WatchedServer.file = Path(file)
    vars(environment)["BoundedServer"] = WatchedServer
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
