"""A set that runs, as the loop's observation has it and as metrics, API and command line show it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from ipa.adapters.metrics.publish import Catalogue, Publisher
from ipa.cli.difference import difference
from ipa.cli.output import printer
from ipa.cli.views.status_text import canary_lines, difference_table, status_line
from ipa.control.canonical import plain
from ipa.control.engine.actuation import ActuationPhase
from ipa.control.engine.canary import CanaryTrial, EndedCount
from ipa.control.engine.observe import observe
from ipa.control.loop.snapshot import Snapshot
from ipa.control.ports import PipelineControl, Signals, StageSignals, StageState, WorkloadState
from ipa.files.plans import plan_in
from ipa.model.decision import Action, Decision, Mode, ReasonCode
from ipa.model.errors import InputError
from ipa.model.observation import Measured, Missing, MissingReason, Observation
from ipa.model.parts import in_order, with_share
from ipa.model.pipeline import Canary
from ipa.model.plan import StageConfig
from ipa.policies.table import PolicyInputs
from ipa.service.checks import checked_configs
from ipa.service.live_state import live_state
from tests.fakes.images import IMAGES, PROFILES

HIGH = StageConfig("classify", "high", 1, 8.0, 1)
LOW = StageConfig("classify", "low", 1, 2.0, 1)
BOTH = in_order([with_share((HIGH,), 80), with_share((LOW,), 20)])
ABSENT = Missing(MissingReason.ABSENT)


def observed(rate_rps: float, waiting: float = 0.0, served: Mapping[str, float] | None = None) -> Observation:
    stage = StageSignals(Measured(rate_rps), ABSENT, Measured(waiting), served=served or {})
    signals = Signals(Measured(rate_rps), ABSENT, ABSENT, {"classify": stage})
    workload = WorkloadState("7", tuple(StageState(config, 1) for config in BOTH), True)
    return observe(IMAGES, signals, workload, at_s=0.0)


def test_each_part_is_seen_with_its_share_of_what_the_stage_has() -> None:
    observation = observed(30.0, waiting=10.0)
    assert observation.running() == BOTH
    assert [stage.arrival_rate_rps for stage in observation.stages] == [Measured(24.0), Measured(6.0)]
    assert [stage.queue_length for stage in observation.stages] == [Measured(8.0), Measured(2.0)]


def test_the_variants_that_answered_are_those_of_all_parts_and_of_the_stage() -> None:
    observation = observed(30.0, served={"low": 20.0, "gone": 3.0, "high": 10.0})
    assert [stage.served for stage in observation.stages] == [(("low", 0.667), ("high", 0.333))] * 2
    for nothing in ({}, {"low": 0.0}, {"low": math.nan, "high": 1.0}, {"low": math.inf}):
        assert observed(30.0, served=nothing).stages[0].served == ()


def test_the_part_that_is_full_first_says_what_all_carry() -> None:
    known = PolicyInputs(IMAGES, PROFILES, solver="exact").predictor()(BOTH, 30.0)
    assert known is not None and len(known.capacities_rps) == 2
    assert known.capacity_rps == pytest.approx(
        min(known.capacities_rps[0] / 0.8, known.capacities_rps[1] / 0.2)
    )


def decision() -> Decision:
    at = datetime(2026, 1, 1, tzinfo=UTC).isoformat()
    held = (Action.HOLD, ReasonCode.NO_CHANGE, "the running plan is the best")
    return Decision("d", "images", 1, at, *held, BOTH, BOTH, Mode.ACTIVE)


def snapshot() -> Snapshot:
    active = PipelineControl(mode=Mode.ACTIVE)
    return Snapshot("images", 1, active, ActuationPhase.IDLE, observation=observed(30.0), decision=decision())


def test_the_metrics_of_a_stage_are_those_of_all_its_parts() -> None:
    registry = CollectorRegistry()
    Publisher(Catalogue(registry, (IMAGES,)))(decision(), snapshot())
    labels = {"pipeline": "images", "stage": "classify"}
    shown = {
        name: registry.get_sample_value(f"ipa_stage_{name}", labels)
        for name in ("cores", "replicas", "ready_replicas", "batch_size")
    }
    assert shown == {"cores": 10.0, "replicas": 2.0, "ready_replicas": 2.0, "batch_size": 1.0}


def test_the_state_has_a_row_for_each_part_and_the_accuracy_of_the_requests() -> None:
    live = live_state(IMAGES, PROFILES, snapshot(), now=datetime(2026, 1, 1, tzinfo=UTC), tick_s=5.0)
    assert [stage.config for stage in live.stages] == list(BOTH)
    assert live.pas == pytest.approx(0.8 * 0.8 + 0.2 * 0.7) and live.cost_cores == 10.0
    status = {
        "pipeline": "images",
        "control": {"paused": False},
        "sla_s": 0.75,
        "sla_percentile": 99.0,
        "live": plain(live),
    }
    assert "classify=high b1 1/1×8 for 80 %  classify=low b1 1/1×2 for 20 %" in status_line(status)


def test_the_difference_to_a_set_names_what_comes_goes_and_moves(capsys: pytest.CaptureFixture[str]) -> None:
    live = live_state(IMAGES, PROFILES, snapshot(), now=datetime(2026, 1, 1, tzinfo=UTC), tick_s=5.0)
    status = {"pipeline": "images", "live": plain(live)}
    alone = difference(status, plan_in({"stages": plain([HIGH])}, "a plan"))
    assert [(it.wanted and it.wanted["variant"], it.changed != ()) for it in alone.stages] == [
        ("high", True),
        (None, True),
    ]
    printer().print(difference_table(alone))
    output = capsys.readouterr().out
    assert "high for 80 → 100 %" in output and "low → nothing" in output
    assert not difference(status, plan_in({"stages": plain(BOTH)}, "a plan")).changed


def test_a_set_that_is_asked_for_is_checked_part_by_part() -> None:
    assert checked_configs(IMAGES, BOTH[::-1]) == BOTH
    with pytest.raises(InputError) as refused:
        checked_configs(IMAGES, (BOTH[0], replace(BOTH[1], share_percent=30)))
    (problem,) = refused.value.problems
    assert problem.message == "the shares are 110 % together, not 100 %" and problem.pointer == "/configs"
    # Without shares a stage that is there twice is a mistake.
    with pytest.raises(InputError) as twice:
        checked_configs(IMAGES, (HIGH, LOW))
    assert twice.value.problems[0].message == "stage 'classify' is given twice"


def test_a_canary_s_figures_have_a_line() -> None:
    live = live_state(IMAGES, PROFILES, snapshot(), now=datetime(2026, 1, 1, tzinfo=UTC), tick_s=5.0)
    assert [(part.share_percent, part.configs) for part in live.parts] == [(80, (BOTH[0],)), (20, (BOTH[1],))]
    assert live.canary is None
    trial = CanaryTrial(
        (BOTH[1],), (LOW,), 0.0, 40.0, 40.0, EndedCount(50.0, 2.0, 1.0), EndedCount(200.0), latency_s=0.4
    )
    shown = replace(snapshot(), trial=trial)
    tried = replace(IMAGES, canary=Canary(5, 60.0))
    now = plain(live_state(tried, PROFILES, shown, now=datetime(2026, 1, 1, tzinfo=UTC), tick_s=5.0))
    assert [it["is_canary"] for it in now["parts"]] == [False, True]
    status = {"live": now, "sla_percentile": 99.0}
    (measured,) = canary_lines(status)
    assert measured == (
        "Canary: 20 % of the requests, measured for 40 of 60 s: 96.0 % of 50 in time, 1 failed, p99 0.400 s"
    )
    assert canary_lines({"live": {}}) == []
