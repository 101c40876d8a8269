"""The API in a process of its own, with short deadlines, to be attacked.

    python -m tests.faults.attacked [FILES]

It prints its port, and serves until its standard input ends; FILES is how many files it may open.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import replace

from ipa.api.limits import ApiLimits
from ipa.api.wiring import settle
from ipa.serving.connections import ServerBounds, raise_file_limit, within_files
from tests.fakes.services import FakeWorld
from tests.faults.server import served

# Seconds for a head and for a body.
HEAD_S, BODY_S = 1.5, 2.0


def main(files: int | None) -> None:
    """Serve until told to end."""
    if files is not None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    bounds = within_files(ServerBounds(head_s=HEAD_S, body_s=BODY_S + 1, idle_s=HEAD_S), raise_file_limit())
    services = replace(FakeWorld().play(5).services(), limits=ApiLimits(1e9, body_s=BODY_S))
    with served(services, bounds) as (_, port):
        settle()
        sys.stdout.write(f"{port}\n")
        sys.stdout.flush()
        sys.stdin.read()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else None)
