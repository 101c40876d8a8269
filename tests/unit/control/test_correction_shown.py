"""The signs of profiles that are wrong: the metric, the live state, the status, the event."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from prometheus_client import CollectorRegistry

from ipa.adapters.kube.events import event_body
from ipa.adapters.metrics.publish import Catalogue, Publisher
from ipa.cli.output import printer
from ipa.cli.views.status_text import status_table
from ipa.control.canonical import plain
from ipa.control.election import ALONE
from ipa.control.engine.correction import FIRST_DEVIATION, UNCORRECTED, Correction, ObservedSlowdown
from ipa.control.loop.snapshot import Snapshot
from ipa.control.ports import PipelineControl
from ipa.model.decision import Decision, Event, Notice
from ipa.model.observation import Attainment, Loss, Measured
from ipa.model.plan import StageConfig
from ipa.service.live_state import LiveState, live_state
from ipa.service.status import StatusView, control_view
from ipa.targets.seldon.locate import SELDON_DEPLOYMENT
from tests.fakes.world import PIPELINE, PROFILES, scenario

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SLOW = Correction(
    (ObservedSlowdown("detect", "small", 1.41, 7, 9.0), ObservedSlowdown("read", "big", 1.04, 0, 3.0))
)
SMALL = {"pipeline": "pages", "stage": "detect", "variant": "small"}
BIG = {"pipeline": "pages", "stage": "read", "variant": "big"}


def ticked(correction: Correction) -> tuple[Decision, Snapshot]:
    made = scenario(
        5.0, configs=(StageConfig("detect", "small", 1, 1.0, 2), StageConfig("read", "big", 1, 1.0, 1))
    )
    decision = made.loop.tick_once()
    return decision, replace(made.loop.snapshot(), correction=correction, plan=None)


def test_the_metric_has_what_was_seen_and_nothing_of_what_is_forgotten() -> None:
    registry = CollectorRegistry()
    publish = Publisher(Catalogue(registry, [PIPELINE]))
    name = "ipa_profile_slowdown_ratio"
    publish(*ticked(UNCORRECTED))
    assert str(registry.get_sample_value(name, SMALL)) == "nan"
    publish(*ticked(SLOW))
    assert registry.get_sample_value(name, SMALL) == 1.41
    assert registry.get_sample_value(name, BIG) == 1.04
    publish(*ticked(Correction(SLOW.observed[:1])))
    assert registry.get_sample_value(name, SMALL) == 1.41
    assert str(registry.get_sample_value(name, BIG)) == "nan"


def status_of(live: LiveState) -> StatusView:
    control, sla = control_view(PipelineControl(), NOW), PIPELINE.sla
    return StatusView("pages", "", sla.latency_s, sla.percentile, control, not live.degraded, live, ALONE, ())


def table_of(live: LiveState) -> str:
    """The status as the command line prints it."""
    console = printer()
    with console.capture() as text:
        console.print(status_table(plain(status_of(live))))
    return text.get()


def test_status_says_what_a_stage_switches_to_in_place() -> None:
    _, snapshot = ticked(UNCORRECTED)
    stages = (replace(PIPELINE.stages[0], resident="all"), PIPELINE.stages[1])
    live = live_state(replace(PIPELINE, stages=stages), PROFILES, snapshot, now=NOW, tick_s=5.0)
    assert [stage.resident for stage in live.stages] == [("big",), ()]
    text = table_of(live)
    assert "small (+1 resident)" in text and "big (+" not in text


def test_status_says_which_variants_answered_and_how_accurate_that_was() -> None:
    _, snapshot = ticked(UNCORRECTED)
    assert snapshot.observation is not None

    def shown(*served: tuple[str, float]) -> tuple[LiveState, str]:
        first, *rest = snapshot.observation.stages  # type: ignore[union-attr]
        observation = replace(snapshot.observation, stages=(replace(first, served=served), *rest))
        live = live_state(PIPELINE, PROFILES, replace(snapshot, observation=observation), now=NOW, tick_s=5.0)
        return live, table_of(live)

    small, big = (each.accuracy for each in PROFILES["detect"].variants)
    live, text = shown(("big", 0.75), ("small", 0.25))
    assert [(it.variant, it.share_ratio) for it in live.stages[0].served] == [("big", 0.75), ("small", 0.25)]
    accuracy = 0.75 * big + 0.25 * small
    assert live.stages[0].served_accuracy == pytest.approx(accuracy)
    assert live.pas is not None and live.served_pas == pytest.approx(live.pas / small * accuracy)
    assert f"PAS {live.pas:.3f}, {live.served_pas:.3f} as answered" in text
    assert "detect: answered by big (75 %), small (25 %)" in text
    # By the variant that runs alone there is nothing to say, of an unknown one no accuracy.
    live, text = shown(("small", 1.0))
    assert (live.stages[0].served, live.served_pas) == ((), None) and "answered" not in text
    live, text = shown(("gone", 0.5), ("small", 0.5))
    assert live.served_pas is None and "detect: answered by gone (50 %), small (50 %)" in text


def test_status_says_which_stage_loses_requests_and_why() -> None:
    _, snapshot = ticked(UNCORRECTED)
    assert snapshot.observation is not None
    losses = (Loss("read", "no_time_left", 60.0), Loss("detect", "overload", 1.5))
    observation = replace(
        snapshot.observation, attainment=Measured(Attainment(100.0, 0.385, 5.0, losses), age_s=0.0)
    )
    live = live_state(PIPELINE, PROFILES, replace(snapshot, observation=observation), now=NOW, tick_s=5.0)
    assert [(it.stage, it.rate_rps) for it in live.losses] == [("read", 12.0), ("detect", 0.3)]
    assert "Lost: 12 rps at read (no time left), 0.3 rps at detect (overload)" in table_of(live)


def test_status_says_what_takes_longer_and_what_is_planned_with() -> None:
    _, snapshot = ticked(SLOW)
    live = live_state(PIPELINE, PROFILES, snapshot, now=NOW, tick_s=5.0)
    detect, read = live.stages
    assert (detect.slowdown_ratio, detect.planned_slowdown_ratio) == (1.41, pytest.approx(1.05**7))
    assert detect.slowdown_deviation == pytest.approx(1.41 * FIRST_DEVIATION)
    assert (read.slowdown_ratio, read.planned_slowdown_ratio) == (1.04, 1.0)
    # It is busier by that, too.
    quick = live_state(PIPELINE, PROFILES, replace(snapshot, correction=UNCORRECTED), now=NOW, tick_s=5.0)
    assert quick.stages[0].slowdown_ratio is None
    assert detect.utilisation_ratio == pytest.approx((quick.stages[0].utilisation_ratio or 0.0) * 1.05**7)
    lines = [line.strip() for line in table_of(live).splitlines()]
    assert f"detect=small takes 1.41 ± {1.41 * FIRST_DEVIATION:.2f} x its profile; planned with 1.41" in lines
    assert not any("read=big takes" in line for line in lines)
    # Of a service that does not know it yet.
    status = plain(status_of(live))
    for stage in status["live"]["stages"]:
        del stage["slowdown_ratio"], stage["planned_slowdown_ratio"]
    printer().print(status_table(status))


def test_the_event_has_a_reason_of_its_own() -> None:
    metadata = {"name": "pages", "namespace": "default", "uid": "1", "resourceVersion": "7"}
    event = Event(Notice.PROFILE_SLOW, "detect=small takes 1.41 x its profile", is_warning=True)
    body = event_body(SELDON_DEPLOYMENT, {"metadata": metadata}, event, NOW)
    assert (body["reason"], body["type"]) == ("notice.profile_slow", "Warning")
