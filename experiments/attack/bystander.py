"""An ordinary user beside an attack: `python -m experiments.attack.bystander URL KEY`.

In a process of its own it asks for health, status, history and a plan in turn from the moment it prints
`ready`, and tells as JSON what it was answered once its standard input ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

import httpx
from prometheus_client.parser import text_string_to_metric_families

from experiments.attack.figures import Figure
from experiments.attack.service import PIPELINE, ROOT, Service

# Requests a second, about what a page and a CI job send together.
RATE_RPS = 10.0
ANSWER_S = 10.0
REQUESTS = (
    ("GET", "/healthz", None),
    ("GET", f"/v1/pipelines/{PIPELINE}/status", None),
    ("GET", f"/v1/pipelines/{PIPELINE}/history?limit=20", None),
    ("POST", f"/v1/pipelines/{PIPELINE}/plans", {"rate_rps": 7.0}),
)
# The first ticks of a process load what the later ones have; what they skip is no attack's doing.
WARM_TICKS = 5
WARM_S = 60.0
# Of the service's own figures those by which a skipped tick is known.
TICKS, SKIPPED = "ipa_decisions_total", "ipa_skipped_ticks_total"


@dataclass
class Answers:
    """The answers to the bystander: `lost` had none, `refused` another status than success."""

    sent: int = 0
    lost: int = 0
    refused: int = 0
    worst_s: float = 0.0
    worst_health_s: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)


@dataclass
class Watched:
    """The effects on the service during an attack."""

    requests: Answers = field(default_factory=Answers)
    ticks: float = 0.0
    skipped: float = 0.0
    lasted_s: float = 0.0
    memory_before_mb: float = 0.0
    memory_peak_mb: float = 0.0

    def figures(self, most_memory_mb: float) -> list[Figure]:
        """The figures asked of every attack on a running service."""
        kept_ratio = self.ticks / max(self.ticks + self.skipped, 1.0)
        grown_mb = self.memory_peak_mb - self.memory_before_mb
        statuses = ", ".join(f"{count} × {status}" for status, count in self.requests.statuses.items())
        ticks = f"{self.ticks:g} in {self.lasted_s:.0f} s"
        memory = f"from {self.memory_before_mb:.0f}"
        return [
            Figure("ordinary requests", self.requests.sent, note=statuses),
            Figure(
                "ordinary requests lost or refused", self.requests.lost + self.requests.refused, at_most=0
            ),
            Figure("slowest ordinary answer s", self.requests.worst_s, at_most=1.0),
            Figure("slowest health s", self.requests.worst_health_s, at_most=0.5),
            Figure("ticks kept ratio", kept_ratio, at_least=0.99, note=ticks),
            Figure("memory grown MB", grown_mb, at_most=most_memory_mb, note=memory),
        ]


@contextmanager
def beside(target: Service, key: str) -> Iterator[Watched]:
    """An ordinary user and a look at ticks and memory while an attack goes on; filled in as it ends."""
    watched = Watched()
    command = [sys.executable, "-m", "experiments.attack.bystander", target.url, key]
    ended = threading.Event()

    def weigh() -> None:
        while not ended.wait(0.1):
            watched.memory_peak_mb = max(watched.memory_peak_mb, target.memory_mb)

    weighing = threading.Thread(target=weigh, daemon=True)
    before, began_s = _warm(target, key), time.monotonic()
    watched.memory_before_mb = watched.memory_peak_mb = target.memory_mb
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        weighing.start()
        try:
            yield watched
        finally:
            output, _ = process.communicate(timeout=60)
            ended.set()
            weighing.join()
    after = counted(target, key)
    watched.requests = Answers(**json.loads(output))
    watched.lasted_s = time.monotonic() - began_s
    watched.ticks, watched.skipped = (after[name] - before[name] for name in (TICKS, SKIPPED))


def _warm(target: Service, key: str) -> dict[str, float]:
    """The counters once the loop has made its first ticks."""
    end_s = time.monotonic() + WARM_S
    while True:
        counts = counted(target, key)
        if counts[TICKS] >= WARM_TICKS or time.monotonic() > end_s:
            return counts
        time.sleep(0.5)


def counted(target: Service, key: str) -> dict[str, float]:
    """The service's counters of ticks that were run and of those that were not, of its pipeline."""
    text = httpx.get(f"{target.url}/metrics", headers=_headers(key), timeout=60.0).raise_for_status().text
    counts = {TICKS: 0.0, SKIPPED: 0.0}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in counts and sample.labels.get("pipeline") == PIPELINE:
                counts[sample.name] += sample.value
    return counts


def _headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def main(url: str, key: str) -> None:
    """Ask until standard input ends."""
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    tally, number, statuses = Answers(), 0, Counter[str]()
    print("ready", flush=True)
    began_s = time.monotonic()
    with httpx.Client(base_url=url, headers=_headers(key), timeout=ANSWER_S, trust_env=False) as client:
        while not ended.wait(max(began_s + number / RATE_RPS - time.monotonic(), 0.0)):
            method, path, body = REQUESTS[number % len(REQUESTS)]
            number += 1
            sent_s = time.monotonic()
            tally.sent += 1
            try:
                answer = client.request(method, path, json=body)
            except httpx.TransportError as error:
                tally.lost += 1
                statuses[type(error).__name__] += 1
            else:
                tally.refused += not answer.is_success
                statuses[str(answer.status_code)] += 1
            took_s = time.monotonic() - sent_s
            tally.worst_s = max(tally.worst_s, took_s)
            if path == "/healthz":
                tally.worst_health_s = max(tally.worst_health_s, took_s)
    print(json.dumps({**asdict(replace(tally, statuses={})), "statuses": statuses}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
