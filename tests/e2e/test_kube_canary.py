"""Canaries of the default policy on the fake API server: predictors with traffic."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from ipa.bootstrap.targets import check_carried, find_target
from ipa.control.engine.state import ChangeRequest
from ipa.control.loop.control_loop import LoopPorts
from ipa.control.ports import Attribution, ControlAction, PartSignals, PipelineControl
from ipa.model.decision import Decision, Mode, ReasonCode
from ipa.model.errors import InputError
from ipa.model.observation import Attainment, Loss, Measured
from ipa.model.parts import is_shared
from ipa.model.pipeline import Canary, Pipeline
from ipa.model.plan import StageConfig
from ipa.model.rolling import DEPLOYMENT
from ipa.policies.table import PolicyInputs, make_policy
from ipa.settings import Settings
from ipa.targets.seldon.variants import at_cluster
from tests.contract.kube_harness import split
from tests.fakes.looped import SETTINGS, Looped, looped
from tests.fakes.mixed import PROFILES
from tests.fakes.mixed import SHOP as LOCAL
from tests.fakes.world import loop_over

SHOP = at_cluster(LOCAL)
TRIED = replace(SHOP, canary=Canary(5, 60.0))
HIGH = (StageConfig("detect", "only", 1, 1.0, 1), StageConfig("classify", "high", 1, 1.0, 4))
MIDDLE = (StageConfig("detect", "only", 1, 1.0, 1), StageConfig("classify", "middle", 1, 1.0, 3))


@contextmanager
def controlled(folder: Path, pipeline: Pipeline, configs: tuple[StageConfig, ...]) -> Iterator[Looped]:
    inputs = PolicyInputs(pipeline, PROFILES, solver="exact", rolling=DEPLOYMENT)
    policy, predict = make_policy("ours", inputs), inputs.predictor()
    with looped(folder, pipeline, configs, policy=policy, predict=predict) as cluster:
        cluster.rate_rps = 40.0
        yield cluster


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Looped]:
    with controlled(tmp_path, TRIED, MIDDLE) as cluster:
        cluster.metrics.parts = {"default": part(1.0), "default-2": part(1.0)}
        yield cluster


def part(in_time_ratio: float, failed: float = 0.0) -> PartSignals:
    """A part of which so many requests of the last 30 s were in time."""
    losses = (Loss("", "failed", failed),) if failed else ()
    return PartSignals(Measured(0.3), Measured(Attainment(60.0, in_time_ratio, 30.0, losses)))


def traffic(cluster: Looped) -> dict[str, int | None]:
    """The traffic of each predictor, by its name."""
    (sdep,) = cluster.kube.store.everything("seldondeployments")
    return {one["name"]: one.get("traffic") for one in sdep["spec"]["predictors"]}


def until(cluster: Looped, reason: ReasonCode, most: int = 60) -> Decision:
    """The first decision of that reason."""
    for _ in range(most):
        (decision,) = cluster.ticks(1)
        if decision.reason is reason:
            return decision
    raise AssertionError(f"no {reason.value} in {most} ticks")


def test_a_canary_that_passes_takes_all_requests(trial: Looped) -> None:
    begun = until(trial, ReasonCode.CANARY)
    assert traffic(trial) == {"default": 100, "default-2": 0}
    assert "a canary is measured first, then classify=middle b1 3×1 core → classify=high" in begun.detail
    until(trial, ReasonCode.CANARY_MEASURED)
    assert traffic(trial) == {"default": 95, "default-2": 5}
    taken = until(trial, ReasonCode.SWITCH_VARIANT)
    assert taken.detail.startswith("the canary passed: 100.0 % of its ")
    trial.ticks(20)
    assert set(traffic(trial)) == {"default-2"} and not is_shared(trial.running())
    assert {it.variant for it in trial.running()} == {"only", "high"}
    # Both are proven now: a way back needs no canary.
    trial.rate_rps = 110.0
    reasons = {each.reason for each in trial.ticks(40)}
    assert "middle" in {it.variant for it in trial.running()} and ReasonCode.CANARY not in reasons


@pytest.mark.parametrize(
    ("bad", "failed"),
    [(part(0.7), r"0 failed"), (part(0.7, failed=18.0), r"[1-9]\d* failed")],
    ids=["late", "failing"],
)
def test_a_canary_that_is_worse_is_removed_and_held_with_its_figures(
    trial: Looped, bad: PartSignals, failed: str
) -> None:
    trial.metrics.parts["default-2"] = bad
    rolled = until(trial, ReasonCode.ROLLBACK)
    figures = rf"the canary failed: 70.0 % of its \d+ requests \(5 %\) were in time and {failed}, p99 0.3 s"
    assert re.match(figures, rolled.detail)
    held = until(trial, ReasonCode.QUARANTINED)
    assert rolled.detail.split(": ")[1] in held.detail and "is not planned for" in held.detail
    trial.ticks(5)
    assert trial.running() == MIDDLE and trial.workload.read(TRIED).settled
    assert set(traffic(trial)) == {"default"}
    (failure,) = trial.loop.snapshot().quarantines
    assert failure.variants == {("classify", "high")} and failure.why in rolled.detail


def test_a_canary_is_as_good_as_the_others_if_all_are_late(trial: Looped) -> None:
    trial.metrics.parts = {"default": part(0.7), "default-2": part(0.72)}
    assert until(trial, ReasonCode.SWITCH_VARIANT).detail.startswith("the canary passed: 72.0 % of its ")


def test_a_canary_that_nothing_measures_is_taken_back(trial: Looped) -> None:
    trial.metrics.parts = {}
    rolled = until(trial, ReasonCode.ROLLBACK, most=100)
    assert "none of its 5 % of the requests has been measured" in rolled.detail


def test_people_and_pauses_come_before_a_canary(trial: Looped) -> None:
    until(trial, ReasonCode.CANARY_MEASURED)
    control = PipelineControl(mode=Mode.ACTIVE, paused=True)
    trial.store.set_control(TRIED.name, control, Attribution(ControlAction.PAUSE))
    assert {each.reason for each in trial.ticks(30)} == {ReasonCode.PAUSED}
    assert traffic(trial) == {"default": 95, "default-2": 5}
    active = PipelineControl(mode=Mode.ACTIVE)
    trial.store.set_control(TRIED.name, active, Attribution(ControlAction.RESUME))
    back = trial.loop.tick_once(ChangeRequest(MIDDLE, "back to middle", by="ann"))
    assert back.configs == MIDDLE
    # It is still the better plan.
    until(trial, ReasonCode.CANARY)


def test_a_process_that_starts_anew_measures_a_running_canary_again(trial: Looped) -> None:
    until(trial, ReasonCode.CANARY_MEASURED)
    inputs = PolicyInputs(TRIED, PROFILES, solver="exact", rolling=DEPLOYMENT)
    ports = LoopPorts(trial.clock, trial.metrics, trial.workload, trial.store, trial.store)
    brain = {"predict": inputs.predictor(), "run_id": "second"}
    trial.loop = loop_over(TRIED, ports, make_policy("ours", inputs), SETTINGS, **brain)
    writes = len(trial.kube.writes)
    begun = until(trial, ReasonCode.CANARY_MEASURED)
    assert "begins" in begun.detail and len(trial.kube.writes) == writes
    assert until(trial, ReasonCode.SWITCH_VARIANT).detail.startswith("the canary passed: ")


def test_advisory_mode_says_that_a_canary_would_come_first(trial: Looped) -> None:
    control = PipelineControl(mode=Mode.ADVISORY)
    trial.store.set_control(TRIED.name, control, Attribution(ControlAction.MODE))
    decision = until(trial, ReasonCode.ADVISORY)
    assert decision.detail.startswith("would apply.canary: a canary is measured first, then ")
    assert not trial.kube.writes


def test_guarded_mode_gives_a_canary_that_was_begun_before_it_no_requests(trial: Looped) -> None:
    until(trial, ReasonCode.CANARY)
    control = PipelineControl(mode=Mode.GUARDED)
    trial.store.set_control(TRIED.name, control, Attribution(ControlAction.MODE))
    held = until(trial, ReasonCode.GUARDED)
    assert held.detail.startswith("would the next step of the last change: ")
    writes = len(trial.kube.writes)
    trial.ticks(10)
    assert traffic(trial) == {"default": 100, "default-2": 0} and len(trial.kube.writes) == writes


@pytest.mark.parametrize("mode", [Mode.ADVISORY, Mode.SHADOW])
def test_a_mode_that_does_not_write_says_that_it_would_take_a_canary_back(mode: Mode, trial: Looped) -> None:
    until(trial, ReasonCode.CANARY_MEASURED)
    trial.metrics.parts["default-2"] = part(0.2)
    trial.store.set_control(TRIED.name, PipelineControl(mode=mode), Attribution(ControlAction.MODE))
    decisions = trial.ticks(20)
    said = [each.reason.value for each in decisions if "would roll it back: the canary failed" in each.detail]
    assert said and set(said) == {f"hold.{mode.value}"}
    assert traffic(trial) == {"default": 95, "default-2": 5}


def test_what_is_not_carried_is_refused_with_the_remedy() -> None:
    on_seldon, here = (
        find_target(Settings(target="kubernetes")),
        find_target(Settings(target="local")),
    )
    for target in (on_seldon, here):
        check_carried(target, [SHOP, TRIED], "ours")
    with pytest.raises(InputError) as refused:
        check_carried(on_seldon, [split(TRIED)], "ours")
    assert any("canary" in it.message for it in refused.value.problems)
