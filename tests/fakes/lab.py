"""A stand-in for the simulator in tests of the experiments' runner: quick, with the same figures' names.

As a program it conducts one experiment: `python -m tests.fakes.lab FILE OUT [--resume]`. With LAB_STRIKE=N in
the environment, the N-th run that begins sends LAB_SIGNAL to the program, instead of finishing.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.lab import simulated, simulated_page
from experiments.lab.conduct import conduct
from experiments.lab.files import load_experiment
from experiments.lab.pool import Interrupted
from experiments.lab.runners import Runner
from experiments.lab.units import Outcome

COST = {"ours": 0.8, "ipa": 1.0, "fa2-low": 0.6, "fa2-high": 1.9, "rim": 1.4}


def work(payload: Mapping[str, Any]) -> Outcome:
    """Made-up figures that depend on the run alone."""
    _strike()
    noise = random.Random(repr(sorted(payload.items())))
    cost = COST.get(payload["policy"], 1.2)
    row = {
        "pas_mean": 0.4 + 0.1 * cost + noise.uniform(-0.01, 0.01),
        "cores_mean": 10 * cost + noise.uniform(-0.5, 0.5),
        "violation_ratio": noise.uniform(0, 0.02) / cost,
        "lost": noise.randrange(10),
        "latency_p50_s": 0.1,
        "latency_p99_s": noise.uniform(0.3, 0.9),
        "changes": noise.randrange(20),
        "requests": 12_000,
    }
    ticks = {
        "at_s": [float(10 * at) for at in range(12)],
        "rate_rps": [5.0 + (20.0 if 4 <= at < 8 else 0.0) for at in range(12)],
        "cores": [10 * cost + (5 if 4 <= at < 9 else 0) for at in range(12)],
        "pas": [0.5, None, *[0.6] * 10],
    }
    return Outcome(row, ticks if payload["ticks"] else {})


def _strike() -> None:
    """Count the runs that began in a file, and stop the program at the one that was asked for."""
    if "LAB_STRIKE" not in os.environ:
        return
    counter = Path(os.environ["LAB_COUNTER"])
    with counter.open("a") as stream:
        stream.write("x")
    if counter.stat().st_size >= int(os.environ["LAB_STRIKE"]):
        os.kill(os.getppid(), getattr(signal, os.environ["LAB_SIGNAL"]))
        while True:  # until the program, or its end, ends this worker
            time.sleep(60)


RUNNER = Runner(simulated.units, work, simulated_page.parts, simulated_page.headline)


def main() -> int:
    """Conduct the experiment; 130 where it was interrupted."""
    try:
        experiment = load_experiment(Path(sys.argv[1]))
        conduct(experiment, Path(sys.argv[2]), resume="--resume" in sys.argv, runner=RUNNER, code="test")
    except Interrupted as stopped:
        print(stopped)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
