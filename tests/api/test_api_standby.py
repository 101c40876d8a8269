"""A replica that does not lead: it shows all, changes nothing, and says who does."""

from __future__ import annotations

import re

import pytest

from ipa.api.auth import RULES, Work, work_of
from ipa.cli.views.status_text import status_table
from ipa.control.election import ALONE, LeaderStatus
from tests.fakes.services import ApiClient, FakeWorld, over

STANDBY = LeaderStatus(False, "ipa-1_aa", "ipa-0_bb")
READS = ("", "/status", "/profiles", "/decisions", "/history", "/record")


def standing(world: FakeWorld, now: LeaderStatus) -> ApiClient:
    return ApiClient(over(world.services(), standing=lambda: now))


def writes() -> list[tuple[str, str]]:
    """Every operation of the API that changes something."""
    return [
        (method, re.sub(r"\{\w+\}", "x", path.replace("{pipeline}", "ocr")))
        for method, path in RULES
        if work_of((method, path)) is Work.WRITE
    ]


@pytest.mark.parametrize("path", READS)
def test_a_standby_answers_every_read(world: FakeWorld, path: str) -> None:
    assert standing(world, STANDBY).get(f"/v1/pipelines/ocr{path}").status_code == 200


def test_the_status_says_standby_and_who_leads(world: FakeWorld) -> None:
    status = standing(world, STANDBY).get("/v1/pipelines/ocr/status").json()
    assert status["standing"] == {
        "leading": False,
        "identity": "ipa-1_aa",
        "leader": "ipa-0_bb",
        "trouble": "",
    }


def test_a_service_that_runs_alone_leads(world: FakeWorld) -> None:
    api = ApiClient(world.services())
    assert api.get("/v1/pipelines/ocr/status").json()["standing"]["leading"] is True


def test_every_write_is_refused_with_the_leaders_name(world: FakeWorld) -> None:
    api = standing(world, STANDBY)
    routes = writes()
    assert {("PUT", "/v1/pipelines/ocr"), ("POST", "/v1/pipelines/ocr/pause")} < set(routes)
    before = world.control("ocr")
    for method, path in routes:
        # Before the body is looked at: whoever is to be asked elsewhere need not mend it first.
        answer = api(method, path, json={})
        assert answer.status_code == 409, (method, path)
        problem = answer.json()
        assert problem["code"] == "conflict.standby"
        assert problem["detail"] == "this replica, ipa-1_aa, stands by, ipa-0_bb leads"
        assert problem["hint"].startswith("Ask ipa-0_bb")
    assert world.control("ocr") == before


def test_without_a_known_leader_it_says_so(world: FakeWorld) -> None:
    problem = standing(world, LeaderStatus(False, "ipa-1", "")).post("/v1/pipelines/ocr/resume").json()
    assert problem["detail"] == "this replica, ipa-1, stands by, nobody leads"
    assert problem["hint"] == "Try again in a moment."


def test_the_command_line_shows_it(world: FakeWorld) -> None:
    from rich.console import Console

    for now, words in (
        (STANDBY, "Standby: ipa-1_aa answered, ipa-0_bb leads"),
        (
            LeaderStatus(False, "ipa-1", "", "not allowed"),
            "nobody leads (the Lease cannot be used: not allowed)",
        ),
    ):
        status = standing(world, now).get("/v1/pipelines/ocr/status").json()
        console = Console(width=160, record=True, quiet=True)
        with console.capture() as captured:
            console.quiet = False
            console.print(status_table(status))
        assert words in captured.get()
    assert ALONE.leading
