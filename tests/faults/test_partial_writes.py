"""A7: of a pipeline's several objects, one after the first cannot be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from ipa.adapters.kube.client import KubeClient
from ipa.control.loop.control_loop import ControlLoop, LoopPorts
from ipa.control.ports import PipelineControl
from ipa.model.decision import Action, Decision, Mode, ReasonCode
from ipa.model.plan import StageConfig
from ipa.policies.ours import Ours
from ipa.targets.kubernetes.workload import KubeWorkload
from ipa.targets.seldon.layouts import layout_of, parts_of
from tests.contract.kube_harness import split
from tests.fakes.kube import FakeKube, Trouble
from tests.fakes.kube.api import Request
from tests.fakes.kube.samples import create
from tests.fakes.kube.store import ApiError
from tests.fakes.metrics import FakeMetrics
from tests.fakes.policy_contract import VARIANTS
from tests.fakes.store import FakeStore
from tests.fakes.world import SMALLEST, loop_over
from tests.faults.inprocess import Pool
from tests.faults.table import Case, variants
from tests.faults.world import PIPELINE as SINGLE
from tests.faults.world import PLANNER, QUIET, SETTINGS, WorldClock, _kubeconfig

Configs = tuple[StageConfig, ...]
PIPELINE = split(SINGLE)
PARTS = parts_of(PIPELINE)
CALM_RPS, BUSY_RPS = 5.0, 25.0
STEP_S = 5.0


@dataclass
class SplitWorld:
    """A loop over a split pipeline, and what it is measured by."""

    kube: FakeKube
    clock: WorldClock
    workload: KubeWorkload
    store: FakeStore
    loop: ControlLoop = None  # type: ignore[assignment]
    rate_rps: float = CALM_RPS
    decisions: list[Decision] = field(default_factory=list)
    plans: set[Configs] = field(default_factory=lambda: {SMALLEST})
    # Seconds in which what is asked for is no plan, in one go, the longest.
    mixed_s: float = 0.0
    longest_mixed_s: float = 0.0
    # Seconds in which, while mixed, some stage is asked to carry less than the rate before the change.
    short: int = 0
    # Requests that came while too few replicas were ready for them.
    lost: float = 0.0
    sent: list[str] = field(default_factory=list)
    fault: tuple[int, int, ApiError] | None = None

    def before(self, request: Request) -> None:
        """Refuse the patches after the first of a change, as often as the fault says."""
        if request.verb != "patch" or request.is_dry_run:
            return
        self.sent.append(request.name)
        if self.fault is None:
            return
        nth, times, error = self.fault
        if len(self.sent) >= nth and times:
            self.fault = (nth, times - 1, error)
            raise error

    def desired(self) -> Configs:
        """The sum that the objects ask for."""
        objects = {
            part.name: self.kube.store.get("seldondeployments", "default", part.name) for part in PARTS
        }
        return layout_of(PIPELINE).observe(objects).configs

    def step(self) -> None:
        """The observation of the last second."""
        desired = self.desired()
        is_mixed = desired not in self.plans
        self.mixed_s = self.mixed_s + 1.0 if is_mixed else 0.0
        self.longest_mixed_s = max(self.longest_mixed_s, self.mixed_s)
        if is_mixed:
            self.short += any(carries(config) < CALM_RPS for config in desired)

    def ticks(self, count: int) -> list[Decision]:
        made = []
        for _ in range(count):
            decision = self.loop.tick_once()
            if decision.action is Action.APPLY:
                self.plans.add(decision.configs)
            made.append(decision)
            self.clock.wait(SETTINGS.tick_s)
            stages = self.workload.read(PIPELINE).stages
            served = min(carries(replace(one.config, replicas=one.ready_replicas)) for one in stages)
            self.lost += max(0.0, self.rate_rps - served) * SETTINGS.tick_s
        self.decisions += made
        return made

    def settle(self, most: int = 60) -> int:
        """Ticks until nothing more is decided and all runs; -1: never."""
        for tick in range(most):
            decision = self.ticks(1)[-1]
            if decision.reason in QUIET and self.workload.read(PIPELINE).settled:
                return tick
        return -1


def carries(config: StageConfig) -> float:
    """Items a second of the stage, by its profile."""
    _, item_s = VARIANTS[config.stage][config.variant]
    each = config.batch_size * config.cores**0.8 / (item_s * (0.4 + 0.6 * config.batch_size))
    return config.replicas * each


@contextmanager
def world() -> Iterator[SplitWorld]:
    kube, clock = FakeKube(), WorldClock()
    client = KubeClient.from_kubeconfig(_kubeconfig("http://cluster.invalid"), 10.0, clock=clock, seed=0)
    client.transport.api.rest_client.pool_manager = Pool(kube, clock.wait, lambda request: (0.0, 0.0))
    store = FakeStore(PipelineControl(mode=Mode.ACTIVE))
    made = SplitWorld(kube, clock, KubeWorkload(client, layout_of), store)
    create(client, PIPELINE, SMALLEST)
    kube.tick(8)
    kube.before = made.before
    ports = LoopPorts(clock, FakeMetrics(clock, lambda t_s: made.rate_rps), made.workload, store, store)
    made.loop = loop_over(PIPELINE, ports, Ours(PIPELINE, PLANNER), SETTINGS)
    clock.every(STEP_S, kube.tick)
    clock.every(1.0, made.step)
    try:
        yield made
    finally:
        client.close()
        kube._http.server_close()


def rise(split: SplitWorld) -> int:
    """The load goes up, and the ticks until all has settled."""
    split.ticks(8)
    split.sent.clear()
    split.rate_rps = BUSY_RPS
    return split.settle()


FAULTS = {
    "refused once": (1, ApiError(409, "Conflict", "moved")),
    "refused by a webhook once": (1, ApiError(422, "Invalid", "no")),
    "no answer for one tick": (1, ApiError(503, "ServiceUnavailable", "down")),
    "no answer for four ticks": (4, ApiError(500, "InternalError", "down")),
}


@pytest.mark.parametrize(
    "fault",
    variants(
        ["refused once", "no answer for four ticks"], ["refused by a webhook once", "no answer for one tick"]
    ),
)
def test_a7_a_later_object_cannot_be_written(case: Case, fault: str) -> None:
    case.title += f": {fault}"
    with world() as clean:
        clean_ticks = rise(clean)
        objects, reached = len(clean.sent), clean.desired()
    case.at_least("objects of the change", objects, 3)
    times, error = FAULTS[fault]
    runs = []
    for nth in range(2, objects + 1):
        with world() as faulty:
            faulty.fault = (nth, times, error)
            ticks = rise(faulty)
            assert ticks >= 0
            assert faulty.desired() == reached
            runs.append((ticks, faulty))
    case.at_most("MTTR ticks max", max(ticks for ticks, _ in runs) - clean_ticks, times + 4)
    limit_s = SETTINGS.rollout_deadline_s + SETTINGS.tick_s
    case.at_most("mixed s max", max(one.longest_mixed_s for _, one in runs), limit_s)
    case.at_most("additional requests due to the fault", max(one.lost for _, one in runs) - clean.lost, 330)
    case.equal("s with less requested capacity of a stage than before", sum(one.short for _, one in runs), 0)
    drifts = sum(each.reason is ReasonCode.DRIFT for _, one in runs for each in one.decisions)
    case.equal("own writes treated as another writer's", drifts, 0)
    case.equal("writes to the router", sum(one.sent.count("pages-router") for _, one in runs), 0)


def crashes(pod: dict[str, Any]) -> Trouble | None:
    """The larger variant of the first stage does not run."""
    env = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
    is_bad = pod["containers"][0]["name"] == "detect" and env["MODEL_VARIANT"] == "big"
    return Trouble.CRASH if is_bad else None


def test_a7_the_part_that_was_written_does_not_run(case: Case) -> None:
    with world() as split:
        split.kube.cluster.trouble_of = crashes
        split.fault = (2, 1, ApiError(503, "ServiceUnavailable", "down"))
        ticks = next(tick for tick in range(60) if split.ticks(1)[0].reason is ReasonCode.ROLLBACK)
        case.at_most("ticks until the rollback", ticks, 6)
        case.equal("previous configuration runs", split.desired() == SMALLEST, True)
        case.equal(
            "objects written",
            ", ".join(split.sent),
            "pages-detect-model, pages-read-model, pages-detect-model",
        )
        split.ticks(10)
        case.at_most("mixed s max", split.longest_mixed_s, 6 * SETTINGS.tick_s)
        assert split.desired()[0].variant == "small"
