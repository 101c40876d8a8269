"""Kill -9 of the service while it writes: `python -m experiments.attack.service_kills --times 50`.

Clients change the pipeline's control, give and remove pipelines and apply plans all the time. The service is
killed at random moments and started again on the same store; then every write it acknowledged must be there,
each requested change at most once, and every write to the cluster must have its decision in the record.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import httpx

from experiments.attack.figures import Figure, print_table
from experiments.attack.service import PIPELINE, Service, service
from ipa.api.bodies import PIPELINE as GIVEN

# Its control is changed all the time; a loop whose own is would decide afresh before each write.
STEADY = "steady"
# Services that are killed side by side.
SERVICES = 2
# The service runs so long, at random, before it is killed again.
RUNS_S = (0.1, 1.0)
ANSWER_S = 5.0


@dataclass
class Ledger:
    """Writes by what became of them. `acknowledged` and `applied` hold the tokens of those that succeeded."""

    acknowledged: list[str] = field(default_factory=list)
    unanswered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    # Names of pipelines that were given, and whether an acknowledged request removed them again.
    given: dict[str, bool] = field(default_factory=dict)
    applied: list[str] = field(default_factory=list)
    applied_again: int = 0
    in_flight: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def _new_token() -> str:
    return f"kill-{uuid.uuid4().hex}"


class Clients:
    """Three clients that write without a pause until told to stop; each repeats only what may be repeated."""

    def __init__(self, target: Service) -> None:
        self.ledger = Ledger()
        self._target = target
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeat, args=(write,), daemon=True)
            for write in (self._control, self._give, self._apply)
        ]

    def start(self) -> None:
        """Begin."""
        for each in self._threads:
            each.start()

    def stop(self) -> None:
        """End, once what is under way has an answer or none."""
        self._stop.set()
        for each in self._threads:
            each.join()

    def _repeat(self, write: Callable[[httpx.Client], None]) -> None:
        with httpx.Client(base_url=self._target.url, timeout=ANSWER_S, trust_env=False) as client:
            while not self._stop.is_set():
                try:
                    write(client)
                except httpx.TransportError:
                    with self.ledger.lock:
                        self.ledger.unanswered += 1
                    self._stop.wait(0.05)

    def _send(self, client: httpx.Client, method: str, path: str, **how: Any) -> httpx.Response:
        with self.ledger.lock:
            self.ledger.in_flight += 1
        try:
            answer = client.request(method, path, **how)
        finally:
            with self.ledger.lock:
                self.ledger.in_flight -= 1
        if not answer.is_success:
            with self.ledger.lock:
                self.ledger.refused[f"{method} {answer.status_code} {answer.json().get('code', '')}"] += 1
        return answer

    def _control(self, client: httpx.Client) -> None:
        token = _new_token()
        path = f"/v1/pipelines/{STEADY}/pause"
        if self._send(client, "POST", path, json={"reason": token}).is_success:
            self.ledger.acknowledged.append(token)

    def _give(self, client: httpx.Client) -> None:
        name, token = f"kill-{uuid.uuid4().hex[:12]}", _new_token()
        answer = self._send(client, "POST", f"/v1/pipelines?reason={token}", json={**GIVEN, "name": name})
        if not answer.is_success:
            return
        self.ledger.given[name] = False
        # One in eight stays, so that those that must be there can be counted too.
        if len(self.ledger.given) % 8 == 0:
            return
        # Until its removal is answered nobody can say whether it is there.
        self.ledger.given.pop(name)
        headers = {"If-Match": answer.headers["ETag"]}
        if self._send(client, "DELETE", f"/v1/pipelines/{name}", headers=headers).is_success:
            self.ledger.given[name] = True

    def _apply(self, client: httpx.Client) -> None:
        rate_rps = random.uniform(2.0, 14.0)
        answer = self._send(client, "POST", f"/v1/pipelines/{PIPELINE}/plans", json={"rate_rps": rate_rps})
        if not answer.is_success:
            return
        token, key = _new_token(), uuid.uuid4().hex
        path = f"/v1/plans/{answer.json()['plan_id']}:apply"
        headers = {"If-Match": answer.headers["ETag"], "Idempotency-Key": key}
        while not self._stop.is_set():
            try:
                answer = self._send(client, "POST", path, json={"reason": token}, headers=headers)
            except httpx.TransportError:
                # No answer: the same request again, under the same key, is what the key is for.
                with self.ledger.lock:
                    self.ledger.applied_again += 1
                self._stop.wait(0.1)
                continue
            if answer.is_success and answer.json()["action"] == "apply":
                self.ledger.applied.append(token)
            return


def run(times: int, seed: int) -> list[Figure]:
    """Kill services `times` times in all, side by side, and return the figures of all together.

    A start takes one core; each service has a store, a cluster and clients of its own.
    """
    each = [times // SERVICES + (number < times % SERVICES) for number in range(SERVICES)]
    with ProcessPoolExecutor(SERVICES, get_context("spawn")) as pool:
        per_service = list(pool.map(kill_one, each, range(seed, seed + SERVICES)))
    return [together(figures) for figures in zip(*per_service, strict=True)]


def together(figures: Sequence[Figure]) -> Figure:
    """A figure of all services: the sum, of times the longest, of what is asked of each the least."""
    first, values = figures[0], [each.value for each in figures]
    of = max if first.name.endswith(" s") else sum if first.at_least is None else min
    return replace(first, value=of(values))


def kill_one(times: int, seed: int) -> list[Figure]:
    """Kill a service `times` times and return what its store, its cluster and its answers say then."""
    draw = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder, service(Path(folder)) as target:
        clients = Clients(target)
        starts_s, with_writes = [target.start()], 0
        httpx.post(f"{target.url}/v1/pipelines", json={**GIVEN, "name": STEADY}).raise_for_status()
        clients.start()
        for number in range(times):
            time.sleep(draw.uniform(*RUNS_S))
            with_writes += clients.ledger.in_flight > 0
            target.kill()
            starts_s.append(target.start())
            if number % 10 == 9:
                acknowledged = len(clients.ledger.acknowledged)
                print(f"killed {number + 1} times, {acknowledged} writes acknowledged", flush=True)
        time.sleep(RUNS_S[1])
        clients.stop()
        return [
            Figure("kills", times),
            Figure("kills with a write under way", with_writes),
            Figure("longest start s", max(starts_s)),
            *_found(target, clients.ledger),
        ]


def _found(target: Service, ledger: Ledger) -> list[Figure]:
    with httpx.Client(base_url=target.url, timeout=60.0, trust_env=False) as client:
        entries = [
            json.loads(line)["entry"]
            for name in (PIPELINE, STEADY)
            for line in client.get("/v1/audit", params={"pipeline": name})
            .raise_for_status()
            .text.splitlines()
        ]
        names = {each["pipeline"] for each in _pages(client, "/v1/pipelines", "pipelines")}
        whole = client.get(f"/v1/pipelines/{PIPELINE}/record")
    decisions = [entry for entry in entries if entry["kind"] == "decision"]
    whys = Counter(entry["why"] for entry in entries if entry["kind"] == "control")
    changes = [entry for entry in decisions if entry["facts"]["action"] == "apply"]
    by_token = Counter(token for token in ledger.applied for entry in decisions if token in entry["why"])
    patches = [
        each
        for each in target.kube.writes
        if each.verb == "patch" and each.resource == "seldondeployments" and not each.is_dry_run
    ]
    # The loop goes on deciding between the export and the verification.
    is_whole = whole.is_success and whole.json()["decisions"] >= len(decisions)
    lost = len(ledger.acknowledged) - sum(whys[token] > 0 for token in ledger.acknowledged)
    wrong_given = [name for name, is_removed in ledger.given.items() if (name in names) is is_removed]
    unanswered = ledger.unanswered + ledger.applied_again
    ids = Counter(entry["decision_id"] for entry in decisions)
    return [
        Figure("acknowledged writes", len(ledger.acknowledged) + len(ledger.given) + len(ledger.applied)),
        Figure("unanswered writes", unanswered, note="sent again where that is safe"),
        Figure("acknowledged writes lost", lost + len(wrong_given), at_most=0),
        Figure("acknowledged changes not in the record", len(ledger.applied) - len(by_token), at_most=0),
        Figure("decisions doubled", sum(n - 1 for n in (*ids.values(), *by_token.values())), at_most=0),
        Figure("writes to the cluster", len(patches)),
        Figure("decisions to apply", len(changes)),
        Figure("writes without a decision", max(len(patches) - len(changes), 0), at_most=0),
        Figure("record verifies", int(is_whole), at_least=1),
    ]


def _pages(client: httpx.Client, path: str, key: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    following: str | None = path
    while following:
        answer = client.get(following).raise_for_status()
        entries += answer.json()[key]
        following = answer.links.get("next", {}).get("url")
    return entries


def main() -> int:
    """Run it and print the figures; exit code 1 where one is missed."""
    parser = argparse.ArgumentParser(prog="python -m experiments.attack.service_kills", description=__doc__)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    figures = run(args.times, args.seed)
    return print_table({"kill -9 of the service during writes": figures})


if __name__ == "__main__":
    sys.exit(main())
