"""The outcomes of changes are in the record, between the decisions they came from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ipa.adapters.store import Store, open_store
from ipa.adapters.store.segments import check_row
from ipa.adapters.store.state import DECISION
from ipa.adapters.store.store import Changes
from ipa.control.audit.record import Chain, Entry, EntryKind, Recorded
from ipa.control.engine.state import ChangeRequest
from ipa.control.loop.time_limit import COMPUTE_LOCK
from ipa.control.ports import Attribution, ControlAction, PipelineControl
from ipa.model.decision import Action, Mode, ReasonCode
from ipa.model.errors import RecordError, UnavailableError
from tests.fakes.world import PIPELINE, SMALLEST, Scenario, scenario


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = open_store(f"sqlite:///{tmp_path}/s.sqlite3")
    store.set_control(PIPELINE.name, PipelineControl(mode=Mode.ACTIVE), Attribution(ControlAction.MODE))
    yield store
    store.close()


@pytest.fixture
def world(store: Store) -> Scenario:
    made = replace(scenario(25.0), store=store, hooks=(Changes(store.note),))  # type: ignore[arg-type]
    return made.restarted("run")


def changes(store: Store) -> list[dict[str, Any]]:
    entries = [entry.values for entry in store.entries(0, 1000, PIPELINE.name)]
    return [values for values in entries if values["kind"] == "change"]


def test_a_change_that_gets_ready_was_applied_and_landed(world: Scenario, store: Store) -> None:
    decisions = world.ticks(4)
    first = next(decision for decision in decisions if decision.action is Action.APPLY)
    applied, landed = changes(store)[:2]
    assert (applied["what"], landed["what"]) == ("applied", "landed")
    assert applied["decision_id"] == landed["decision_id"] == first.decision_id
    assert applied["from"] == landed["from"] != landed["to"]
    assert (applied["by"], store.verify(PIPELINE.name).decisions) == ("ipa", 4)


def test_one_that_fails_is_taken_back(world: Scenario, store: Store) -> None:
    world.workload.broken = {("detect", "small"), ("detect", "big"), ("read", "small"), ("read", "big")}
    world.ticks(7)
    world.workload.broken = set()
    world.ticks(4)
    recorded = [(change["what"], change["decision_id"]) for change in changes(store)]
    first, back = recorded[0][1], recorded[2][1]
    assert recorded[:4] == [("applied", first), ("failed", first), ("applied", back), ("rolled_back", back)]
    assert store.decision(back).reason is ReasonCode.ROLLBACK
    assert "not ready after" in changes(store)[1]["why"]


def test_one_whose_answer_is_lost_is_not_said_to_be_applied(world: Scenario, store: Store) -> None:
    world.workload.lose_answers = 1
    world.ticks(4)
    assert [change["what"] for change in changes(store)][:1] == ["landed"]


def test_who_asked_is_with_the_decision_and_what_came_of_it(world: Scenario, store: Store) -> None:
    world.ticks(3)
    decision = world.loop.tick_once(
        ChangeRequest(SMALLEST, "rollback by kim: slow", by="kim", plan_id="b1c2")
    )
    assert (decision.by, decision.reason) == ("kim", ReasonCode.REQUESTED)
    entry = next(
        values
        for values in (it.values for it in store.entries(0, 1000))
        if values["decision_id"] == decision.decision_id
    )
    assert (entry["by"], entry["kind"], entry["why"]) == ("kim", "decision", decision.detail)
    assert changes(store)[-1]["by"] == "kim"
    stored = store.decision(decision.decision_id)
    assert (stored.by, stored.plan_id) == ("kim", "b1c2")


def test_a_decision_of_an_older_version_has_no_plan_id(world: Scenario) -> None:
    text = DECISION.text(world.ticks(1)[0])
    older = text.replace(',"plan_id":""', "")
    assert older != text
    assert DECISION.value(older) == DECISION.value(text)


def test_what_cannot_be_noted_ends_no_tick(
    world: Scenario, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_: object) -> None:
        raise UnavailableError("the disk is full")

    again = replace(world, hooks=(Changes(full),)).restarted("again")
    assert again.ticks(1)[0].action is Action.APPLY
    assert "the outcome of a change cannot be recorded: the disk is full" in caplog.text


def test_others_compute_while_it_is_noted(store: Store) -> None:
    taken: list[bool] = []

    def note(entry: Entry) -> None:
        taken.append(COMPUTE_LOCK.is_wanted)
        store.note(entry)

    made = replace(scenario(25.0), store=store, hooks=(Changes(note),))  # type: ignore[arg-type]
    made.restarted("run").ticks(4)
    assert taken and not any(taken)


@pytest.mark.parametrize(("before", "is_later"), [(0, True), (6, True), (7, False), (8, False)])
def test_a_row_that_is_not_later_than_the_one_before_was_moved(before: int, is_later: bool) -> None:
    entry = Entry("pages", EntryKind.CONTROL, "pause", "2026-01-01T00:00:00+00:00", by="ann")
    row = Recorded(entry.text(seq=7, number=1, previous=""))
    columns = SimpleNamespace(
        seq=7, pipeline="pages", number=1, indexed_pipeline="pages", indexed_number=1, kind="control",
        decision_id="", digest=row.digest,
    )  # fmt: skip
    chain = Chain("pages")
    if is_later:
        check_row(chain, columns, row, before)
        assert chain.head.number == 1
        return
    with pytest.raises(RecordError, match="entry 1 was moved: its `seq` is not above"):
        check_row(chain, columns, row, before)
