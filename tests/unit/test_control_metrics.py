"""What the loop says of itself on /metrics."""

from __future__ import annotations

from dataclasses import replace
from math import isnan

from prometheus_client import CollectorRegistry

from ipa.adapters.metrics.catalogue import Catalogue
from ipa.adapters.metrics.publish import Publisher
from ipa.model.decision import ReasonCode
from ipa.model.observation import Missing, MissingReason
from tests.fakes.world import PIPELINE, Scenario, profiled, scenario


def published(made: Scenario) -> CollectorRegistry:
    registry = CollectorRegistry()
    made.loop._hooks = (Publisher(Catalogue(registry, [PIPELINE])),)
    return registry


def test_every_reason_has_its_series_before_anything_happened() -> None:
    registry = CollectorRegistry()
    Catalogue(registry, [PIPELINE])
    for reason in ReasonCode:
        labels = {"pipeline": "pages", "reason": reason.value}
        assert registry.get_sample_value("ipa_decisions_total", labels) == 0.0
    assert registry.get_sample_value("ipa_sla_seconds", {"pipeline": "pages"}) == 0.8


def test_a_tick_shows_what_it_saw_and_decided() -> None:
    made = scenario(5.0)
    registry = published(made)
    made.ticks(6)
    pipeline = {"pipeline": "pages"}
    stage = {"pipeline": "pages", "stage": "detect"}
    counted = {
        reason: registry.get_sample_value("ipa_decisions_total", {**pipeline, "reason": reason.value})
        for reason in ReasonCode
    }
    assert counted[ReasonCode.STABILISING] == 3.0 and counted[ReasonCode.FIRST_PLAN] == 1.0
    assert sum(value or 0.0 for value in counted.values()) == 6.0
    assert registry.get_sample_value("ipa_tick_seconds_count", pipeline) == 6.0
    assert registry.get_sample_value("ipa_forecast_upper_rps", pipeline) == 5.5
    assert registry.get_sample_value("ipa_observed_arrival_rate_rps", pipeline) == 5.0
    known = profiled().predict(made.workload.desired, 5.0)
    assert known is not None
    assert registry.get_sample_value("ipa_predicted_latency_seconds", pipeline) == known.latency_s
    assert registry.get_sample_value("ipa_stage_replicas", stage) == 1.0
    assert registry.get_sample_value("ipa_stage_cores", stage) == 1.0
    assert registry.get_sample_value("ipa_input_age_seconds", pipeline) == 0.0


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
    pipeline = {"pipeline": "pages"}
    for name in ("ipa_observed_arrival_rate_rps", "ipa_forecast_upper_rps"):
        value = registry.get_sample_value(name, pipeline)
        assert value is not None and isnan(value)
    assert registry.get_sample_value("ipa_input_age_seconds", pipeline) == 90.0
