"""A set of variants on the fake API server: predictors with traffic, through the one guarded patch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ipa.bootstrap.targets import check_carried, find_target
from ipa.control.ports import Attribution, ControlAction, PipelineControl, StagePin
from ipa.model.decision import Mode, ReasonCode
from ipa.model.errors import UsageError
from ipa.model.pipeline import Pin
from ipa.model.plan import StageConfig
from ipa.model.rolling import DEPLOYMENT
from ipa.policies.table import PolicyInputs, make_policy
from ipa.settings import Settings
from ipa.targets.seldon.variants import at_cluster
from tests.contract.kube_harness import split
from tests.fakes.images import IMAGES as LOCAL
from tests.fakes.images import PROFILES
from tests.fakes.looped import Looped, applied, looped

IMAGES = at_cluster(replace(LOCAL, bounds=replace(LOCAL.bounds, transition_cores=24.0)))
HIGH = StageConfig("classify", "high", 1, 8.0, 1)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Looped]:
    inputs = PolicyInputs(IMAGES, PROFILES, solver="exact", rolling=DEPLOYMENT)
    policy = make_policy("infadapter", inputs)
    with looped(tmp_path, IMAGES, (HIGH,), policy=policy, predict=inputs.predictor()) as cluster:
        cluster.rate_rps = 20.0
        yield cluster


def predictors(cluster: Looped) -> list[tuple[str, int | None]]:
    """The names and the traffic of what is there."""
    (sdep,) = cluster.kube.store.everything("seldondeployments")
    return [(one["name"], one.get("traffic")) for one in sdep["spec"]["predictors"]]


def test_a_load_that_rises_starts_a_second_predictor_and_then_sends_it_its_share(cluster: Looped) -> None:
    cluster.ticks(3)
    assert predictors(cluster) == [("default", None)]
    cluster.rate_rps = 32.0
    decisions = applied(cluster.ticks(30))
    assert len(cluster.kube.writes) == len(decisions) >= 2
    begun, shared = decisions[:2]
    assert [it.share_percent for it in begun.configs] == [100, 0]
    assert (begun.reason, shared.reason) == (ReasonCode.FIRST_PLAN, ReasonCode.RESHARE)
    assert shared.detail.startswith("the next step of the last change: ")
    # What was started is the whole of what is sent requests then, and nothing is taken away meanwhile.
    assert {it.variant for it in begun.configs} == {it.variant for it in shared.configs} == {"high", "low"}
    assert cluster.workload.read(IMAGES).settled
    assert cluster.running() == decisions[-1].configs
    percents = {config.variant: config.share_percent for config in cluster.running()}
    assert predictors(cluster) == [("default", percents["high"]), ("default-2", percents["low"])]
    # The orchestrator of each predictor is within the budget.
    assert IMAGES.bounds.overhead.cores(cluster.running()) <= 12.0


def test_modes_pins_and_pauses_hold_for_sets(cluster: Looped) -> None:
    def say(control: PipelineControl) -> None:
        cluster.store.set_control(IMAGES.name, control, Attribution(ControlAction.MODE))

    cluster.rate_rps = 32.0
    for control, reason in (
        (PipelineControl(mode=Mode.ADVISORY), ReasonCode.ADVISORY),
        (PipelineControl(mode=Mode.ACTIVE, paused=True), ReasonCode.PAUSED),
    ):
        say(control)
        assert reason in {decision.reason for decision in cluster.ticks(6)}
    assert not cluster.kube.writes
    pin = StagePin("classify", Pin(variant="low"))
    say(PipelineControl(mode=Mode.ACTIVE, pins=(pin,)))
    cluster.ticks(20)
    assert {config.variant for config in cluster.running()} == {"low"}
    # Guarded mode adds replicas alone, and a set has one of each.
    say(PipelineControl(mode=Mode.GUARDED))
    before = cluster.running()
    cluster.ticks(10)
    assert cluster.running() == before


def test_a_world_that_carries_no_sets_refuses_the_policy_at_the_start() -> None:
    on_seldon = find_target(Settings(target="kubernetes"))
    with pytest.raises(UsageError, match="infadapter") as refused:
        check_carried(on_seldon, [split(IMAGES)], "infadapter")
    assert "shape split" in refused.value.problems[0].message and "ms+" in (refused.value.hint or "")
    check_carried(on_seldon, [split(IMAGES)], "ms+")
    for target in (on_seldon, find_target(Settings(target="local"))):
        check_carried(target, [IMAGES], "infadapter")
