"""Replicas of the service over one fake cluster and one record, each with its own part in the election."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from ipa.adapters.kube import kinds
from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.kinds import ObjectRef, ResourceKind
from ipa.adapters.kube.lease import LeaseLeadership, TermLeadership, write_spec
from ipa.control.election import Lease, LeaseTimes
from ipa.control.loop.control_loop import ControlLoop, LoopPorts
from ipa.control.ports import AlwaysLeading, Leadership, Workload
from ipa.model.decision import Decision
from ipa.model.errors import UnavailableError
from ipa.policies.ours import Ours
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of
from tests.fakes.kube.api import Request
from tests.fakes.world import loop_over
from tests.faults.world import NAMESPACE, PLANNER, KubeWorld, _kubeconfig, _workload

TIMES = LeaseTimes()
PLACE = ObjectRef(kinds.LEASE, NAMESPACE, "ipa-serving")
# How often the thread of a replica that takes part looks whether something is due.
LOOK_S = 0.25


@dataclass
class Leases:
    """The Leases of the cluster; while `cut` none of it can be reached."""

    client: KubeClient
    cut: bool = False

    def get(self, kind: ResourceKind, namespace: str, name: str) -> Any:
        self._check()
        return self.client.get(kind, namespace, name)

    def create(self, kind: ResourceKind, namespace: str, body: Any) -> Any:
        self._check()
        return self.client.create(kind, namespace, body)

    def replace(self, kind: ResourceKind, namespace: str, body: Any) -> Any:
        self._check()
        return self.client.replace(kind, namespace, body)

    def _check(self) -> None:
        if self.cut:
            raise UnavailableError("no answer")


@dataclass
class Replica:
    """One replica: `stopped` ones do nothing, as after SIGSTOP; `writes` are those that were accepted."""

    name: str
    world: KubeWorld
    leases: Leases
    leadership: LeaseLeadership
    loop: ControlLoop
    stopped: bool = False
    decisions: list[Decision] = field(default_factory=list)
    writes: list[float] = field(default_factory=list)

    def take_part(self) -> None:
        """The work of its thread."""
        while not self.stopped and self.leadership.step() == 0.0:
            pass

    def tick(self) -> Decision:
        """One tick, without the time to the next."""
        decision = self.loop.tick_once()
        self.decisions.append(decision)
        return decision


class Service:
    """Replicas of one service, and what each has sent. `before` is called with who sends each request."""

    def __init__(self, world: KubeWorld) -> None:
        self.world = world
        self.replicas: list[Replica] = []
        self.before: Callable[[Replica, Request], None] = lambda replica, request: None
        self._stack = ExitStack()
        # Who is at work, innermost last: one may act while another is stopped in the middle of its own.
        self._acting: list[Replica] = []
        self._pending: list[tuple[Replica, Request]] = []
        kube = world.kube
        served = kube.before

        def before(request: Request) -> None:
            if served is not None:
                served(request)
            if self._acting and request.resource == "seldondeployments":
                replica = self._acting[-1]
                self.before(replica, request)
                if request.verb in ("update", "patch") and not request.is_dry_run:
                    self._pending.append((replica, request))

        kube.before = before
        # One that was released: nobody has to wait for whoever led before.
        spec = write_spec(Lease("", 1.0, renewed_at="then"))
        body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": spec}
        kube.store.create("leases", NAMESPACE, {**body, "metadata": {"name": PLACE.name}})

    def close(self) -> None:
        self._stack.close()

    def add(self, name: str, *, elects: bool = True, install: str = "") -> Replica:
        """Another replica, of that install; without the election it believes that it always leads."""
        world, clock = self.world, self.world.clock
        workload = self._workload(install)
        client = self._client()
        leases = Leases(client)
        leadership = LeaseLeadership(
            leases, PLACE, name, TIMES, now_s=clock.monotonic_s, wall=clock.now, draw=lambda: 0.5
        )
        leads: Leadership = TermLeadership(leadership) if elects else AlwaysLeading()
        ports = LoopPorts(clock, world.metrics, workload, world.store, world.store, leadership=leads)
        loop = loop_over(world.pipeline, ports, Ours(world.pipeline, PLANNER), world.settings, run_id=name)
        made = Replica(name, world, leases, leadership, loop)
        self.replicas.append(made)
        clock.every(LOOK_S, made.take_part)
        return made

    def led(self) -> tuple[Replica, Replica]:
        """The leader and the other, of two, once one leads."""
        assert self.until(lambda: any(one.leadership.leading() for one in self.replicas), 40.0)
        first, second = self.replicas
        return (first, second) if first.leadership.leading() else (second, first)

    def tick(self, replica: Replica) -> Decision:
        """A tick of that replica, and whether what it sent was accepted."""
        self._acting.append(replica)
        try:
            return replica.tick()
        finally:
            self._acting.pop()
            self._settle()

    def ticks(self, replica: Replica, seconds: float) -> None:
        """Ticks of that replica for so long."""
        tick_s = self.world.settings.tick_s
        for _ in range(round(seconds / tick_s)):
            self.tick(replica)
            self.world.clock.wait(tick_s)

    def until(self, holds: Callable[[], bool], seconds: float) -> bool:
        """Let time pass until that holds, at most so long."""
        clock = self.world.clock
        end_s = clock.monotonic_s() + seconds
        while not holds() and clock.monotonic_s() < end_s:
            clock.wait(LOOK_S)
        return holds()

    def _settle(self) -> None:
        """Give each write that was kept to who sent it, in the order in which they were kept."""
        accepted = self.world.kube.writes
        for replica, request in self._pending:
            if any(one is request for one in accepted):
                replica.writes.append(self.world.clock.monotonic_s())
        self._pending = []

    def _workload(self, install: str) -> Workload:
        world = self.world
        if install:
            return KubeWorkload(self._client(), layout_of, install)
        made, close = _workload(world.kube, world.clock, world.pool, 10.0)
        self._stack.callback(close)
        return made

    def _client(self) -> KubeClient:
        world = self.world
        path = _kubeconfig("http://cluster.invalid")
        client = KubeClient.from_kubeconfig(path, 5.0, clock=world.clock, seed=0)
        client.transport.api.rest_client.pool_manager = world.pool
        self._stack.callback(client.close)
        return client
