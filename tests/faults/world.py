"""The control loop over the fake API server on a virtual clock; the invariants are asked after every step."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from heapq import heappop, heappush
from itertools import count
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

from ipa.adapters.kube.client import KubeClient
from ipa.control.engine.guards import GuardSettings
from ipa.control.loop.control_loop import ControlLoop, LoopPorts
from ipa.control.ports import PipelineControl, Workload
from ipa.model.decision import Action, Decision, Event, Mode, ReasonCode
from ipa.model.pipeline import Pipeline
from ipa.model.plan import Plan, StageConfig
from ipa.model.rolling import DEPLOYMENT
from ipa.optimize.problem import Compat
from ipa.policies.base import Planner
from ipa.policies.ours import Ours
from ipa.policies.profiled import PlannerInputs, Profiled
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from ipa.targets.seldon.manifest import render
from tests.fakes.clock import VirtualClock
from tests.fakes.kube import FakeKube, FaultKind
from tests.fakes.kube.api import Request
from tests.fakes.kube.cluster import is_ready
from tests.fakes.kube.server import kubeconfig
from tests.fakes.kube.store import Json
from tests.fakes.looped import PIPELINE
from tests.fakes.metrics import FakeMetrics
from tests.fakes.policy_contract import PIPELINE as EXAMPLE
from tests.fakes.policy_contract import PROFILES, VARIANTS
from tests.fakes.store import FakeStore
from tests.fakes.world import SMALLEST, loop_over, planner
from tests.faults.inprocess import Pool
from tests.faults.invariants import BATCH, TOKEN, Configs, Invariants, configs_of, cores_of

NAMESPACE, NAME = "default", "pages"
SETTINGS = GuardSettings(tick_s=5.0, rollout_deadline_s=60.0, quarantine_s=120.0)
QUIET = frozenset({ReasonCode.NO_CHANGE, ReasonCode.WITHIN_TOLERANCE})
# Said of a load that is still that of before the service's own write.
REPLACED = "the pods that count the load were replaced"
WINDOW_S = 20.0
QUIET_TICKS = int(WINDOW_S / SETTINGS.tick_s) + 1


class ByName:
    """The planner, remembering by what can differ here: names of variants, and the bounds."""

    def __init__(self) -> None:
        self._plans: dict[Any, Plan] = {}

    def __call__(self, pipeline: Pipeline, rate_rps: float, running: Configs = ()) -> Plan:
        names = tuple(
            (tuple(one.name for one in stage.variants), stage.pin, stage.bounds) for stage in pipeline.stages
        )
        key = (names, pipeline.bounds, pipeline.slowdowns, rate_rps, running)
        if key not in self._plans:
            self._plans[key] = planner(pipeline, rate_rps, running)
        return self._plans[key]

    def forget(self, most: int) -> None:
        """Forget all where there are more than so many."""
        if len(self._plans) > most:
            self._plans.clear()


PLANNER = ByName()
# One that knows how this target replaces replicas: what it can reach in little room is so there.
ROLLING = Profiled(
    PlannerInputs(EXAMPLE, PROFILES, solver="exact", rolling=DEPLOYMENT, explain=False), compat=Compat.PAPER
)


class WorldClock(VirtualClock):
    """A virtual clock with things that happen at moments of it, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = count()

    def at(self, at_s: float, do: Callable[[], None]) -> None:
        heappush(self._timers, (at_s, next(self._numbers), do))

    def every(self, step_s: float, do: Callable[[], None]) -> None:
        """Do it every so many seconds."""

        def again() -> None:
            self.at(self.monotonic_s() + step_s, again)
            do()

        self.at(self.monotonic_s() + step_s, again)

    def wait(self, seconds: float) -> None:
        """Move on, doing what is due on the way."""
        end_s = self.monotonic_s() + max(seconds, 0.0)
        while self._timers and self._timers[0][0] <= end_s:
            at_s, _, do = heappop(self._timers)
            super().wait(at_s - self.monotonic_s())
            do()
        super().wait(end_s - self.monotonic_s())


class Heard:
    """An event sink that keeps what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, pipeline: Pipeline, event: Event) -> None:
        self.events.append(event)


class Leading:
    """Leadership by word."""

    def __init__(self, invariants: Invariants) -> None:
        self._invariants = invariants

    def leading(self) -> bool:
        return not self._invariants.standby


@dataclass
class KubeWorld:
    """A loop on a cluster, and every knob of both."""

    kube: FakeKube
    clock: WorldClock
    metrics: FakeMetrics
    store: FakeStore
    workload: Workload
    invariants: Invariants
    settings: GuardSettings
    pool: Pool | None
    pipeline: Pipeline = PIPELINE
    rate_rps: float = 5.0
    events: Heard = field(default_factory=Heard)
    decisions: list[Decision] = field(default_factory=list)
    loop: ControlLoop = None  # type: ignore[assignment]
    # How far back the load is read.
    window_s: float = WINDOW_S
    planner: Planner = PLANNER
    # What it was made with, and how often another hand put it back to that.
    first: Configs = SMALLEST
    reverts: int = 0
    # Requests that came while too little ran for them.
    lost: float = 0.0
    _runs: int = 0

    def start_service(self) -> None:
        """A new process: it knows the record and the cluster, nothing else."""
        self._runs += 1
        world = LoopPorts(
            self.clock,
            self.metrics,
            self.workload,
            self.store,
            self.store,
            leadership=Leading(self.invariants),
            events=self.events,
        )
        how = {"window_s": self.window_s, "run_id": f"run{self._runs}"}
        policy = Ours(self.pipeline, self.planner)
        self.loop = loop_over(self.pipeline, world, policy, self.settings, **how)

    def tick(self) -> Decision:
        """One tick of the service, and the time to its next one."""
        began_s = self.clock.monotonic_s()
        decision = self.loop.tick_once()
        self.decisions.append(decision)
        self.invariants.ticked(decision)
        took_s = self.clock.monotonic_s() - began_s
        # A tick that took long skips those it missed.
        missed = int(took_s // self.settings.tick_s)
        self.clock.wait((missed + 1) * self.settings.tick_s - took_s)
        return decision

    def ticks(self, count: int) -> list[Decision]:
        return [self.tick() for _ in range(count)]

    def until_s(self, at_s: float) -> list[Decision]:
        made = []
        while self.clock.monotonic_s() < at_s:
            made.append(self.tick())
        return made

    def settle(self, most: int = 80, *, unless: Callable[[Decision], bool] = lambda decision: False) -> int:
        """The number of ticks until the wanted configuration runs and nothing more is decided; -1: never.

        After a decision for which `unless` is true more may be decided.
        """
        since, quiet = 0, 0
        for tick in range(most):
            decision = self.tick()
            if decision.reason not in QUIET or unless(decision) or not self.invariants.is_settled():
                since, quiet = tick + 1, 0
                continue
            # Rates from before a restart of what counts the load say nothing of the load now.
            quiet = 0 if REPLACED in decision.detail else quiet + 1
            # More ticks than the forecaster looks back on: no load of before will change the plan any more.
            if quiet == QUIET_TICKS:
                return since
        return -1

    def quiet_writes(self, count: int = 10) -> int:
        """The writes in so many more ticks of a settled world (I9)."""
        before = len(self.kube.writes)
        self.ticks(count)
        return len(self.kube.writes) - before

    def say(self, **changes: Any) -> None:
        """The actions of people on the pipeline."""
        control = self.store.controls.get(self.pipeline.name, self.store.default)
        self.store.controls[self.pipeline.name] = replace(control, **changes)

    def hand(self, change: Callable[[Json], None]) -> None:
        """Change the object by another hand."""
        self.invariants.hand()
        self.kube.edit(NAMESPACE, NAME, change)

    def sdep(self) -> Json:
        return self.kube.store.get("seldondeployments", NAMESPACE, NAME)

    def desired(self) -> Configs:
        """The configuration that the object asks for."""
        configs = configs_of(self.pipeline, self.sdep())
        assert configs is not None
        return configs

    def recreate(self, configs: Configs = SMALLEST) -> None:
        """Delete the object and make it anew, by another hand."""
        self.invariants.hand()
        with self.kube.store.lock:
            self.kube.store.delete("seldondeployments", NAMESPACE, NAME)
            self.kube.store.create("seldondeployments", NAMESPACE, theirs(self.pipeline, configs))

    def recall(self) -> None:
        """Put the object back to what it was at first, as a GitOps tool does."""
        first = theirs(self.pipeline, self.first)

        def revert(sdep: Json) -> None:
            sdep["spec"] = first["spec"]

        if configs_of(self.pipeline, self.sdep()) != self.first:
            self.reverts += 1
            self.hand(revert)

    def served_rps(self) -> float:
        """The capacity of all ready pods, old and new: the least over the stages."""
        return min(self.carried_rps().values())

    def carried_rps(self) -> dict[str, float]:
        """The capacity of the ready pods of each stage, old and new."""
        names = {stage.container or stage.name: stage.name for stage in self.pipeline.served}
        carried = dict.fromkeys(names.values(), 0.0)
        for pod in self.invariants.pods():
            for container in pod["spec"]["containers"]:
                if is_ready(pod) and container["name"] in names:
                    stage = names[container["name"]]
                    carried[stage] += replica_rps(stage, container)
        return carried

    def fault(self, kind: FaultKind, **when: Any) -> None:
        """Let that go wrong next."""
        self.kube.fault(kind, **when)

    def clear_faults(self) -> None:
        self.kube.faults.faults.clear()

    def sent(self) -> list[Request]:
        """Every write that was sent, refused ones too; dry runs are none."""
        verbs = ("update", "patch")
        return [one for one in self.kube.requests if one.verb in verbs and not one.is_dry_run]

    def sent_again(self) -> int:
        """Writes that were sent with exactly what an earlier one was sent with."""
        bodies = [repr(one.body) for one in self.sent()]
        return len(bodies) - len(set(bodies))

    def applied(self) -> list[Decision]:
        """The decisions that were carried out, as the loop tells them."""
        return [one for one in self.decisions if one.action is Action.APPLY]

    def reasons(self, since: int = 0) -> list[ReasonCode]:
        """The reasons of the ticks, from one on."""
        return [one.reason for one in self.decisions[since:]]

    def pods(self) -> set[str]:
        return {pod["metadata"]["name"] for pod in self.invariants.pods()}

    def sound(self) -> None:
        """No invariant was broken."""
        assert self.invariants.violations == []


def theirs(pipeline: Pipeline, configs: Configs) -> Json:
    """The object with much in it that is other people's."""
    body = render(pipeline, configs)
    body["metadata"]["annotations"] = {"theirs/team": "search"}
    body["metadata"]["labels"]["theirs"] = "1"
    predictor = body["spec"]["predictors"][0]
    predictor["annotations"] = {"theirs/note": "keep"}
    for component in predictor["componentSpecs"]:
        component["metadata"] = {"labels": {"theirs": "1"}}
        component["spec"]["terminationGracePeriodSeconds"] = 45
        component["spec"]["containers"][0]["env"].insert(0, {"name": "THEIRS", "value": "1"})
    resources = {"requests": {"cpu": "100m"}, "limits": {"cpu": "200m"}}
    side = {"name": "proxy", "image": "proxy:1", "env": [], "resources": resources}
    predictor["componentSpecs"][1]["spec"]["containers"].append(side)
    return body


@contextmanager
def build(
    *,
    over: str = "process",
    rate_rps: float = 5.0,
    mode: Mode = Mode.ACTIVE,
    settings: GuardSettings = SETTINGS,
    pipeline: Pipeline = PIPELINE,
    configs: Configs = SMALLEST,
    delay: Callable[[Request], tuple[float, float]] | None = None,
    step_s: float = 5.0,
    settled: bool = True,
    timeout_s: float = 10.0,
    **cluster: Any,
) -> Iterator[KubeWorld]:
    """A world with the pipeline deployed at `configs`, and settled.

    `over`: "process" (the client's requests are served in this process; `delay` says how long each takes) or
    "http". `step_s`: how often the cluster moves a step.
    """
    kube = FakeKube(**cluster)
    clock = WorldClock()
    pool = None
    if over == "http":
        kube.__enter__()
    else:
        pool = Pool(kube, clock.wait, delay or (lambda request: (0.0, 0.0)))
    store = FakeStore(PipelineControl(mode=mode))
    invariants = Invariants(pipeline, kube, clock, store)
    workload, close = _workload(kube, clock, pool, timeout_s)
    kube.store.create("seldondeployments", NAMESPACE, theirs(pipeline, configs))
    if settled:
        kube.tick(5)
    made = KubeWorld(
        kube=kube,
        clock=clock,
        metrics=FakeMetrics(clock, lambda t_s: made.rate_rps),
        store=store,
        workload=workload,
        invariants=invariants,
        settings=settings,
        pool=pool,
        pipeline=pipeline,
        rate_rps=rate_rps,
        first=configs,
    )
    invariants.watch()
    made.start_service()

    def step() -> None:
        kube.tick()
        invariants.stepped()
        made.lost += max(0.0, made.rate_rps - made.served_rps()) * step_s

    clock.every(step_s, step)
    try:
        yield made
    finally:
        invariants.close()
        close()
        if over == "http":
            kube.__exit__()
        else:
            kube._http.server_close()


def _workload(
    kube: FakeKube, clock: WorldClock, pool: Pool | None, timeout_s: float
) -> tuple[Workload, Callable[[], None]]:
    url = "http://cluster.invalid" if pool else kube.url
    made = KubeClient.from_kubeconfig(_kubeconfig(url), timeout_s, clock=clock, seed=0)
    if pool is not None:
        made.transport.api.rest_client.pool_manager = pool
    return KubeWorkload(made, layout_of), made.close


@cache
def _kubeconfig(url: str) -> str:
    """A kubeconfig file for that server, with the token that must never be told."""
    folder = Path(mkdtemp(prefix="ipa-faults-"))
    atexit.register(rmtree, folder)
    path = folder / "kubeconfig"
    path.write_text(kubeconfig(url, TOKEN))
    return str(path)


def replica_rps(stage: str, container: Json) -> float:
    """Items a second that one replica carries, by the profile."""
    env = {entry["name"]: entry.get("value") for entry in container.get("env", [])}
    batch = int(env[BATCH] or 1)
    _, item_s = VARIANTS[stage][str(env["MODEL_VARIANT"])]
    return float(batch * cores_of(container) ** 0.8 / (item_s * (0.4 + 0.6 * batch)))


def with_variant(stage: str, variant: str, configs: tuple[StageConfig, ...] = SMALLEST) -> Configs:
    """The configs with another variant of a stage."""
    return tuple(replace(one, variant=variant) if one.stage == stage else one for one in configs)
