"""Plans saved by `ipa plan --out`, and what `ipa apply` makes of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ipa.clients.http import HttpClient, client_at
from tests.api.test_api_verbs import infeasible
from tests.fakes.commands import Ipa, Printed
from tests.fakes.services import FakeWorld, InProcess

PLAYED = 30
AT = "http://127.0.0.1:8080"
PLAN = ("plan", "ocr", "--rate", "3", "--at", AT)
SAVE = (*PLAN, "--out", "plan.json")


@dataclass
class House:
    """A folder of plans, and the command over a service in it."""

    file: Path
    command: Ipa

    def __call__(self, *words: str, code: int = 0) -> Printed:
        return self.command(*words, code=code)

    def saved(self) -> dict[str, Any]:
        return dict(json.loads(self.file.read_text()))


@pytest.fixture
def house(world: FakeWorld, tmp_path: Path, ipa: Ipa, monkeypatch: pytest.MonkeyPatch) -> House:
    def client(at: str) -> HttpClient:
        return HttpClient(at, InProcess(world.services())) if at == AT else client_at(at)

    monkeypatch.setattr("ipa.clients.http.client_at", client)
    monkeypatch.chdir(tmp_path)
    return House(tmp_path / "plan.json", ipa)


def test_a_saved_plan_is_carried_out_until_what_runs_is_another(house: House, world: FakeWorld) -> None:
    out = house(*SAVE, "--detailed-exitcode", code=2).out
    assert "Saved plan.json: valid while the pipeline, its profiles and revision 13 stay" in out
    saved = house.saved()
    assert (saved["service"], saved["pipeline"], saved["plan"]["rate_rps"]) == (AT, "ocr", 3.0)
    world.clock.wait(1.0)
    house("apply", "plan.json")
    house(*PLAN, "--detailed-exitcode")
    # The loop goes on, and changes what runs.
    before = world.applied_tick
    world.play(30)
    assert world.applied_tick != before
    err = house("apply", "plan.json", code=4).err
    assert f"the running configuration: its revision was 13, and is {world.applied_tick}" in err
    assert "Plan again, compare the two plans, and apply the new one." in err


def test_the_usual_place_is_not_that_of_a_saved_plan(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPA_AT", "http://127.0.0.1:9")
    house(*SAVE)
    house("apply", "plan.json")
    for words in (("apply", "ocr", "--rate", "3"), ("apply", "plan.json", "--at", "http://127.0.0.1:9")):
        assert "127.0.0.1:9 does not answer" in house(*words, code=1).err


def test_a_plan_that_the_service_no_longer_keeps_is_said(house: House) -> None:
    house(*SAVE)
    house.file.write_text(json.dumps({**house.saved(), "plan_id": "none"}))
    assert "there is no plan 'none'" in house("apply", "plan.json", code=1).err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "is not a saved plan"),
        ("[1]", "is not a saved plan"),
        ("nothing", "is not JSON"),
        ('{"kind": "SavedPlan"}', "is not a saved plan"),
    ],
)
def test_what_is_no_saved_plan_is_refused(house: House, content: str, message: str) -> None:
    house.file.write_text(content)
    assert message in house("apply", "plan.json", code=65).err


def test_usage(house: House) -> None:
    for words, message in (
        (("plan", "ocr", "--rate", "3", "--out", "plan.json"), "need a service"),
        (("plan", "ocr", "--rate", "3", "--detailed-exitcode"), "need a service"),
        (
            (*PLAN, "--solver", "highs", "--no-sets", "--allocation", "base"),
            "--solver, --sets, --allocation: a service plans by its own settings",
        ),
        (("plan", "ocr", "--rate", "3", "--at", "ftp://x", "--out", "p.json"), "need a service"),
    ):
        assert message in house(*words, code=64).err
    house(*SAVE)
    assert "cannot be given with it" in house("apply", "plan.json", "--rate", "3", code=64).err
    assert "cannot be written" in house(*PLAN, "--out", "no/folder/plan.json", code=65).err


def test_an_infeasible_plan_is_not_saved(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeWorld, "plan", infeasible)
    assert "Feasible with" in house(*SAVE, "--detailed-exitcode", code=3).out
    assert not house.file.exists()
