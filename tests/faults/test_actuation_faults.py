"""Steps that end in a fault of ours, steps done twice, and what is said in the middle of a tick."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.store import open_store
from ipa.control.loop.control_loop import LoopPorts
from ipa.control.ports import Attribution, ControlAction, Freeze, PipelineControl, StagePin
from ipa.model.decision import Action, Change, Mode
from ipa.model.errors import IpaError
from ipa.model.pipeline import Pin
from ipa.model.plan import StageConfig
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube
from tests.fakes.kube.samples import create
from tests.fakes.looped import PIPELINE as KUBE_PIPELINE
from tests.fakes.looped import SETTINGS
from tests.fakes.metrics import FakeMetrics
from tests.fakes.world import SMALLEST, Scenario, loop_over, ours, scenario
from tests.faults.table import Case

TICKS = 12
PORTS = {
    "metrics": ("read",),
    "workload": ("read", "write", "rollout"),
    "store": ("control", "decisions", "record"),
}


@dataclass
class Bug:
    """Raises an exception that nobody expects, once: at the nth call of a verb, before or after it."""

    port: str
    verb: str
    number: int
    after: bool
    calls: int = 0
    raised: bool = False

    def called(self, port: str, verb: str, call: Callable[[], Any]) -> Any:
        if (port, verb) != (self.port, self.verb):
            return call()
        self.calls += 1
        if self.calls != self.number:
            return call()
        self.raised = True
        if self.after:
            call()
        raise RuntimeError("a fault of ours")


@dataclass
class Wrapped:
    """A port whose verbs go through `called`; all else is the port's own."""

    inner: Any
    port: str
    called: Callable[[str, str, Callable[[], Any]], Any]

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.inner, name)
        if name not in PORTS[self.port]:
            return attribute
        return lambda *args, **options: self.called(self.port, name, lambda: attribute(*args, **options))


def wrapped(made: Scenario, called: Callable[[str, str, Callable[[], Any]], Any]) -> Scenario:
    """The scenario under a loop whose every port is wrapped."""
    ports = {port: Wrapped(getattr(made, port), port, called) for port in PORTS}
    return replace(made, **ports).restarted("run")  # type: ignore[arg-type]


def last_configs(bug: Bug, made: Scenario) -> tuple[StageConfig, ...]:
    """The last configuration of a load that rises and falls. The loop ends what the bug ends."""
    watched = wrapped(made, bug.called)
    for rate_rps in (5.0, 25.0):
        made.metrics.rate_rps = lambda _, rate=rate_rps: rate
        # After an exception of a tick `run` goes on.
        watched.run(7 * made.settings.tick_s)
    return made.workload.desired


@pytest.mark.usefixtures("remembered")
def test_a5_an_exception_inside_any_one_step(case: Case) -> None:
    whole = scenario(5.0)
    expected = last_configs(Bug("", "", 0, after=False), whole)
    tried = differing = duplicates = piled_up = 0
    for port, verbs in PORTS.items():
        for verb in verbs:
            for after in (False, True):
                number = 0
                while True:
                    number += 1
                    made, bug = scenario(5.0), Bug(port, verb, number, after)
                    settled: list[bool] = []
                    made.workload.before_write = lambda change, made=made, settled=settled: settled.append(
                        made.workload.ready
                    )
                    outcome = last_configs(bug, made)
                    if not bug.raised:
                        break
                    tried += 1
                    differing += outcome != expected
                    ids = [change.decision_id for change in made.workload.accepted]
                    duplicates += len(ids) - len(set(ids))
                    piled_up += settled.count(False)
    assert tried > 100
    case.note("steps", tried)
    case.equal("state difference", differing, 0)
    case.equal("duplicate writes", duplicates, 0)
    case.equal("writes while another rolled out", piled_up, 0)


@dataclass
class Twice:
    """Does every step twice: the second must make no difference, its error (a refusal) neither."""

    refused: int = 0
    steps: int = 0

    def called(self, _port: str, _verb: str, call: Callable[[], Any]) -> Any:
        answer = call()
        self.steps += 1
        try:
            call()
        except IpaError:
            self.refused += 1
        return answer


def seldon_run(folder: Path, called: Callable[[str, str, Callable[[], Any]], Any]) -> tuple[Any, int, int]:
    """The cluster's final objects, the patches it accepted and the decisions on record."""
    folder.mkdir()
    with FakeKube(roll_ticks=1) as kube:
        client = KubeClient.from_kubeconfig(str(kube.kubeconfig(folder)), 10.0)
        seldon = KubeWorkload(client, layout_of)
        create(client, KUBE_PIPELINE, SMALLEST)
        kube.tick(6)
        kube.writes.clear()
        store, clock = open_store(f"sqlite:///{folder / 's.sqlite3'}"), VirtualClock()
        store.set_control(
            KUBE_PIPELINE.name, PipelineControl(mode=Mode.ACTIVE), Attribution(ControlAction.MODE)
        )
        rate_rps = 5.0
        metrics = FakeMetrics(clock, lambda _: rate_rps)
        wrapped_store: Any = Wrapped(store, "store", called)
        wrapped = Wrapped(metrics, "metrics", called), Wrapped(seldon, "workload", called)
        ports = LoopPorts(clock, *wrapped, wrapped_store, wrapped_store)
        loop = loop_over(KUBE_PIPELINE, ports, ours(), SETTINGS)
        for rate_rps in (5.0, 25.0, 5.0):  # noqa: B007 - the metrics read it
            for _ in range(TICKS):
                loop.tick_once()
                kube.tick()
                clock.wait(SETTINGS.tick_s)
        live = kube.store.get("seldondeployments", "default", "pages")
        decisions = len(store.decisions(KUBE_PIPELINE.name, limit=1000))
        store.close()
        client.close()
        live["metadata"].pop("resourceVersion")
        return live, len(kube.writes), decisions


def test_a5_every_step_done_twice(case: Case, tmp_path: Path) -> None:
    once = seldon_run(tmp_path / "once", lambda _port, _verb, call: call())
    twice = Twice()
    twice_run = seldon_run(tmp_path / "twice", twice.called)
    assert once[1] >= 2
    case.note("steps done twice", twice.steps)
    case.equal("second writes refused", twice.refused, once[1])
    case.equal("state difference", once[0] != twice_run[0], False)
    case.equal("writes", twice_run[1], once[1])
    case.equal("records more than ticks", twice_run[2] - once[2], 0)


def test_a5_a_tick_told_twice_at_one_moment(case: Case) -> None:
    """The world stands still between two ticks: the second has nothing to do."""
    made = scenario(5.0)
    writes = []
    for rate_rps in (5.0, 25.0, 5.0):
        made.metrics.rate_rps = lambda _, rate=rate_rps: rate
        for _ in range(TICKS):
            before = len(made.workload.writes)
            made.loop.tick_once()
            made.loop.tick_once()
            writes.append(len(made.workload.writes) - before)
            made.clock.wait(made.settings.tick_s)
    case.note("writes", sum(writes))
    case.at_most("writes of two ticks at one moment", max(writes), 1)


INSTRUCTIONS: dict[str, Callable[[Scenario], dict[str, Any]]] = {
    "paused": lambda made: {"paused": True, "paused_by": "kim"},
    "advisory": lambda made: {"mode": Mode.ADVISORY},
    "shadow": lambda made: {"mode": Mode.SHADOW},
    "frozen": lambda made: {"freezes": (Freeze(made.clock.now(), made.clock.now().replace(year=2030)),)},
    "pinned": lambda made: {"pins": (StagePin("detect", Pin(variant="small", replicas=1)),)},
}


@dataclass
class Saying:
    """Says something in the middle of the tick that is about to write: at a verb, once the load is high."""

    made: Scenario
    changes: dict[str, Any]
    verb: tuple[str, str]
    at: str = ""
    stale: list[Change] = field(default_factory=list)

    def called(self, port: str, verb: str, call: Callable[[], Any]) -> Any:
        answer = call()
        is_late = self.made.clock.monotonic_s() >= 3 * self.made.settings.tick_s
        if (port, verb) == self.verb and is_late and not self.at:
            self.made.say(**self.changes)
            self.at = f"{self.made.clock.monotonic_s():g} s"
        return answer

    def written(self, change: Change) -> None:
        if self.at == f"{self.made.clock.monotonic_s():g} s":
            self.stale.append(change)


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
def test_a6_what_is_said_in_the_middle_of_a_tick(case: Case, instruction: str) -> None:
    case.title += f": {instruction}"
    stale, late = 0, []
    for verb in (("metrics", "read"), ("workload", "read"), ("store", "record")):
        made = scenario(lambda t_s: 5.0 if t_s < 15.0 else 25.0)
        saying = Saying(made, INSTRUCTIONS[instruction](made), verb)
        made.workload.before_write = saying.written
        # Without it, the fourth tick writes.
        assert [decision.action for decision in scenario(lambda t_s: 5.0 if t_s < 15.0 else 25.0).ticks(4)][
            -1
        ] is Action.APPLY
        decisions = wrapped(made, saying.called).ticks(10)
        assert saying.at
        stale += len(saying.stale)
        late.append(decisions[3].reason.value)
    case.equal("stale effects", stale, 0)
    case.equal("reasons of the tick", {*late}, {"hold.conflict"})
