"""The control loop on the fake API server, over HTTP: what the real service does on a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipa.adapters.kube.client import KubeClient
from ipa.adapters.kube.workload import SeldonWorkload
from ipa.control.clock import VirtualClock
from ipa.control.guards import GuardSettings
from ipa.control.loop import ControlLoop, World
from ipa.control.ports import PipelineControl
from ipa.model.decision import Action, Decision, Mode, ReasonCode
from ipa.model.pipeline import SeldonRun, SeldonTarget
from ipa.model.plan import StageConfig
from tests.fakes.kube import FakeKube, FaultKind, Trouble
from tests.fakes.metrics import FakeMetrics
from tests.fakes.store import FakeStore
from tests.fakes.world import PIPELINE as LOCAL
from tests.fakes.world import SMALLEST, ours, profiled, window_max

Json = dict[str, Any]
PIPELINE = replace(
    LOCAL,
    seldon=SeldonTarget("pages"),
    stages=tuple(
        replace(
            stage,
            variants=tuple(
                replace(one, seldon=SeldonRun(image="model:1", env={"MODEL_VARIANT": one.name}))
                for one in stage.variants
            ),
        )
        for stage in LOCAL.stages
    ),
)
SETTINGS = GuardSettings(tick_s=5.0, rollout_deadline_s=90.0, quarantine_s=600.0)


class Cluster:
    """The loop, and a cluster that moves a step with each of its ticks."""

    def __init__(self, kube: FakeKube, client: KubeClient, clock: VirtualClock) -> None:
        self.kube, self.rate_rps = kube, 5.0
        self.workload = SeldonWorkload(client)
        self.clock, self.store = clock, FakeStore(PipelineControl(mode=Mode.ACTIVE))
        self.workload.create(PIPELINE, SMALLEST)
        kube.tick(6)
        kube.writes.clear()
        self.loop = ControlLoop(
            PIPELINE,
            World(
                self.clock,
                FakeMetrics(self.clock, lambda t_s: self.rate_rps),
                self.workload,
                self.store,
                self.store,
            ),
            policy=ours(),
            predict=profiled().predict,
            forecaster=window_max,
            settings=SETTINGS,
            window_s=20.0,
            run_id="run",
        )

    def ticks(self, count: int) -> list[Decision]:
        made = []
        for _ in range(count):
            made.append(self.loop.tick_once())
            self.kube.tick()
            self.clock.wait(SETTINGS.tick_s)
        return made

    def running(self) -> tuple[StageConfig, ...]:
        return tuple(stage.config for stage in self.workload.read(PIPELINE).stages)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with FakeKube() as kube:
        clock = VirtualClock()
        client = KubeClient.from_kubeconfig(str(kube.kubeconfig(tmp_path)), 10.0, clock=clock)
        yield Cluster(kube, client, clock)
        client.close()


def applied(decisions: list[Decision]) -> list[Decision]:
    return [decision for decision in decisions if decision.action is Action.APPLY]


def troubled(trouble: Trouble) -> Callable[[Json], Trouble | None]:
    def of(pod: Json) -> Trouble | None:
        env = {entry["name"]: entry.get("value") for entry in pod["containers"][0]["env"]}
        return trouble if env["MODEL_VARIANT"] == "big" else None

    return of


def test_it_follows_the_load_up_and_down_with_one_patch_a_decision(cluster: Cluster) -> None:
    decisions = []
    cores = []
    for rate in (5.0, 25.0, 5.0):
        cluster.rate_rps = rate
        # What comes in two steps, a replacement and then fewer replicas, takes two rollouts.
        decisions += cluster.ticks(40)
        cores.append(sum(config.total_cores for config in cluster.running()))
        assert cluster.workload.read(PIPELINE).settled
    assert cores[1] > cores[0]
    assert cores[2] < cores[1]
    assert len(cluster.kube.writes) == len(applied(decisions)) >= 3
    # The pods of the end run what the last decision says, ready.
    assert cluster.running() == applied(decisions)[-1].configs


def test_a_variant_that_crash_loops_is_taken_back_and_left_alone(cluster: Cluster) -> None:
    cluster.kube.cluster.trouble_of = troubled(Trouble.CRASH)
    decisions = cluster.ticks(30)
    reasons = [decision.reason for decision in applied(decisions)]
    assert reasons[:2] == [ReasonCode.FIRST_PLAN, ReasonCode.ROLLBACK]
    assert "CrashLoopBackOff" in applied(decisions)[1].detail
    state = cluster.workload.read(PIPELINE)
    assert state.settled
    assert all(stage.config.variant == "small" for stage in state.stages)


def test_a_rollout_that_is_not_ready_by_its_deadline_is_taken_back(cluster: Cluster) -> None:
    cluster.kube.cluster.trouble_of = troubled(Trouble.NEVER_READY)
    decisions = cluster.ticks(30)
    back = applied(decisions)[1]
    assert back.reason is ReasonCode.ROLLBACK
    assert "not ready after 90 s" in back.detail
    assert cluster.workload.read(PIPELINE).settled


def test_a_patch_whose_answer_was_lost_is_written_once(cluster: Cluster) -> None:
    cluster.rate_rps = 25.0
    cluster.kube.fault(FaultKind.LOST_AFTER, verb="patch", is_dry_run=False)
    decisions = cluster.ticks(20)
    assert len(cluster.kube.writes) == len(applied(decisions))
    assert cluster.workload.read(PIPELINE).settled
    assert cluster.running() == applied(decisions)[-1].configs


def test_a_dark_api_server_holds_and_it_goes_on_alone(cluster: Cluster) -> None:
    cluster.ticks(10)
    before = cluster.running()
    writes = len(cluster.kube.writes)
    cluster.kube.fault(FaultKind.STATUS, status=503, times=10_000)
    dark = cluster.ticks(10)
    assert {decision.reason for decision in dark} == {ReasonCode.WORKLOAD_UNKNOWN}
    cluster.kube.faults.faults.clear()
    assert cluster.running() == before
    assert len(cluster.kube.writes) == writes
    cluster.rate_rps = 25.0
    assert applied(cluster.ticks(3))


def test_another_hand_during_a_rollout_is_seen_and_not_rolled_back(cluster: Cluster) -> None:
    cluster.rate_rps = 25.0
    first = cluster.ticks(1)
    assert applied(first)

    def scale(sdep: Json) -> None:
        sdep["spec"]["predictors"][0]["componentSpecs"][0]["replicas"] = 8

    cluster.kube.edit("default", "pages", scale)
    decisions = cluster.ticks(3)
    assert ReasonCode.ROLLBACK not in {decision.reason for decision in decisions}
    assert decisions[0].reason is ReasonCode.DRIFT
