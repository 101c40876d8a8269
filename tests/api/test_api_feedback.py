"""Feedback over the API: what is taken, and every fault of a batch at once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ipa.cli.views.status_text import status_table
from ipa.control.engine.correction import Correction
from ipa.profiling.measured_accuracy import Feedback, MeasuredAccuracy
from tests.fakes.services import ApiClient, FakeWorld

ITEM = {"request": "7f3a", "stage": "detect", "variant": "v6-320", "correct": True}


def given(world: FakeWorld, *items: Any, taken: list[Feedback] | None = None) -> tuple[int, Any]:
    context = world.services()
    loop = context.service.registry.loops["ocr"]
    taken = [] if taken is None else taken
    kept = replace(loop, give_feedback=lambda feedback: taken.extend(feedback) or len(feedback))  # type: ignore[type-var]
    context.service.registry.loops["ocr"] = kept  # type: ignore[index]
    answer = ApiClient(context).post("/v1/pipelines/ocr/feedback", {"items": list(items)})
    return answer.status_code, answer.json()


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"stage": "detekt"}, "/items/1/stage", "did you mean 'detect'?"),
        ({"variant": "v6-32"}, "/items/1/variant", "did you mean 'v6-320'?"),
        ({"correct": None}, "/items/1", "give correct, agrees, or both"),
        ({"correct": 1.5}, "/items/1/correct", "less than or equal to 1"),
        ({"agrees": "yes"}, "/items/1/agrees", ""),
        ({"request": ""}, "/items/1/request", "at least 1 character"),
        ({"weight": 1}, "/items/1/weight", ""),
    ],
)
def test_a_fault_is_named_with_its_remedy_and_nothing_is_taken(
    change: dict[str, Any], pointer: str, words: str
) -> None:
    taken: list[Feedback] = []
    status, problem = given(FakeWorld().play(12), ITEM, {**ITEM, **change}, taken=taken)
    assert status == 422 and not taken
    assert any(each["pointer"].startswith(pointer) and words in each["message"] for each in problem["errors"])


def test_all_faults_are_listed_and_a_batch_is_bounded() -> None:
    world = FakeWorld().play(12)
    wrong = [{**ITEM, **change} for change in ({"stage": "x"}, {"variant": "y"}, {"correct": None})]
    status, problem = given(world, *wrong)
    pointers = [each["pointer"] for each in problem["errors"]]
    assert (status, pointers) == (422, ["/items/0/stage", "/items/1/variant", "/items/2"])
    assert given(world)[0] == 422
    assert given(world, *[ITEM] * 251)[0] == 422


def test_the_variant_may_be_left_out_if_only_one_answered() -> None:
    world, taken = FakeWorld().play(12), list[Feedback]()
    running = world.recorded[-1].configs[0].variant
    item = {name: value for name, value in ITEM.items() if name != "variant"}
    assert given(world, item, {**ITEM, "agrees": 0.5}, taken=taken) == (202, {"counted": 2, "repeated": 0})
    assert [each.variant for each in taken] == [running, "v6-320"]
    assert (taken[1].correct, taken[1].agrees) == (1.0, 0.5)
    # Before the first tick nothing is known to run.
    status, problem = given(FakeWorld(), item)
    assert status == 422 and "name the variant that answered: " in problem["errors"][0]["message"]


def test_the_status_shows_said_and_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from rich.console import Console

    world = FakeWorld().play(12)
    known = MeasuredAccuracy("detect", "v6-320", 0.5).with_feedback([Feedback(1.0)] * 200)
    snapshot = replace(world.snapshot(), correction=Correction(accuracies=(known,)))
    monkeypatch.setattr(world, "snapshot", lambda: snapshot)
    status = ApiClient(world.services()).get("/v1/pipelines/ocr/status").json()
    (shown,) = status["live"]["stages"][0]["measured"]
    assert shown["labels"] == 200 and shown["contradicts"] and shown["lower"] > 0.5
    # The other stage counts by its profile.
    other, (low, high) = status["live"]["stages"][1]["accuracy"], status["live"]["measured_pas"]
    assert (low, high) == (pytest.approx(shown["lower"] * other), pytest.approx(shown["upper"] * other))
    console = Console(width=200, record=True, file=None)
    with console.capture() as text:
        console.print(status_table(status))
    assert f", {low:.3f} to {high:.3f} measured" in text.get()
    assert "detect=v6-320: accuracy 0.500 by its profile, 1.000 measured (0." in text.get()
