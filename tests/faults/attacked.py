"""The API in a process of its own, with short deadlines, to be attacked.

    python -m tests.faults.attacked

Each service is a fork of this process, which has imported all: memory that was once taken stays with a
process. A line of the input starts one, with how many files it may open or nothing; it prints its port and
its id. The next line ends it.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from dataclasses import replace

from ipa.api.limits import ApiLimits
from ipa.api.wiring import settle
from ipa.serving.connections import ServerBounds, raise_file_limit, within_files
from tests.fakes.services import FakeWorld
from tests.faults.server import served

# Seconds for a head and for a body.
HEAD_S, BODY_S = 1.5, 2.0


def serve(files: int | None) -> None:
    if files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    bounds = within_files(ServerBounds(head_s=HEAD_S, body_s=BODY_S + 1, idle_s=HEAD_S), raise_file_limit())
    services = replace(FakeWorld().play(5).services(), limits=ApiLimits(1e9, body_s=BODY_S))
    with served(services, bounds) as (_, port):
        settle()
        sys.stdout.write(f"{port} {os.getpid()}\n")
        sys.stdout.flush()
        signal.pause()


def main() -> None:
    """A service after the other, until the input ends."""
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            serve(int(line) if line.strip() else None)
        sys.stdin.readline()
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
