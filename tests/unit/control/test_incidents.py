"""Incidents derived from decisions: their limits, their causes, and what was done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest

from ipa.control.audit.incidents import (
    BLIND,
    HELD,
    LATE,
    SEED,
    IncidentBook,
    PipelineIncident,
    Trouble,
    troubles_of,
)
from ipa.control.engine.actuation import ActuationPhase
from ipa.control.loop.snapshot import Snapshot
from ipa.control.ports import PipelineControl
from ipa.model.decision import UNHEALTHY, Action, Decision, Mode, ReasonCode
from ipa.model.forecast import Forecast
from ipa.model.observation import Attainment, Loss
from tests.fakes.services import NOW

SNAPSHOT = Snapshot("video", 0, PipelineControl(), ActuationPhase.IDLE)


class Log:
    """Decisions that were recorded, and how many were read."""

    def __init__(self, decisions: Sequence[Decision] = ()) -> None:
        self.kept, self.read = list(decisions), 0

    def decisions(
        self, pipeline: str, *, limit: int = 50, before_tick: int | None = None, applied_only: bool = False
    ) -> Sequence[Decision]:
        found = [each for each in reversed(self.kept) if before_tick is None or each.tick < before_tick]
        self.read += len(found[:limit])
        return found[:limit]


def decided(
    tick: int,
    reason: ReasonCode = ReasonCode.NO_CHANGE,
    detail: str = "",
    *,
    ratio: float | None = None,
    rate: float = 10.0,
    losses: tuple[Loss, ...] = (),
) -> Decision:
    """The decision of a tick every 10 s; `ratio` of the requests in time, broken below 0.99."""
    return Decision(
        decision_id=f"video-{tick}",
        pipeline="video",
        tick=tick,
        at=(NOW + timedelta(seconds=10 * tick)).isoformat(),
        action=Action.APPLY if reason.startswith("apply.") else Action.HOLD,
        reason=reason,
        detail=detail,
        configs=(),
        previous=(),
        mode=Mode.ACTIVE,
        observed_rate_rps=rate,
        observed_latency_s=0.2 if ratio is None else 1.3,
        forecast=Forecast(10.0, 12.0, 0.95, 20.0, "window", 1.0),
        attainment=None if ratio is None else Attainment(100.0, ratio, 10.0, losses),
        slo_broken=ratio is not None and ratio < 0.99,
    )


def incidents(*decisions: Decision) -> Sequence[PipelineIncident]:
    """Those of the decisions as a loop tells them."""
    book = IncidentBook()
    for each in decisions:
        book(each, SNAPSHOT)
    return book.of("video", Log())


def at(tick: int) -> str:
    return decided(tick).at


def test_an_incident_begins_and_ends_with_its_trouble_and_keeps_the_worst() -> None:
    dropped = (Loss("crop", "overload", 30.0), Loss("crop", "model_error", 10.0))
    [one] = incidents(
        decided(1, ratio=1.0),
        decided(2, ratio=0.9, rate=40.0, losses=dropped),
        decided(3, ReasonCode.SCALE_UP, "crop 2 → 5", ratio=0.6),
        decided(4, ReasonCode.IN_PROGRESS, ratio=0.8),
        decided(5, ratio=1.0),
        decided(6, ratio=1.0),
    )
    assert (one.begun_at, one.ended_at, one.decision_id) == (at(2), at(5), "video-2")
    assert one.troubles == (Trouble.SLO_BROKEN,)
    assert (one.in_time_ratio, one.latency_s, one.rate_rps) == (0.6, 1.3, 40.0)
    assert one.lost == pytest.approx(40.0)
    assert [(each.decision_id, each.detail) for each in one.actions] == [("video-3", "crop 2 → 5")]
    assert one.held == "hold.in_progress: "
    # What failed is nearer to the root than the load, and both than the drops.
    assert one.cause == (
        "requests failed at crop: model error; the load rose to 40 rps, above the forecast of 12 rps"
    )


def test_trouble_soon_after_its_end_continues_an_incident_and_later_is_another() -> None:
    soon = [decided(1, ratio=0.5), decided(2), decided(7, ratio=0.5), decided(8)]
    late = [decided(15, ratio=0.5)]
    found = incidents(*soon, *late)
    assert [(each.begun_at, each.ended_at) for each in found] == [(at(15), None), (at(1), at(8))]


def test_the_cause_of_blindness_is_what_was_not_seen_and_of_a_hold_its_detail() -> None:
    third, second, first = incidents(
        *(decided(tick, ReasonCode.METRICS_MISSING, "Prometheus did not answer") for tick in range(1, 5)),
        decided(5),
        decided(20, ReasonCode.INFEASIBLE, "no plan within 20 cores"),
        decided(21),
        decided(40, ReasonCode.PAUSED, "paused: deploy", ratio=0.5),
    )
    assert (first.troubles, first.cause) == ((Trouble.BLIND,), "Prometheus did not answer")
    assert (second.troubles, second.cause) == ((Trouble.HELD,), "hold.infeasible: no plan within 20 cores")
    assert (third.troubles, third.cause) == ((Trouble.SLO_BROKEN,), "hold.paused: paused: deploy")
    assert third.actions == () and third.held == "hold.paused: paused: deploy"


def test_nothing_seen_for_less_than_half_a_minute_is_no_incident() -> None:
    blind = [decided(tick, ReasonCode.METRICS_MISSING, "no scrape yet") for tick in range(1, 5)]
    assert incidents(*blind[:3], decided(4), decided(5, ReasonCode.METRICS_STALE)) == ()
    # Longer, or followed by other trouble, it belongs to the incident.
    for last in (blind[3], decided(4, ratio=0.5)):
        [one] = incidents(*blind[:3], last)
        assert (one.begun_at, one.ended_at, one.cause.split(";")[0]) == (at(1), None, "no scrape yet")
    [broken] = incidents(decided(1, ratio=0.5), *blind[1:2], decided(3))
    assert broken.troubles == (Trouble.SLO_BROKEN, Trouble.BLIND) and broken.ended_at == at(3)


def test_every_reason_that_needs_a_person_is_trouble_and_no_other() -> None:
    kinds = {reason: troubles_of(decided(1, reason)) for reason in ReasonCode}
    assert {reason for reason, found in kinds.items() if found} == UNHEALTHY
    assert not (BLIND & HELD or BLIND & LATE or HELD & LATE)


def test_the_book_of_a_loop_reads_the_record_before_it_once_and_joins_both() -> None:
    log = Log([decided(tick, ratio=0.5) for tick in range(1, 4)])
    book = IncidentBook()
    for tick in (4, 5):
        log.kept.append(decided(tick, ratio=0.7))
        book(log.kept[-1], SNAPSHOT)
    assert book.lasting("video") is not None and log.read == 0
    [one] = book.of("video", log)
    assert (one.begun_at, one.ended_at, one.in_time_ratio) == (at(1), None, 0.5)
    assert log.read == 3
    assert book.of("video", log) == (one,) and log.read == 3
    assert book.lasting("video") == one


def test_a_replica_that_does_not_lead_reads_what_is_new_in_the_record() -> None:
    log = Log([decided(tick, ratio=0.5 if tick > 900 else 1.0) for tick in range(1, 1001)])
    book = IncidentBook()
    standby = replace(decided(0, ReasonCode.NOT_LEADER), decision_id="video-standby")
    book(standby, SNAPSHOT)
    [one] = book.of("video", log)
    assert one.begun_at == at(901) and log.read <= SEED + 1
    log.kept += [decided(1001), decided(1002, ratio=0.5)]
    before = log.read
    assert [each.ended_at for each in book.of("video", log)] == [None]
    assert log.read - before <= 4


def test_what_is_not_seen_counts_from_before_the_record_was_read() -> None:
    blind = [decided(tick, ReasonCode.METRICS_MISSING) for tick in range(1, 5)]
    log, book = Log(blind[:2]), IncidentBook()
    assert book.of("video", log) == ()
    log.kept += blind[2:]
    assert [each.begun_at for each in book.of("video", log)] == [at(1)]


def test_a_pipeline_that_begins_anew_has_none_of_the_incidents_before_it() -> None:
    found = incidents(*(decided(tick, ratio=0.5) for tick in (7, 8)), decided(1), decided(2, ratio=0.5))
    assert [each.begun_at for each in found] == [at(2)]


def test_incidents_of_different_causes_are_separate_rows() -> None:
    """Metrics are lost, then somebody writes, then the store fails: one row had all of it."""
    reasons = (ReasonCode.METRICS_MISSING, ReasonCode.DRIFT, ReasonCode.AUDIT_FAILED)
    found = incidents(
        decided(0),
        *(
            decided(1 + 5 * at + each, reason, reason.value)
            for at, reason in enumerate(reasons)
            for each in range(5)
        ),
        decided(16),
    )
    assert [(one.begun_at, one.ended_at) for one in reversed(found)] == [
        (at(1), at(6)),
        (at(6), at(11)),
        (at(11), at(16)),
    ]
    assert all(reason.value in one.cause for reason, one in zip(reasons, reversed(found), strict=True))
    # What follows from a cause is part of its row.
    [one] = incidents(
        decided(0), decided(1, ReasonCode.ROLLBACK, "crashed"), decided(2, ReasonCode.QUARANTINED)
    )
    assert one.troubles == (Trouble.ROLLED_BACK, Trouble.HELD)


@pytest.mark.parametrize(
    ("decision", "evidence"),
    [
        (decided(1, ratio=0.5), "no request was lost and no stage was overloaded"),
        (replace(decided(1), slo_broken=True), "ended requests were not counted"),
    ],
)
def test_a_cause_that_is_not_known_names_the_missing_evidence(decision: Decision, evidence: str) -> None:
    [one] = incidents(decided(0), decision, replace(decision, tick=2))
    assert evidence in one.cause and "does not tell" not in one.cause
