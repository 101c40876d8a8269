"""The contract of every store, SQLite and PostgreSQL: decisions, records of pipelines, and API keys."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import create_engine, text

from ipa.adapters.store import Store, open_store
from ipa.adapters.store.database import close_engine, open_engine
from ipa.adapters.store.state import PLANS_S, PlanRows
from ipa.adapters.store.store import LAG_S
from ipa.control.audit.record import verify_lines
from ipa.control.ports import (
    Attribution,
    ControlAction,
    PipelineControl,
)
from ipa.control.saved_plans import Basis, IdempotencyClaim, StoredAnswer, StoredPlan
from ipa.model.access import Grant, Role
from ipa.model.decision import Action, Mode
from ipa.model.errors import ConfigurationError, ConflictError, NotFoundError, UnavailableError
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile
from tests.contract.store_harness import Reopen, a_decision, plain_engine


def a_profile(accuracy: float = 0.65, stage: str = "detect") -> StageProfile:
    variant = VariantProfile("v4-320", accuracy, (ProfilePoint(1.0, 1, 0.016, 0.014, 62.0),), readiness_s=3.0)
    return StageProfile("ocr", stage, (variant,), "2 cores", date(2026, 11, 24), "ipa profile", load_rps=20.0)


def test_it_says_whether_it_can_be_read(store: Store, url: str) -> None:
    store.check()
    engine = plain_engine(url)
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE ipa_state RENAME TO gone"))
    with pytest.raises(UnavailableError):
        store.check()
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE gone RENAME TO ipa_state"))
    store.check()
    engine.dispose()


def test_a_decision_comes_back_as_it_was(store: Store, reopen: Reopen) -> None:
    decision = a_decision(1, action=Action.APPLY)
    store.record(decision)
    assert reopen().decision(decision.decision_id) == decision


def test_a_decision_that_saw_nothing_comes_back_as_it_was(store: Store) -> None:
    decision = replace(
        a_decision(1), observed_rate_rps=None, forecast=None, plan=None, configs=(), previous=()
    )
    store.record(decision)
    assert store.decision(decision.decision_id) == decision


def test_decisions_come_newest_first_by_page(store: Store) -> None:
    for tick in range(10):
        store.record(a_decision(tick, action=Action.APPLY if tick % 3 == 0 else Action.HOLD))
    store.record(a_decision(3, pipeline="other"))
    assert [d.tick for d in store.decisions("ocr", limit=4)] == [9, 8, 7, 6]
    assert [d.tick for d in store.decisions("ocr", limit=4, before_tick=6)] == [5, 4, 3, 2]
    assert [d.tick for d in store.decisions("ocr", applied_only=True)] == [9, 6, 3, 0]
    assert [d.tick for d in store.decisions("ocr", applied_only=True, before_tick=6)] == [3, 0]


def test_recording_again_is_safe_but_never_overwrites(store: Store) -> None:
    decision = a_decision(1)
    store.record(decision)
    store.record(decision)
    assert len(store.decisions("ocr")) == 1
    with pytest.raises(ConflictError, match="ocr-1"):
        store.record(replace(decision, detail="something else"))
    assert store.decision("ocr-1") == decision


def test_a_decision_that_is_not_there_is_named(store: Store) -> None:
    with pytest.raises(NotFoundError, match="'nope'"):
        store.decision("nope")


def test_control_is_kept(store: Store, reopen: Reopen) -> None:
    control = PipelineControl(Mode.ACTIVE, True, datetime(2026, 11, 24, 12, tzinfo=UTC), "release", "kim")
    store.set_control("ocr", PipelineControl(Mode.ACTIVE), Attribution(ControlAction.MODE))
    store.set_control("ocr", control, Attribution(ControlAction.MODE))
    assert reopen().control("ocr") == control
    assert store.control("other") == PipelineControl()


def test_what_may_lag_is_what_this_store_said_and_what_others_did_a_moment_ago(
    store: Store, url: str
) -> None:
    at_s = 100.0
    here = Store(open_engine(url), monotonic_s=lambda: at_s)
    paused, active = PipelineControl(paused=True), PipelineControl(Mode.ACTIVE)
    store.set_control("ocr", paused, Attribution(ControlAction.PAUSE))
    assert here.control("ocr", may_lag=True) == paused
    assert here.control("video", may_lag=True) == PipelineControl()
    store.set_control("video", active, Attribution(ControlAction.MODE))
    at_s += 0.9 * LAG_S
    assert here.control("video", may_lag=True) == PipelineControl()
    assert here.control("video") == active
    at_s += 0.2 * LAG_S
    assert here.control("video", may_lag=True) == active
    here.set_control("video", paused, Attribution(ControlAction.PAUSE))
    assert here.control("video", may_lag=True) == paused
    here.close()


def test_controls_that_are_read_together_fail_alone_where_one_is_damaged(store: Store, url: str) -> None:
    for name in ("ocr", "video"):
        store.set_control(name, PipelineControl(Mode.ACTIVE), Attribution(ControlAction.MODE))
    engine = plain_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE ipa_state SET body = '{' WHERE name = 'ocr'"))
    engine.dispose()
    assert store.control("video", may_lag=True) == PipelineControl(Mode.ACTIVE)
    with pytest.raises(UnavailableError, match="PipelineControl that cannot be read"):
        store.control("ocr", may_lag=True)


def test_the_newest_profile_of_each_stage_is_kept(store: Store, reopen: Reopen) -> None:
    for accuracy in (0.65, 0.66, 0.65):
        store.save_profile(a_profile(accuracy))
    store.save_profile(a_profile(0.9, stage="recognise"))
    newest = {"detect": a_profile(0.65), "recognise": a_profile(0.9, "recognise")}
    assert reopen().profiles("ocr") == newest
    assert store.profiles("video") == {}


def test_a_newer_schema_is_refused(store: Store, url: str) -> None:
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as connection:
        connection.execute(text("UPDATE ipa_schema_version SET version_num = '9999'"))
    engine.dispose()
    with pytest.raises(ConfigurationError, match="newer"):
        open_store(url)


def a_kept_plan(number: int, pipeline: str = "ocr", at: str = "2026-11-24T10:00") -> StoredPlan:
    plan = a_decision(1).plan
    assert plan is not None
    return StoredPlan(f"p{number}", pipeline, f"{at}:{number:02d}Z", "{}", Basis("7", "a", "b"), plan)


def test_plans_come_back_as_they_were_and_the_newest_of_each_pipeline_stay(
    store: Store, reopen: Reopen
) -> None:
    plans = [a_kept_plan(number) for number in range(4)]
    for plan in plans[:2]:
        store.plans.keep(plan)
        assert store.plans.plan(plan.plan_id) == plan
    store.plans.keep(a_kept_plan(7, "video"))
    assert reopen().plans.plan("p0") == plans[0]
    rows = PlanRows(store._engine, most=2)
    for plan in plans[2:]:
        rows.keep(plan)
    assert [store.plans.plan(name).plan_id for name in ("p2", "p3", "p7")] == ["p2", "p3", "p7"]
    with pytest.raises(NotFoundError):
        store.plans.plan("p1")
    assert PLANS_S < 8 * 86400
    store.plans.keep(a_kept_plan(8, "video", at="2026-12-02T10:00"))
    with pytest.raises(NotFoundError):
        store.plans.plan("p3")


def test_plans_of_many_threads_are_all_kept(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(store.plans.keep, map(a_kept_plan, range(40))))
    assert {store.plans.plan(f"p{number}") for number in range(40)} == set(map(a_kept_plan, range(40)))


def test_a_key_is_whoever_came_first(store: Store, reopen: Reopen) -> None:
    assert store.answers.claim("k", "m", "us", 100.0) == IdempotencyClaim("m", 100.0, mine=True)
    assert store.answers.claim("k", "m", "us", 101.0) == IdempotencyClaim("m", 100.0)
    assert store.answers.claim("k", "other", "us", 101.0).request_digest == "m"
    store.answers.settle("k", StoredAnswer(200, "{}"))
    assert reopen().answers.claim("k", "m", "they", 102.0) == IdempotencyClaim(
        "m", 100.0, answer=StoredAnswer(200, "{}")
    )
    # A day later it is still there, a month later it is not.
    assert store.answers.claim("k", "m", "us", 100.0 + 86400).answer == StoredAnswer(200, "{}")
    assert store.answers.claim("k", "m", "us", 100.0 + 30 * 86400).mine


def test_a_key_that_was_left_is_taken_up_by_the_next(store: Store) -> None:
    store.answers.claim("k", "m", "us", 100.0)
    assert not store.answers.claim("k", "other", "they", 101.0).mine
    assert store.answers.claim("k", "m", "they", 101.0) == IdempotencyClaim(
        "m", 100.0, mine=True, is_resumed=True
    )
    assert not store.answers.claim("k", "m", "they", 102.0).mine
    assert store.answers.claim("k", "m", "they", 1000.0).is_resumed
    store.answers.release("k")
    assert store.answers.claim("k", "other", "us", 1001.0) == IdempotencyClaim("other", 1001.0, mine=True)


def test_pipelines_that_were_given_come_back(store: Store, reopen: Reopen) -> None:
    store.given.keep("b", {"name": "b", "sla": 1})
    store.given.keep("a", {"name": "a"})
    store.given.keep("b", {"name": "b", "sla": 2})
    assert list(reopen().given.all().items()) == [("a", {"name": "a"}), ("b", {"name": "b", "sla": 2})]
    store.given.remove("a")
    store.given.remove("a")
    assert list(store.given.all()) == ["b"]


def test_a_connection_that_is_in_use_while_the_store_closes_is_closed_when_it_is_returned(url: str) -> None:
    engine = open_engine(url)
    used = engine.connect()
    pooled = used.connection.dbapi_connection
    assert pooled is not None
    close_engine(engine)
    used.exec_driver_sql("SELECT 1")
    used.close()
    # Each driver refuses a closed connection in its own words.
    with pytest.raises(Exception, match="closed"):
        pooled.cursor().execute("SELECT 1")


def test_a_record_goes_on_over_restarts_and_is_another_for_another_namespace(
    store: Store, reopen: Reopen
) -> None:
    assert store.records.of("ocr") == "ocr"
    # What an older store holds under the name is taken over once, by whoever has the name then.
    assert store.records.resume("ocr", "vision") == "ocr"
    assert reopen().records.resume("ocr", "vision") == "ocr"
    store.record(a_decision(1))
    moved = reopen().records.resume("ocr", "speech")
    assert [it.decision_id for it in reopen().decisions("ocr~")] == ["ocr-1"]
    assert reopen().decisions("ocr") == []
    assert moved.startswith("ocr~") and reopen().records.of("ocr@hpa") == f"{moved}@hpa"
    assert reopen().records.resume("ocr", "vision") not in ("ocr", moved)


def test_what_is_kept_under_a_name_is_its_owners(store: Store, reopen: Reopen) -> None:
    store.records.begin("ocr", "vision")
    store.record(a_decision(1))
    store.set_control("ocr", PipelineControl(paused=True), Attribution(ControlAction.PAUSE, "ada"))
    store.plans.keep(replace(a_kept_plan(1), pipeline="ocr", record=store.records.of("ocr")))
    store.answers.claim("k", "m", "h", 1.0, store.records.of("ocr"))
    former = store.records.of("ocr")
    store.end_record("ocr")
    store.records.begin("ocr", "speech")
    for each in (store, reopen()):
        assert each.decisions("ocr") == [] and each.entries(0, 10, "ocr") == []
        assert each.control("ocr") == each.control("ocr", may_lag=True) == PipelineControl()
        assert each.verify("ocr").entries == 0
        assert each.answers.claim("k", "m2", "h", 2.0).mine
        each.answers.release("k")
        # By its record it is there still.
        assert [it.decision_id for it in each.decisions(former)] == ["ocr-1"]
        assert each.verify(former).entries == 2
    store.record(replace(a_decision(1), decision_id="next-1"))
    assert store.verify("ocr").entries == 1
    verified = verify_lines([entry.line() for entry in store.entries(0, 10)], {})
    assert {name: each.entries for name, each in verified.items()} == {former: 2, store.records.of("ocr"): 1}


def test_another_process_takes_up_what_was_begun(store: Store, reopen: Reopen) -> None:
    other = reopen()
    record = store.records.begin("ocr", "vision")
    assert other.records.of("ocr") == "ocr"
    other.records.read()
    assert other.records.of("ocr") == record
    assert other.records.adopt("ocr", "vision") == record
    # While it is given to another, or removed, there is none to take up.
    assert other.records.adopt("ocr", "speech") is None
    store.records.end("ocr")
    assert other.records.adopt("ocr", "vision") is None
    assert other.records.adopt("never", "vision") == "never"


def test_keys_are_found_by_what_they_are_called_with_and_outlive_the_service(
    store: Store, reopen: Reopen
) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    ends = now + timedelta(days=1)
    owner, token = store.keys.create("Ada Löv", Grant(Role.OWNER, "vision"), now=now, expires_at=ends)
    operator, other = store.keys.create("ops", Grant(Role.OPERATOR), now=now)
    assert token != other and owner.key_id != operator.key_id
    again = reopen().keys
    assert (again.find(token), again.find(other)) == (owner, operator)
    assert sorted(again.all(), key=lambda key: key.name) == [owner, operator]
    wrong = ("", "ipa_", token[:-1], f"{token}A", token.upper(), f"{token[:-1]}\0", other[:17] + token[17:])
    assert [again.find(each) for each in wrong] == [None] * len(wrong)
    states = [owner.state(at) for at in (now, ends - timedelta(seconds=1), ends)]
    assert states == ["valid", "valid", "expired"]
    revoked = again.revoke(owner.key_id, now=now)
    assert store.keys.find(token) == revoked and revoked.state(now) == "revoked"
    assert again.revoke(owner.key_id, now=ends) == revoked
    with pytest.raises(NotFoundError, match="there is no key 'nope'"):
        store.keys.revoke("nope", now=now)
