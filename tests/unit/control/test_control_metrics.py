"""The loop's metrics on /metrics."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

import pytest
from prometheus_client import CollectorRegistry

from ipa.adapters.metrics.publish import DESIRED, Catalogue, Publisher
from ipa.control.engine.guards import GuardSettings
from ipa.control.ports import Signals
from ipa.metering import table
from ipa.metering.make import new_registry
from ipa.metering.metric import MetricKind
from ipa.model.decision import Action, Mode, ReasonCode
from ipa.model.errors import UnavailableError
from ipa.model.observation import Missing, MissingReason
from ipa.model.plan import StageConfig
from tests.fakes.world import PIPELINE, Scenario, profiled, scenario


def published(made: Scenario) -> CollectorRegistry:
    registry = new_registry()
    made.loop._hooks = (Publisher(Catalogue(registry, [PIPELINE])),)
    return registry


def sample(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    """The sample of the pipeline with these labels."""
    return registry.get_sample_value(f"ipa_{name}", {"pipeline": "pages", **labels})


def test_every_reason_has_its_series_before_anything_happened() -> None:
    registry = new_registry()
    Catalogue(registry, [PIPELINE])
    for reason in ReasonCode:
        assert sample(registry, "decisions_total", reason=reason.value) == 0.0
    assert sample(registry, "sla_seconds") == 0.8


def test_a_tick_shows_what_it_saw_and_decided() -> None:
    made = scenario(5.0)
    registry = published(made)
    made.ticks(6)
    counted = {reason: sample(registry, "decisions_total", reason=reason.value) for reason in ReasonCode}
    assert counted[ReasonCode.NO_CHANGE] == 5.0 and counted[ReasonCode.FIRST_PLAN] == 1.0
    assert sum(value or 0.0 for value in counted.values()) == 6.0
    assert sample(registry, "tick_seconds_count") == 6.0
    assert sample(registry, "forecast_upper_rps") == 5.5
    assert sample(registry, "observed_arrival_rate_rps") == 5.0
    known = profiled().predict(made.workload.desired, 5.0)
    assert known is not None
    assert sample(registry, "predicted_latency_seconds") == known.latency_s
    assert sample(registry, "stage_replicas", stage="detect") == 1.0
    assert sample(registry, "stage_cores", stage="detect") == 1.0
    for given in ("load", "latency", "stages", "workload"):
        assert sample(registry, "input_age_seconds", input=given) == 0.0


def test_what_is_not_seen_is_not_shown_as_the_last_value_nor_as_zero() -> None:
    made = scenario(5.0)
    registry = published(made)
    made.ticks(1)
    made.metrics.fault = lambda now_s, signals: replace(
        signals,
        arrival_rate_rps=Missing(MissingReason.ABSENT),
        load=Missing(MissingReason.STALE, age_s=90.0),
    )
    made.workload.by_another_hand("read", replicas=2)
    made.ticks(2)
    for name in ("observed_arrival_rate_rps", "forecast_upper_rps"):
        assert str(sample(registry, name)) == "nan"
    # The load was stale when it was last looked at; latency is still seen.
    assert sample(registry, "input_age_seconds", input="load") == 90.0
    assert sample(registry, "input_age_seconds", input="latency") == 0.0


def test_gauges_are_nan_and_counters_zero_before_anything_was_seen() -> None:
    registry = new_registry()
    Catalogue(registry, [PIPELINE])
    zero = [metric.base for metric in table.METRICS if metric.kind is not MetricKind.GAUGE]
    known = ("ipa_build_info", "ipa_leader", "ipa_sla")
    for family in registry.collect():
        values = [sample.value for sample in family.samples]
        assert bool(values) != (family.name in {metric.name for metric in DESIRED})
        if family.name in zero:
            assert set(values) == {0.0}
        elif not family.name.startswith(known):
            assert all(isnan(value) for value in values), family.name


def test_the_age_of_what_is_not_seen_any_more_grows() -> None:
    made = scenario(5.0)
    registry = published(made)
    made.ticks(2)
    gone = Missing(MissingReason.UNREACHABLE, "no answer")
    made.metrics.fault = lambda now_s, signals: Signals(gone, gone, gone)
    made.workload.errors["read"] = [UnavailableError("no answer")] * 3
    made.ticks(3)
    for given in ("load", "latency", "stages", "workload"):
        age_s = sample(registry, "input_age_seconds", input=given)
        # Seen at the second of five ticks, which are 5 s apart.
        assert age_s == 15.0, given


def test_the_plan_before_the_guards_and_the_decision_after_them() -> None:
    made = scenario(40.0, mode=Mode.ADVISORY)
    registry = published(made)
    made.ticks(2)
    decision = made.store.recorded[-1]
    assert decision.plan is not None and decision.reason is ReasonCode.ADVISORY
    for config, planned in zip(decision.configs, decision.plan.configs, strict=True):
        assert sample(registry, "plan_replicas", stage=config.stage) == planned.replicas
        assert sample(registry, "plan_cores", stage=config.stage) == planned.total_cores
        assert sample(registry, "stage_replicas", stage=config.stage) == config.replicas == 1
    assert sample(registry, "plan_pas_ratio") == decision.plan.pas
    solved = {"solver": decision.plan.solver, "termination": decision.plan.termination.value}
    # Taken again at the second tick, with the time that it took at the first.
    assert registry.get_sample_value("ipa_solve_seconds_count", solved) == 1.0
    made.say(paused=True)
    made.ticks(1)
    # No plan was made, so none is shown.
    assert str(sample(registry, "plan_replicas", stage="detect")) == "nan"
    assert sample(registry, "paused") == 1.0


def desired(registry: CollectorRegistry) -> dict[tuple[str, ...], float]:
    """The desired replicas, cores, batch size and shares by metric, stage and variant."""
    samples = (it for family in registry.collect() for it in family.samples if "_desired_" in it.name)
    return {(it.name[12:], it.labels["stage"], it.labels.get("variant", "")): it.value for it in samples}


@pytest.mark.parametrize("mode", [Mode.ADVISORY, Mode.SHADOW, Mode.ACTIVE])
def test_what_is_desired_is_that_of_active_mode_and_absent_without_a_valid_plan(mode: Mode) -> None:
    running = (StageConfig("detect", "big", 4, 1.0, 1), StageConfig("read", "small", 2, 1.0, 1))
    usual = {"settings": GuardSettings(tick_s=5.0, max_step_replicas=1), "configs": running}
    made, active = (scenario(60.0, mode=each, **usual) for each in (mode, Mode.ACTIVE))
    registry = published(made)
    assert not desired(registry)
    made.ticks(1)
    wanted = active.ticks(1)[0]
    assert wanted.plan is not None and wanted.configs not in (wanted.previous, wanted.plan.configs)
    shown = {}
    for it in wanted.configs:
        shares = {("share_ratio", it.stage, name): it.variant == name for name in ("small", "big")}
        shown |= {("replicas", it.stage, ""): it.replicas, ("cores", it.stage, ""): it.total_cores, **shares}
        shown["batch_size", it.stage, ""] = it.batch_size
    assert desired(registry) == shown
    made.say(paused=True)
    made.ticks(1)
    assert not desired(registry)
    made.say(paused=False)
    made.ticks(3)
    assert desired(registry)
    made.metrics.fault = lambda now_s, seen: replace(seen, load=Missing(MissingReason.UNREACHABLE))
    made.ticks(1)
    assert not desired(registry)


def test_what_runs_is_shown_by_variant() -> None:
    made = scenario(5.0)
    registry = published(made)
    made.ticks(1)
    for name, share in (("small", 1.0), ("big", 0.0)):
        assert sample(registry, "variant_share_ratio", stage="detect", variant=name) == share
    modes = [sample(registry, "mode", mode=mode.value) for mode in Mode]
    assert sum(value or 0.0 for value in modes) == 1.0


def test_a_plan_carried_out_in_steps_counts_as_curtailed() -> None:
    running = (StageConfig("detect", "big", 4, 1.0, 1), StageConfig("read", "small", 2, 1.0, 1))
    made = scenario(60.0, settings=GuardSettings(tick_s=5.0, max_step_replicas=1), configs=running)
    registry = published(made)
    made.ticks(1)
    assert made.store.recorded[-1].action is Action.APPLY
    assert sample(registry, "curtailed_plans_total") == 1.0


def test_a_rollout_that_fails_is_one_rollback_and_one_quarantine() -> None:
    made = scenario(5.0)
    registry = published(made)
    made.workload.broken = {("detect", "big"), ("read", "big")}
    made.ticks(10)
    rollbacks = [decision for decision in made.store.recorded if decision.reason is ReasonCode.ROLLBACK]
    counted = sample(registry, "decisions_total", reason=ReasonCode.ROLLBACK.value)
    assert rollbacks and counted == len(rollbacks)
    assert sample(registry, "active_quarantines") == 1.0


def test_the_series_of_a_pipeline_are_bounded_and_a_run_adds_none() -> None:
    made = scenario(lambda t_s: 5.0 + 40.0 * (t_s > 60.0))
    registry = published(made)

    def series() -> int:
        return sum(len(family.samples) for family in registry.collect())

    before = series()
    made.metrics.fault = lambda now_s, signals: (
        signals if now_s < 100 else replace(signals, load=Missing(MissingReason.UNREACHABLE))
    )
    made.ticks(30)
    assert series() == before
    alone = new_registry()
    Catalogue(alone)
    own = sum(len(family.samples) for family in alone.collect())
    # Of a thousand pipelines of two stages with two variants each some 10⁵.
    assert before - own <= 130
