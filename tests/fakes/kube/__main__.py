"""Serves the fake cluster in real time, for what talks to a cluster from outside.

python -m tests.fakes.kube --folder DIR --ready-s 3 &
IPA_TEST_KUBECONFIG=DIR/kubeconfig IPA_TEST_TIMEOUT_S=60 make test-cluster
"""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path

from tests.fakes.kube import FakeKube, Trouble
from tests.fakes.kube.store import Json

TICK_S = 0.1
# Images that nobody can pull.
NOWHERE = "registry.invalid/"


def trouble(pod: Json) -> Trouble | None:
    """The faults of a pod of that spec."""
    is_nowhere = any(str(one.get("image", "")).startswith(NOWHERE) for one in pod["containers"])
    return Trouble.IMAGE if is_nowhere else None


def main() -> None:
    """Tick until a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m tests.fakes.kube", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="where the kubeconfig is written")
    parser.add_argument("--ready-s", type=float, default=3.0, help="a pod is ready after that")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    ready_ticks = max(1, round(options.ready_s / TICK_S))
    with FakeKube(roll_ticks=ready_ticks, capacity_cores=100.0, trouble_of=trouble) as kube:
        print(kube.kubeconfig(options.folder), flush=True)
        while not stop.wait(TICK_S):
            kube.tick()


if __name__ == "__main__":
    main()
