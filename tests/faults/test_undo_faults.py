"""R22: an undo at any moment takes back the caller's last change, or says why not; it never toggles."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from ipa.control.audit.reason_log import runbook_for
from ipa.control.engine.actuation import ActuationPhase
from ipa.control.engine.state import ChangeRequest
from ipa.model.decision import UNHEALTHY, Action, Decision, ReasonCode
from ipa.model.errors import ConflictError, InProgressError
from ipa.model.plan import StageConfig
from ipa.service.commands import UndoView, undo_of
from tests.fakes.people import People, token
from tests.fakes.services import ApiClient, FakeWorld
from tests.fakes.world import PIPELINE, Scenario, ours, scenario

BASE = tuple(StageConfig(stage, "big", 1, 1.0, 3) for stage in ("detect", "read"))
BATCHED = {size: (replace(BASE[0], batch_size=size), BASE[1]) for size in (1, 2, 4)}
OCR = "/v1/pipelines/ocr"


def preview(made: Scenario, by: str, to: str | None = None) -> UndoView:
    return undo_of(PIPELINE, made.store, to, by, made.workload.desired, made.loop.snapshot().phase)


def ask(made: Scenario, batch_size: int, by: str = "ann") -> Decision:
    decision = made.loop.tick_once(ChangeRequest(BATCHED[batch_size], f"requested by {by}", by=by))
    assert decision.action is Action.APPLY
    return decision


def roll_back(made: Scenario, by: str = "ann") -> Decision:
    undo = preview(made, by)
    return made.loop.tick_once(
        ChangeRequest(undo.configs, f"rollback by {by}", by=by, undoes=undo.undoes, restores=True)
    )


def settle(made: Scenario) -> None:
    """Until nothing rolls out; the loop itself changes nothing, since it is told to."""
    made.clock.wait(5.0)
    while made.loop.tick_once().reason is ReasonCode.IN_PROGRESS:
        made.clock.wait(5.0)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Scenario:
    made = scenario(0.2, configs=BASE, settings=None)
    # Only people move it: no plan is ever worth so much.
    made.loop._settings = replace(made.settings, change_price_s=1e9)
    return made


def test_r22_undo_never_toggles(made: Scenario) -> None:
    for size in (4, 2):
        ask(made, size)
        settle(made)
    configurations = []
    for _ in range(2):
        roll_back(made)
        settle(made)
        configurations.append(made.workload.desired)
    assert configurations == [BATCHED[4], BASE]
    with pytest.raises(ConflictError, match="ann has no change left to take back"):
        preview(made, "ann")


def test_r22_undo_during_the_callers_own_change_takes_that_back(made: Scenario) -> None:
    ask(made, 4)
    # No tick since: what was seen last is from before the write.
    assert made.loop.snapshot().phase is ActuationPhase.WAITING_READY
    undo = preview(made, "ann")
    assert undo.configs == BASE and undo.takes_back[0].by == "ann"
    made.clock.wait(3.0)
    back = roll_back(made)
    settle(made)
    assert made.workload.desired == BASE
    # No alert, no quarantine.
    assert back.reason is ReasonCode.REQUESTED not in UNHEALTHY and not runbook_for(back)
    assert made.loop._state.failures == ()


def test_r22_undo_during_the_change_of_another_says_so(made: Scenario) -> None:
    ask(made, 4)
    settle(made)
    ask(made, 2, "bob")
    with pytest.raises(InProgressError, match="a change is in progress: revision"):
        preview(made, "ann")
    # A revision that is named replaces it.
    assert preview(made, "ann", str(made.store.recorded[0].tick)).configs == BATCHED[4]


def test_r22_undo_takes_later_changes_along_and_says_how_many(made: Scenario) -> None:
    for size, by in ((4, "ann"), (2, "bob")):
        ask(made, size, by)
        settle(made)
    undo = preview(made, "ann")
    assert undo.configs == BASE and undo.words.endswith("and 1 later change")
    assert [each.by for each in undo.takes_back] == ["bob", "ann"]
    roll_back(made)
    settle(made)
    with pytest.raises(ConflictError, match="bob has no change left"):
        preview(made, "bob")


def test_r22_undo_of_another_person_is_refused_with_the_revision(made: Scenario) -> None:
    requested = ask(made, 4)
    settle(made)
    with pytest.raises(ConflictError, match="eve has no change left") as refused:
        preview(made, "eve")
    assert f"revision {requested.tick} by ann" in refused.value.hint and "--to REVISION" in refused.value.hint


def test_r22_undo_after_the_loops_own_change() -> None:
    made = scenario(5.0, policy=ours())
    requested = made.loop.tick_once(ChangeRequest(BATCHED[4], "requested by ann", by="ann"))
    assert requested.action is Action.APPLY
    made.run(600)
    later = [each for each in made.store.recorded if each.action is Action.APPLY][1:]
    assert later and all(each.by == "" for each in later)
    undo = preview(made, "ann")
    assert undo.configs == requested.previous and len(undo.takes_back) > 1


def test_r22_undo_that_fails_leaves_the_change_to_take_back(made: Scenario) -> None:
    ask(made, 4)
    settle(made)
    made.workload.errors["write"].append(ConflictError("somebody else wrote"))
    assert roll_back(made).action is Action.HOLD
    settle(made)
    assert made.workload.desired == BATCHED[4]
    assert preview(made, "ann").configs == BASE


def test_r22_undo_of_a_change_that_failed_by_itself_goes_one_further_back(made: Scenario) -> None:
    ask(made, 4)
    settle(made)
    made.workload.broken = {("read", "small")}
    broken = (BATCHED[4][0], replace(BASE[1], variant="small"))
    made.loop.tick_once(ChangeRequest(broken, "requested by ann", by="ann"))
    made.clock.wait(5.0)
    made.ticks(30)
    assert made.workload.desired == BATCHED[4]
    assert preview(made, "ann").configs == BASE


@pytest.mark.parametrize("first", ["", "kim"])
def test_r22_without_authentication_all_are_one_caller(first: str) -> None:
    """The page names nobody, the command line its user: a change of one is taken back by the other."""
    world = FakeWorld().play(3)
    api = ApiClient(world.services())
    before = world.recorded[-1].configs
    world.apply(tuple(replace(each, replicas=each.replicas + 1) for each in before), "requested", first)
    shown = api.get(f"{OCR}/rollback").json()
    done = api.change(f"{OCR}/rollback", {"by": "" if first else "kim"}).json()
    assert done["configs"] == shown["configs"] == [asdict(each) for each in before]
    nothing = api.change(f"{OCR}/rollback", {"by": first})
    assert nothing.status_code == 409 and nothing.json()["detail"].startswith("no change by a person is left")


def test_r22_with_authentication_only_the_callers_own_change_counts() -> None:
    world = FakeWorld().play(3)
    api = ApiClient(replace(world.services(), authenticators=(People(),)))
    before = world.recorded[-1].configs
    world.apply(tuple(replace(each, replicas=each.replicas + 1) for each in before), "requested", "bob")
    ada = {"Authorization": f"Bearer {token('ops', sub='ada@x')}"}
    refused = api.get(f"{OCR}/rollback", headers=ada, params={"by": "bob"})
    assert refused.status_code == 409 and "by bob" in refused.json()["hint"]


def test_r22_the_preview_is_what_is_done_and_capacity_is_confirmed() -> None:
    """Over the API: while requests are late a rollback that takes replicas asks for a confirmation."""
    world = FakeWorld().play(3)
    api = ApiClient(world.services())
    before = world.recorded[-1].configs
    world.apply(tuple(replace(each, replicas=each.replicas + 1) for each in before), "by kim", "kim")
    shown = api.get(f"{OCR}/rollback").json()
    assert shown["takes_back"][0]["by"] == "kim"
    snapshot = world.snapshot
    late = replace(snapshot(), is_late=True)
    world.snapshot = lambda: late  # type: ignore[method-assign]
    shown = api.get(f"{OCR}/rollback").json()
    refused = api.change(f"{OCR}/rollback", {"by": "kim"})
    assert refused.status_code == 409 and "confirmed" in refused.json()["hint"]
    assert refused.json()["detail"] == shown["unconfirmed"]
    done = api.change(f"{OCR}/rollback", {"by": "kim", "confirmed": True}).json()
    assert done["configs"] == shown["configs"] == [asdict(each) for each in before]
