"""One cell on real processes: the load, then more than the configuration carries; and what came of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.demo.summary import read_requests
from experiments.fidelity.case import bodies_of, scores_of
from experiments.scorecard.figures import Figures
from ipa.forecast.arrivals import request_times, steps

# A request that waits longer has failed.
TIMEOUT_S = 10.0
# The rate beyond the capacity with which it is measured, and the seconds until all queues are full.
OVERLOAD_RATIO, FILLING_S = 1.5, 1
# A percentile is measured where so many requests are beyond it; else the 95th is.
LEAST_BEYOND = 5
SEED = 23


@dataclass(frozen=True, slots=True)
class Programme:
    """The load of a cell in seconds: until the loop believes, the measured time, then the overload.

    After a second without load the overload begins.
    """

    learning_s: int
    measured_s: int
    overload_s: int

    def times_s(self, rate_rps: float, capacity_rps: float) -> list[float]:
        """When requests are sent."""
        usual_s = self.learning_s + self.measured_s
        over_rps = OVERLOAD_RATIO * capacity_rps
        load = steps((rate_rps, usual_s), (0.0, 1), (over_rps, self.overload_s))
        return [float(at_s) for at_s in request_times(load, seed=SEED)]

    def percentile(self, rate_rps: float) -> float:
        """The percentile that so many requests tell."""
        return 99.0 if rate_rps * self.measured_s >= LEAST_BEYOND / 0.01 else 95.0


PROGRAMME, QUICK = Programme(6, 10, 4), Programme(3, 5, 3)


def start_sender(name: str, url: str, times_s: Sequence[float], folder: Path) -> subprocess.Popen[bytes]:
    """The sender of the pipeline's requests at those times, a process that writes requests.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    bodies, times, out = (folder / it for it in ("bodies.json", "times.json", "requests.jsonl"))
    bodies.write_text(json.dumps([body.decode() for body in bodies_of(name)]))
    times.write_text(json.dumps(list(times_s)))
    command = [sys.executable, "-m", "experiments.live.traffic", "--url", url, "--bodies", str(bodies)]
    command += ["--times", str(times), "--out", str(out), "--timeout", f"{TIMEOUT_S:g}"]
    return subprocess.Popen(command)


@dataclass(frozen=True, slots=True)
class Sent:
    """What the sender saw: latencies, lost requests and accuracy in the measured time, and the capacity."""

    latencies_s: np.ndarray
    lost: int
    accuracy: float | None
    capacity_rps: float | None

    def figures(self, percentile: float, busy_ratio: float | None, change_s: float | None) -> Figures:
        """What was measured, with what only the processes' own counters tell."""
        has_answers = len(self.latencies_s) > 0
        return Figures(
            mean_s=float(np.mean(self.latencies_s)) if has_answers else None,
            p50_s=float(np.median(self.latencies_s)) if has_answers else None,
            tail_s=float(np.quantile(self.latencies_s, percentile / 100)) if has_answers else None,
            capacity_rps=self.capacity_rps,
            busy_ratio=busy_ratio,
            accuracy=self.accuracy,
            change_s=change_s,
        )


def sent_of(name: str, programme: Programme, path: Path) -> Sent:
    """What became of the requests in the sender's file."""
    requests = read_requests(path)
    begins_s, ends_s = programme.learning_s, programme.learning_s + programme.measured_s
    usual = [it for it in requests if begins_s <= it["at_s"] < ends_s]
    answered = [it for it in usual if it["outcome"] == "answered"]
    scores = scores_of(name, [(it["page"], it["answer"]) for it in answered])
    return Sent(
        np.array([it["latency_s"] for it in answered]),
        len(usual) - len(answered),
        float(np.mean(scores)) if scores else None,
        _capacity_rps(requests, ends_s + 1 + FILLING_S, ends_s + 1 + programme.overload_s),
    )


def _capacity_rps(requests: Sequence[Mapping[str, Any]], since_s: float, until_s: float) -> float | None:
    """The answers a second in that time; None if there was none."""
    ended = [it["at_s"] + it["latency_s"] for it in requests if it["outcome"] == "answered"]
    count = sum(since_s <= at_s < until_s for at_s in ended)
    return count / (until_s - since_s) if count else None
