"""A control loop in a process of its own that can be killed at every step it takes towards the world.

The ports of the loop are wrapped: each call is a point before it and one after it, called by the phase of the
actuation it happens in, and the store's transaction has one just before its commit. The process kills itself,
by SIGKILL, at the point it was told; without one it says which points it passed. Store, HTTP client and loop
are the real ones; the cluster is whatever the kubeconfig names.

    python -m tests.faults.crash

imports all that is needed and forks a process for each line that says how to start one. That process answers
a line (the load) with a line (what the tick came to) until it is stopped or dies; then that is said.
"""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import event

from ipa.adapters.kube import kinds
from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import ObjectRef, ResourceKind
from ipa.adapters.kube.lease import LeaseLeadership
from ipa.adapters.store.database import open_engine
from ipa.adapters.store.store import Store
from ipa.control.election import LeaseTimes
from ipa.control.loop.control_loop import ControlLoop, LoopPorts
from ipa.control.ports import PipelineControl, Rollout, WorkloadState
from ipa.model.decision import Change, Decision
from ipa.model.pipeline import Pipeline
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube
from tests.fakes.looped import PIPELINE, SETTINGS
from tests.fakes.metrics import FakeMetrics
from tests.fakes.world import loop_over, ours, planner

Json = dict[str, Any]
TIMEOUT_S = 10.0
LEASE = ObjectRef(kinds.LEASE, "default", "ipa-serving")


class Points:
    """The points passed so far; at the one that is wanted the process ends, as by `kill -9`."""

    def __init__(self, kill_at: str) -> None:
        self.kill_at = kill_at
        self.passed: list[str] = []
        self.phase = "starting"

    def pass_(self, what: str) -> None:
        name = f"{self.phase}: {what}"
        if name == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if name not in self.passed:
            self.passed.append(name)


class KilledStore(Store):
    """The store, with points around what the loop asks of it and before each commit."""

    workload: KilledWorkload

    def __init__(self, url: str, points: Points) -> None:
        engine = open_engine(url)
        super().__init__(engine)
        self._points = points
        self._writing = ""

        def commit(_connection: object) -> None:
            if self._writing:
                points.pass_(f"before the commit of {self._writing}")

        event.listen(engine, "commit", commit)

    def control(self, pipeline: str, *, may_lag: bool = False) -> PipelineControl:
        self._points.pass_("before the control is read")
        return super().control(pipeline, may_lag=may_lag)

    def decisions(self, pipeline: str, **options: Any) -> Sequence[Decision]:
        decisions = super().decisions(pipeline, **options)
        self._points.pass_("after the record is read")
        return decisions

    def record(self, decision: Decision) -> None:
        self.workload.look()
        self._writing = f"the record of {decision.action.value}"
        self._points.pass_(f"before {self._writing}")
        super().record(decision)
        self._points.pass_(f"after {self._writing}")
        self._writing = ""


class KilledClient(KubeClient):
    """The client, with points around each patch."""

    points: Points

    def patch(
        self, kind: ResourceKind, namespace: str, name: str, patch: Any, *, dry_run: bool = False
    ) -> Json:
        what = "the trial patch" if dry_run else "the patch"
        self.points.pass_(f"before {what}")
        written = super().patch(kind, namespace, name, patch, dry_run=dry_run)
        self.points.pass_(f"after {what}, its answer not handled")
        return written

    def create(self, kind: ResourceKind, namespace: str, body: Any, *, dry_run: bool = False) -> Json:
        if kind != kinds.LEASE:
            return super().create(kind, namespace, body, dry_run=dry_run)
        self.points.pass_("before the lease is made")
        made = super().create(kind, namespace, body)
        self.points.pass_("after the lease is made")
        return made

    def replace(self, kind: ResourceKind, namespace: str, body: Any) -> Json:
        what = "renewed" if body["spec"].get("holderIdentity") else "released"
        self.points.pass_(f"before the lease is {what}")
        made = super().replace(kind, namespace, body)
        self.points.pass_(f"after the lease is {what}")
        return made


class KilledWorkload(KubeWorkload):
    """The workload, with points around its verbs; it learns the actuation's phase from the loop."""

    def __init__(self, client: KilledClient, points: Points) -> None:
        super().__init__(client, layout_of)
        self.points = points
        self.loop: ControlLoop | None = None

    def look(self) -> None:
        """Take the phase over from the loop."""
        assert self.loop is not None
        actuation = self.loop._state.actuation
        back = " (rollback)" if actuation.change and actuation.change.is_rollback else ""
        self.points.phase = actuation.phase.value + back

    def read(self, pipeline: Pipeline) -> WorkloadState:
        self.look()
        self.points.pass_("before the workload is read")
        state = super().read(pipeline)
        self.points.pass_("after the workload is read")
        return state

    def write(self, pipeline: Pipeline, change: Change) -> str:
        self.look()
        self.points.pass_("before the write")
        revision = super().write(pipeline, change)
        self.points.pass_("after the write, before it is said to be accepted")
        return revision

    def rollout(self, pipeline: Pipeline, change: Change) -> Rollout:
        self.look()
        self.points.pass_("before the rollout is read")
        rollout = super().rollout(pipeline, change)
        self.points.pass_("after the rollout is read")
        return rollout


class Process:
    """The loop and its ports, as of a service that just started."""

    def __init__(self, start: Json) -> None:
        self.points = Points(start["kill_at"])
        client = KilledClient.from_kubeconfig(start["kubeconfig"], TIMEOUT_S)
        client.points = self.points
        self.workload = KilledWorkload(client, self.points)
        self.store = KilledStore(start["store"], self.points)
        self.store.workload = self.workload
        self.clock = VirtualClock(datetime.fromisoformat(start["at"]))
        self.rate_rps = 1.0
        metrics = FakeMetrics(self.clock, lambda _: self.rate_rps)
        ports = LoopPorts(self.clock, metrics, self.workload, self.store, self.store)
        self.loop = loop_over(PIPELINE, ports, ours(), SETTINGS, run_id=start["run_id"])
        self.workload.loop = self.loop

    def tick(self, rate_rps: float) -> Json:
        """The result of a tick at that load."""
        self.rate_rps = rate_rps
        decision = self.loop.tick_once()
        self.workload.look()
        self.points.pass_("between two ticks")
        self.clock.wait(SETTINGS.tick_s)
        return {
            "id": decision.decision_id,
            "reason": decision.reason.value,
            "phase": self.loop.snapshot().phase.value,
            "detail": decision.detail,
            "points": self.points.passed,
        }


def serve(start: Json) -> None:
    """A tick for every line, until there is none."""
    process = Process(start)
    while (message := read_line()) is not None:
        say(process.tick(message["rate_rps"]))
    os._exit(0)


def lead(start: Json) -> None:
    """Come to lead, lead for a while, hand over; on a clock of its own, so that nobody waits."""
    points = Points(start["kill_at"])
    points.phase = "leadership"
    client = KilledClient.from_kubeconfig(start["kubeconfig"], TIMEOUT_S)
    client.points = points
    now_s = 0.0
    taking_part = LeaseLeadership(client, LEASE, "first", LeaseTimes(), now_s=lambda: now_s)
    led_s = 0.0
    while led_s < LeaseTimes().lease_s:
        wait_s = taking_part.step()
        now_s += wait_s
        led_s += wait_s if taking_part.leading() else 0.0
    taking_part.close()
    say({"points": points.passed})
    os._exit(0)


def read_line() -> Json | None:
    """The next line, unbuffered, since the process that forked us reads the same pipe; None to stop."""
    line = bytearray()
    while (byte := os.read(0, 1)) not in (b"", b"\n"):
        line += byte
    return json.loads(line) if line else None


def say(answer: Json) -> None:
    """Write a line at once."""
    os.write(1, json.dumps(answer).encode() + b"\n")


def warm_up() -> None:
    """Do once what every process would do again: imports, fits, the first of everything."""
    for rate_rps in (5.0, 25.0):
        planner(PIPELINE, rate_rps)
    with TemporaryDirectory() as folder:
        with FakeKube() as kube:
            kubeconfig = kube.kubeconfig(Path(folder))
        # Nothing listens there any more, so the tick holds at once.
        start = {"kubeconfig": str(kubeconfig), "store": f"sqlite:///{folder}/s.sqlite3", "kill_at": ""}
        process = Process({**start, "run_id": "warm", "at": datetime.now(UTC).isoformat()})
        process.tick(1.0)
        process.store.close()


def main() -> None:
    """Fork a process for every start."""
    logging.disable(logging.CRITICAL)
    warm_up()
    say({"ready": True})
    while (start := read_line()) is not None:
        child = os.fork()
        if child == 0:
            lead(start) if start.get("leads") else serve(start)
        _, status = os.waitpid(child, 0)
        say({"ended": os.waitstatus_to_exitcode(status)})


if __name__ == "__main__":
    main()
