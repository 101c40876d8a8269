"""A control loop whose log goes into a pipe that nobody reads; it says on standard output how it fared.

    python -m tests.faults.blocked TICKS

Every tick logs some lines. Once told so on standard input it ends.
"""

from __future__ import annotations

import json
import logging
import sys
import time

from ipa.serving.logs import Format, LineQueue, logged
from tests.fakes.world import scenario

# So that a hundred ticks are more than the queue takes.
LINES_A_TICK = 100


def main(ticks: int) -> None:
    """Tick so often, say what came of it, and end."""
    with logged(Format.JSON) as logs:
        run(ticks, logs)


def run(ticks: int, logs: LineQueue) -> None:
    """The same, while it is logged."""
    log = logging.getLogger("ipa.control")
    world = scenario(lambda t_s: 25.0 if int(t_s / 60) % 2 else 5.0)
    took_s: list[float] = []
    for _ in range(ticks):
        began_s = time.perf_counter()
        [decision] = world.ticks(1)
        for _ in range(LINES_A_TICK):
            log.info("%s: %s %s", decision.pipeline, decision.reason.value, decision.detail)
        took_s.append(time.perf_counter() - began_s)
    took_s.sort()
    figures = {"ticks": ticks, "dropped": logs.dropped, "p99_s": took_s[int(0.99 * ticks)]}
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()
    sys.stdin.readline()
    # Somebody reads now; until there is room again this is dropped as all else was.
    dropped = -1
    while logs.dropped != dropped:
        dropped = logs.dropped
        log.info("the end")


if __name__ == "__main__":
    main(int(sys.argv[1]))
