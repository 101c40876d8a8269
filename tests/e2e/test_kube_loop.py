"""The control loop on the fake API server, over HTTP: what the real service does on a cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ipa.model.decision import ReasonCode
from tests.fakes.kube import FaultKind, Trouble
from tests.fakes.looped import PIPELINE, Json, Looped, applied, looped, troubled
from tests.fakes.world import SMALLEST, ours, profiled


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Looped]:
    with looped(tmp_path, PIPELINE, SMALLEST, policy=ours(), predict=profiled().predict) as cluster:
        yield cluster


def test_it_follows_the_load_up_and_down_with_one_patch_a_decision(cluster: Looped) -> None:
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


def test_a_variant_that_crash_loops_is_taken_back_and_left_alone(cluster: Looped) -> None:
    cluster.kube.cluster.trouble_of = troubled(Trouble.CRASH, "big")
    decisions = cluster.ticks(30)
    reasons = [decision.reason for decision in applied(decisions)]
    assert reasons[:2] == [ReasonCode.FIRST_PLAN, ReasonCode.ROLLBACK]
    assert "CrashLoopBackOff" in applied(decisions)[1].detail
    state = cluster.workload.read(PIPELINE)
    assert state.settled
    assert all(stage.config.variant == "small" for stage in state.stages)


def test_a_rollout_that_is_not_ready_by_its_deadline_is_taken_back(cluster: Looped) -> None:
    cluster.kube.cluster.trouble_of = troubled(Trouble.NEVER_READY, "big")
    decisions = cluster.ticks(30)
    back = applied(decisions)[1]
    assert back.reason is ReasonCode.ROLLBACK
    assert "not ready after 90 s" in back.detail
    assert cluster.workload.read(PIPELINE).settled


def test_a_patch_whose_answer_was_lost_is_written_once(cluster: Looped) -> None:
    cluster.rate_rps = 25.0
    cluster.kube.fault(FaultKind.LOST_AFTER, verb="patch", is_dry_run=False)
    decisions = cluster.ticks(20)
    assert len(cluster.kube.writes) == len(applied(decisions))
    assert cluster.workload.read(PIPELINE).settled
    assert cluster.running() == applied(decisions)[-1].configs


def test_a_dark_api_server_holds_and_it_goes_on_alone(cluster: Looped) -> None:
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


def test_another_hand_during_a_rollout_is_seen_and_not_rolled_back(cluster: Looped) -> None:
    cluster.rate_rps = 25.0
    first = cluster.ticks(1)
    assert applied(first)

    def scale(sdep: Json) -> None:
        sdep["spec"]["predictors"][0]["componentSpecs"][0]["replicas"] = 8

    cluster.kube.edit("default", "pages", scale)
    decisions = cluster.ticks(3)
    assert ReasonCode.ROLLBACK not in {decision.reason for decision in decisions}
    assert decisions[0].reason is ReasonCode.DRIFT
