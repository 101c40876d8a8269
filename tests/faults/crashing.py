"""Drives the process of `crash.py` over a fake cluster: kills it at a point, starts it again, and judges."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.store import open_store
from ipa.control.engine.guards import bound_faults
from ipa.control.ports import Attribution, ControlAction, PipelineControl
from ipa.model.decision import Mode
from ipa.model.plan import StageConfig
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from ipa.targets.seldon.manifest import read
from tests.fakes.kube import FakeKube, FaultKind, Trouble
from tests.fakes.kube.api import Request
from tests.fakes.kube.samples import create
from tests.fakes.looped import PIPELINE, SETTINGS, troubled
from tests.fakes.world import SMALLEST

ROOT = Path(__file__).resolve().parents[2]
START = datetime(2026, 1, 1, tzinfo=UTC)
# Ticks within which a run must have come to rest.
TICKS = 40
FOREIGN = "example.com/owner"

Json = dict[str, Any]


class Service:
    """The forking process, and the one process at a time that it runs."""

    def __init__(self) -> None:
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.crash"],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._hear()
        self.runs = False

    def start(self, **how: str) -> None:
        self._say(how)
        self.runs = True

    def tick(self, rate_rps: float) -> Json | None:
        """The result of the tick; None where the process died in it."""
        self._say({"rate_rps": rate_rps})
        answer = self._hear()
        self.runs = "ended" not in answer
        return answer if self.runs else None

    def lead(self, kubeconfig: Path, kill_at: str) -> list[str]:
        """The points that a process passes which comes to lead and hands over; none where it died."""
        self._say({"leads": "yes", "kubeconfig": str(kubeconfig), "kill_at": kill_at})
        answer = self._hear()
        if "ended" not in answer:
            assert self._hear() == {"ended": 0}
        return list(answer.get("points", []))

    def stop(self) -> None:
        if self.runs:
            self._say(None)
            assert self._hear() == {"ended": 0}
            self.runs = False

    def close(self) -> None:
        self.stop()
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _say(self, line: Json | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write((json.dumps(line) if line else "").encode() + b"\n")
        self._process.stdin.flush()

    def _hear(self) -> Json:
        assert self._process.stdout is not None
        return dict(json.loads(self._process.stdout.readline()))


@contextmanager
def service() -> Iterator[Service]:
    """A service's process, ended at the end."""
    made = Service()
    try:
        yield made
    finally:
        made.close()


@dataclass(frozen=True)
class Story:
    """The events of a cluster: the load at a tick, and how the cluster is made."""

    name: str
    prepare: Callable[[FakeKube], None]
    on_patch: Callable[[FakeKube], None] = lambda kube: None
    rates_rps: tuple[float, ...] = (5.0, 25.0)


@dataclass
class RunOutcome:
    points: list[str] = field(default_factory=list)
    configs: tuple[StageConfig, ...] = ()
    reasons: list[str] = field(default_factory=list)
    killed: bool = False
    mttr_ticks: int = 0
    writes: int = 0
    duplicates: int = 0
    unaudited: int = 0
    out_of_bounds: int = 0
    foreign_changed: int = 0
    piled_up: int = 0
    came_to_rest: bool = False


@dataclass(frozen=True)
class Noted:
    """A patch as it arrived: the newest decision to apply on disk, and whether nothing was rolling out."""

    version: int
    decision_id: str
    reason: str
    configs: tuple[StageConfig, ...]
    settled: bool


class Watched:
    """A fake cluster that judges each write as it arrives: what the record says then, and what it makes."""

    def __init__(self, folder: Path, story: Story) -> None:
        self.folder = folder
        self.kube = FakeKube(roll_ticks=1)
        self.kube.__enter__()
        self.kubeconfig = self.kube.kubeconfig(folder)
        self.client = KubeClient.from_kubeconfig(str(self.kubeconfig), 10.0)
        self.workload = KubeWorkload(self.client, layout_of)
        create(self.client, PIPELINE, SMALLEST)

        def label(sdep: Json) -> None:
            sdep["metadata"].setdefault("annotations", {})[FOREIGN] = "kim"

        self.kube.edit("default", "pages", label)
        self.kube.tick(6)
        self.kube.writes.clear()
        store = open_store(self.store_url)
        store.set_control(PIPELINE.name, PipelineControl(mode=Mode.ACTIVE), Attribution(ControlAction.MODE))
        store.close()
        story.prepare(self.kube)
        self.on_patch = story.on_patch
        # What was said in the record as each patch arrived.
        self.patches: list[Noted] = []
        self.settled = True
        self.kube.before = self._before

    @property
    def store_url(self) -> str:
        return f"sqlite:///{self.folder / 'store.sqlite3'}"

    def close(self) -> None:
        self.client.close()
        self.kube.__exit__()

    def _before(self, request: Request) -> None:
        """Note the newest decision to apply that is on disk while the patch arrives."""
        if request.verb != "patch" or request.is_dry_run:
            return
        other = open_store(self.store_url)
        newest = other.decisions(PIPELINE.name, limit=1, applied_only=True)
        other.close()
        decision_id = newest[0].decision_id if newest else ""
        reason = newest[0].reason.value if newest else ""
        configs = newest[0].configs if newest else ()
        if not self.patches:
            self.on_patch(self.kube)
        self.patches.append(Noted(self.kube.store.version, decision_id, reason, configs, self.settled))

    def tick(self) -> None:
        """Let time pass in the cluster."""
        self.kube.tick()
        self.settled = self.workload.read(PIPELINE).settled

    def judge(self, outcome: RunOutcome) -> None:
        """Count the writes and what is wrong with them."""
        audited: list[str] = []
        for noted in self.patches:
            made = self._made_after(noted.version)
            if made is None:
                continue
            outcome.writes += 1
            outcome.duplicates += noted.decision_id in audited
            audited.append(noted.decision_id)
            live = read(PIPELINE, made)
            outcome.unaudited += live != noted.configs
            # Only taking back may begin while something rolls out.
            outcome.piled_up += not noted.settled and noted.reason != "apply.rollback"
            outcome.out_of_bounds += bool(bound_faults(PIPELINE, live))
            outcome.foreign_changed += made["metadata"]["annotations"].get(FOREIGN) != "kim"
        accepted = [request for request in self.kube.writes if request.verb == "patch"]
        # A patch that was accepted and changed nothing was one too many.
        outcome.duplicates += len(accepted) - outcome.writes

    def _made_after(self, version: int) -> Json | None:
        """The SeldonDeployment as the write at that version made it."""
        event = next((one for one in self.kube.store.log if one.version == version + 1), None)
        is_ours = event is not None and event.resource == "seldondeployments"
        return event.object if event is not None and is_ours else None


def run(story: Story, folder: Path, process: Service, kill_at: str = "") -> RunOutcome:
    """The story told once, the process killed at that point and started again."""
    folder.mkdir()
    world, outcome = Watched(folder, story), RunOutcome()
    try:
        _start(process, world, kill_at, "first", 0)
        for tick in range(TICKS):
            answer = process.tick(story.rates_rps[min(tick, len(story.rates_rps) - 1)])
            world.tick()
            if answer is None:
                outcome.killed = True
                _start(process, world, "", "again", tick + 1)
                continue
            outcome.reasons.append(answer["reason"])
            outcome.points = answer["points"]
            outcome.mttr_ticks += outcome.killed
            if tick >= len(story.rates_rps) and _rests(outcome, answer):
                outcome.came_to_rest = True
                # The second of the two ticks at rest is not needed to recover.
                outcome.mttr_ticks -= outcome.killed
                break
        process.stop()
        state = world.workload.read(PIPELINE)
        outcome.configs = tuple(stage.config for stage in state.stages)
        outcome.came_to_rest &= state.settled
        world.judge(outcome)
    finally:
        process.stop()
        world.close()
    return outcome


def _start(process: Service, world: Watched, kill_at: str, run_id: str, tick: int) -> None:
    process.start(
        kubeconfig=str(world.kubeconfig),
        store=world.store_url,
        kill_at=kill_at,
        run_id=run_id,
        at=(START + timedelta(seconds=tick * SETTINGS.tick_s)).isoformat(),
    )


def _rests(outcome: RunOutcome, answer: Json) -> bool:
    """True if nothing is in flight and the last two ticks held for a reason that stays."""
    staying = {"hold.no_change", "hold.within_tolerance", "hold.quarantined", "hold.infeasible"}
    return answer["phase"] == "idle" and len(outcome.reasons) > 1 and set(outcome.reasons[-2:]) <= staying


def _nothing(_kube: FakeKube) -> None:
    pass


def _crash_loop(kube: FakeKube) -> None:
    kube.cluster.trouble_of = troubled(Trouble.CRASH, "big")


def _fault(kind: FaultKind, **when: Any) -> Callable[[FakeKube], None]:
    return lambda kube: kube.fault(kind, **when)


PATCH = {"verb": "patch", "is_dry_run": False}
STORIES: Sequence[Story] = (
    Story("a change that settles", _nothing),
    Story("a variant that crash-loops", _crash_loop),
    Story(
        "an answer that is lost, and cannot be read back at once",
        _fault(FaultKind.LOST_AFTER, **PATCH),
        _fault(FaultKind.STATUS, verb="get", resource="seldondeployments", status=503),
    ),
    Story("a patch that never arrives", _fault(FaultKind.LOST_BEFORE, **PATCH)),
    Story("a patch that is refused", _fault(FaultKind.STATUS, **PATCH, status=409, reason="Conflict")),
)
