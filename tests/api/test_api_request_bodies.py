"""Request bodies: one budget for all, turns to read them; proxies; probes while all threads are taken."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace

import pytest

from ipa.api.limits import MOST_PROBLEMS, MOST_SHOWN, ApiLimits
from ipa.serving.body_budget import BodyBudget, Incoming, NoRoomError, Turns
from tests.fakes.people import Nobody
from tests.fakes.services import ApiClient, FakeWorld

OCR = "/v1/pipelines/ocr"


def test_the_largest_incomplete_body_makes_room() -> None:
    async def main() -> None:
        budget = BodyBudget(100)
        small, large, whole = (Incoming(asyncio.timeout(60)) for _ in range(3))
        budget.add(whole, b"x" * 40)
        assert budget.complete(whole) == b"x" * 40

        async def hold() -> None:
            async with large.deadline:
                budget.add(large, b"x" * 50)
                await asyncio.Event().wait()

        holding = asyncio.create_task(hold())
        await asyncio.sleep(0)
        async with small.deadline:
            budget.add(small, b"x" * 20)
        with pytest.raises(TimeoutError):
            await holding
        assert (large.is_dropped, small.is_dropped, budget.held_bytes) == (True, False, 60)
        with pytest.raises(NoRoomError):
            budget.add(small, b"x" * 41)
        assert budget.held_bytes == 40
        budget.release(whole)
        assert budget.held_bytes == 0

    asyncio.run(main())


def test_a_round_of_the_event_loop_gives_so_many_turns() -> None:
    async def main() -> list[int]:
        turns, rounds, number = Turns(2), [], 0

        async def read() -> None:
            await turns.take()
            rounds.append(number)

        reading = [asyncio.create_task(read()) for _ in range(7)]
        while not all(each.done() for each in reading):
            await asyncio.sleep(0)
            number += 1
        return rounds

    rounds = asyncio.run(main())
    assert len(rounds) == 7
    assert max(rounds.count(number) for number in rounds) <= 2


def test_a_body_without_room_is_answered_503_and_comes_again() -> None:
    api = ApiClient(replace(FakeWorld().play(2).services(), limits=ApiLimits(bodies_bytes=1000)))
    answer = api("POST", f"{OCR}/plans", content=b" " * 2000)
    assert (answer.status_code, answer.headers["retry-after"], answer.json()["code"]) == (
        503,
        "1",
        "unavailable",
    )
    assert api.post(f"{OCR}/plans", {"rate_rps": 5}).status_code == 201


def test_a_service_that_knows_its_clients_is_reached_through_a_proxy() -> None:
    services = replace(FakeWorld().play(2).services(), authenticators=(Nobody(),))
    answer = ApiClient(services).get(OCR, headers={"X-Forwarded-For": "192.0.2.1"})
    assert answer.status_code == 401


def test_an_answer_repeats_only_part_of_what_was_sent() -> None:
    api = ApiClient(FakeWorld().play(2).services())
    configs = [{"stage": "x" * 600, "nonsense" * 10: 1}] * 40
    answer = api("POST", f"{OCR}/apply", content=json.dumps({"configs": configs}).encode())
    assert answer.status_code == 422
    problem = answer.json()
    assert len(problem["errors"]) == MOST_PROBLEMS
    assert max(len(each["message"]) for each in problem["errors"]) <= MOST_SHOWN
    assert len(problem["detail"]) <= MOST_SHOWN
    assert len(api.get("/v1/pipelines/" + "x" * 5000).content) < 3000
