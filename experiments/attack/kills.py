"""Kill -9 of router, queues or model servers under load, on real processes.

    python -m experiments.attack.kills --target queue --times 30 --rate 100

starts the local target with a stub model (or --pipeline digits), sends requests at a fixed rate whether or
not answers come, ends one process after the other, and prints what became of the requests as JSON. A request
counts as in flight if it was sent before a kill and had no answer by then. Exit code 1 if a request is lost
that must not be, or if a killed router does not answer new ones within a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp

from ipa.files.pipelines import load_pipeline
from ipa.model.pipeline import Objective, Pipeline, Sla, Stage, Variant, chain
from ipa.model.plan import StageConfig
from ipa.targets.local.section import LocalRun
from ipa.targets.local.workload import LocalWorkload

TARGETS = ("queue", "router", "model")
# What `make attack` kills: at so many requests a second, so many times.
ATTACKS = (("queue", 100.0, 50), ("queue", 20.0, 50), ("router", 100.0, 30), ("model", 100.0, 30))
STUB = Path(__file__).with_name("stub.py")
# Longer than any restart: a request that is lost shows, one that is late does not.
DROP_AFTER_S = 10.0
# After the last kill, so that what it lost has shown.
REST_S = 1.0
# An answer takes a few hundredths of a second; that many requests come in longer than any restart takes.
WAITS_S, BACKLOG = 0.1, 1000
# A model server of the stub takes half a second of CPU time to be replaced.
BACK_WITHIN_S = 30.0
LONGEST_RECOVERY_S = 1.0


@dataclass(frozen=True, slots=True)
class KillReport:
    """The outcomes of the requests. `recovery_s`: from a kill to the first answer to a request sent after it.

    `longest_gap_s` is the longest time without any answer.
    """

    target: str
    kills: int
    rate_rps: float
    sent: int
    answered: int
    wrong: int
    lost: int
    lost_in_flight: int
    recovery_s: float
    longest_gap_s: float
    median_answer_s: float
    longest_answer_s: float
    outcomes: dict[str, int]

    @property
    def is_good(self) -> bool:
        """True if nothing was lost but what was in flight at a killed router, which is back in a second."""
        if self.target == "router":
            is_kept = self.lost == self.lost_in_flight and self.recovery_s <= LONGEST_RECOVERY_S
        else:
            is_kept = self.lost == 0
        return is_kept and not self.wrong


@dataclass(slots=True)
class Sent:
    """One request: when it was sent, when it ended, and how."""

    at_s: float
    end_s: float = 0.0
    outcome: str = ""
    is_right: bool = False


def stub_pipeline(stages: int = 2) -> tuple[Pipeline, list[StageConfig]]:
    """A chain of stub stages, two replicas each, and its configuration."""
    names = [f"say{number}" for number in range(1, stages + 1)]
    runs = {name: LocalRun("", command=("{python}", str(STUB), "{port}", "--stage", name)) for name in names}
    made = [
        Stage(name, (Variant("stub", targets={"local": runs[name]}),), batch_timeout_s=0.005)
        for name in names
    ]
    pipeline = Pipeline("echo", chain(made), Sla(1.0), {"default": Objective()}, drop_after_s=DROP_AFTER_S)
    return pipeline, [StageConfig(name, "stub", 4, 0.5, 2) for name in names]


def digits_pipeline() -> tuple[Pipeline, list[StageConfig]]:
    """The digits pipeline with two replicas of the smallest variants."""
    pipeline = load_pipeline(Path("pipelines/digits/pipeline.yaml"))
    return pipeline, [StageConfig("locate", "ridge", 4, 0.5, 2), StageConfig("classify", "tree", 4, 0.5, 2)]


def body_of(pipeline: str, number: int) -> dict[str, Any]:
    """A request of that pipeline."""
    if pipeline == "digits":
        data = [float(pixel % 17) for pixel in range(256)]
        return {"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 256], "data": data}]}
    return {"inputs": [{"name": "x", "datatype": "INT64", "shape": [1], "data": [number]}]}


class Load:
    """Requests at a fixed rate over new connections, whether or not answers come."""

    def __init__(self, url: str, pipeline: str, rate_rps: float) -> None:
        self._url, self._pipeline, self._rate_rps = f"{url}/v2/models/{pipeline}/infer", pipeline, rate_rps
        self._tasks: set[asyncio.Task[None]] = set()
        self.requests: list[Sent] = []
        self._is_stopping = False

    async def run(self) -> None:
        """Send until told to stop, then wait for the last answers."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=2 * DROP_AFTER_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            began_s = time.monotonic()
            while not self._is_stopping:
                request = Sent(time.monotonic())
                self.requests.append(request)
                task = asyncio.create_task(self._send(session, request, len(self.requests)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                due_s = began_s + len(self.requests) / self._rate_rps
                await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            await asyncio.gather(*self._tasks)

    def has_answered_since(self, at_s: float) -> bool:
        """True if a request sent after that moment has been answered."""
        return any(it.outcome == "200" for it in reversed(self.requests) if it.at_s > at_s)

    def has_backlog(self) -> bool:
        """True if a request waits for longer than one takes."""
        sent_s = time.monotonic() - WAITS_S
        return any(not it.outcome for it in self.requests[-BACKLOG:] if it.at_s < sent_s)

    def stop(self) -> None:
        """Send nothing more."""
        self._is_stopping = True

    async def _send(self, session: aiohttp.ClientSession, request: Sent, number: int) -> None:
        try:
            async with session.post(self._url, json=body_of(self._pipeline, number)) as response:
                body = await response.json(content_type=None)
                request.outcome = str(response.status)
                request.is_right = self._pipeline == "digits" or (
                    response.status == 200 and body["outputs"][0]["data"] == [number]
                )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            request.outcome = type(error).__name__
        request.end_s = time.monotonic()


def victims(workload: LocalWorkload, pipeline: Pipeline, target: str) -> list[int]:
    """The processes of that target that run now."""
    if target == "model":
        stages = [stage.name for stage in pipeline.stages]
        return [pid for stage in stages for pid in workload.runner(pipeline.name).pids(stage)]
    fronts = workload.runner(pipeline.name).front_pids()
    return [pid for name, pid in fronts.items() if pid and name.startswith(target)]


async def attack(
    workload: LocalWorkload,
    pipeline: Pipeline,
    target: str,
    times: int,
    rate_rps: float,
    every_s: float,
    number: signal.Signals = signal.SIGKILL,
) -> KillReport:
    """Send requests and end processes of the target, one every `every_s` seconds at most."""
    load = Load(workload.runner(pipeline.name).endpoint, pipeline.name, rate_rps)
    sending = asyncio.create_task(load.run())
    usual = len(victims(workload, pipeline, target))
    kills_s: list[float] = []
    await asyncio.sleep(REST_S)
    for kill in range(times):
        running = victims(workload, pipeline, target)
        pid = running[kill % len(running)]
        kills_s.append(time.monotonic())
        os.kill(pid, number)
        await asyncio.sleep(every_s)
        await _until(lambda: _is_back(victims(workload, pipeline, target), pid, usual))  # noqa: B023
        await _until(lambda: load.has_answered_since(kills_s[-1]))
        # The next one is another fault of its own: the one before is made good, not only begun to be. What
        # came while a router was away is in flight at the new one until it is answered.
        await _until(lambda: _is_whole(workload, pipeline) and not load.has_backlog())
    await asyncio.sleep(REST_S)
    load.stop()
    await sending
    return report(target, load.requests, kills_s, rate_rps)


def _is_whole(workload: LocalWorkload, pipeline: Pipeline) -> bool:
    return all(it.ready_replicas == it.config.replicas for it in workload.read(pipeline).stages)


def _is_back(running: list[int], pid: int, usual: int) -> bool:
    return pid not in running and len(running) == usual


async def _until(is_so: Callable[[], bool]) -> None:
    give_up_s = time.monotonic() + BACK_WITHIN_S
    while not is_so():
        if time.monotonic() > give_up_s:
            raise TimeoutError(f"the killed process was not replaced within {BACK_WITHIN_S:g} s")
        await asyncio.sleep(0.01)


def report(target: str, requests: list[Sent], kills_s: list[float], rate_rps: float) -> KillReport:
    """The outcomes of the requests."""
    answered = [it for it in requests if it.outcome == "200"]
    lost = [it for it in requests if it.outcome != "200"]
    in_flight = [it for it in lost if any(it.at_s <= kill_s <= it.end_s for kill_s in kills_s)]
    ends = sorted(it.end_s for it in answered)
    return KillReport(
        target=target,
        kills=len(kills_s),
        rate_rps=rate_rps,
        sent=len(requests),
        answered=len(answered),
        wrong=sum(not it.is_right for it in answered),
        lost=len(lost),
        lost_in_flight=len(in_flight),
        recovery_s=max((_first_answer_s(answered, kill_s) - kill_s for kill_s in kills_s), default=0.0),
        longest_gap_s=max((after - before for before, after in pairwise(ends)), default=0.0),
        median_answer_s=median(it.end_s - it.at_s for it in answered) if answered else math.nan,
        longest_answer_s=max((it.end_s - it.at_s for it in answered), default=0.0),
        outcomes=dict(Counter(it.outcome for it in requests)),
    )


def _first_answer_s(answered: list[Sent], at_s: float) -> float:
    """When the first request sent after that moment was answered."""
    return min((it.end_s for it in answered if it.at_s > at_s), default=math.inf)


def run(
    target: str, times: int, rate_rps: float = 100.0, *, every_s: float = 1.0, pipeline: str = "stub"
) -> KillReport:
    """Start the pipeline, attack it, and end it."""
    made, configs = digits_pipeline() if pipeline == "digits" else stub_pipeline()
    with tempfile.TemporaryDirectory() as folder:
        workload = LocalWorkload(Path(folder))
        workload.start(made, configs)
        try:
            return asyncio.run(attack(workload, made, target, times, rate_rps, every_s))
        finally:
            workload.stop()


def main() -> None:
    """Attack, and print the report as JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.attack.kills", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--target", choices=TARGETS, required=True)
    parser.add_argument("--times", type=int, default=30)
    parser.add_argument("--rate", type=float, default=100.0, help="requests a second")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two kills")
    parser.add_argument("--pipeline", choices=("stub", "digits"), default="stub")
    given = parser.parse_args()
    report = run(given.target, given.times, given.rate, every_s=given.every, pipeline=given.pipeline)
    print(json.dumps({**asdict(report), "is_good": report.is_good}, indent=1))
    sys.exit(not report.is_good)


if __name__ == "__main__":
    main()
