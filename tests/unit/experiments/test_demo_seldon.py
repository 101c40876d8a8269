"""The demo on Seldon: which answers are wrong, what became of pods, and the changes that are timed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from experiments.demo_seldon.__main__ import changed_s, not_here
from experiments.demo_seldon.answers import mixed_up, possible_answers, predicted, rows_of, wrong_answers
from experiments.demo_seldon.changes import KEYS, Timed, error_ratios, wanted_of, waves_of
from experiments.demo_seldon.figures import applied
from experiments.fidelity.case import bodies_of, scores_of
from ipa.files import load_pipeline
from ipa.model.parts import in_order, is_shared, share_faults, with_share
from ipa.model.pipeline import Pipeline
from ipa.model.plan import StageConfig
from ipa.targets.seldon.section import Shape
from pipelines.signals.models import Clean, Recognise
from tests.fakes.kube.node import PodEvent
from tests.fakes.own_environment import OwnEnvironment

FIRST = (StageConfig("locate", "ridge", 1, 0.25, 1), StageConfig("classify", "tree", 1, 0.25, 1))
COUNT = 40


def digits(root: Path) -> Pipeline:
    return load_pipeline(root / "pipelines/digits/pipeline.yaml")


def digit(value: int) -> dict[str, Any]:
    return {"outputs": [{"name": "digit", "datatype": "INT64", "shape": [1, 1], "data": [value]}]}


def first_bodies(name: str) -> Sequence[bytes]:
    """The bodies of the pipeline's first 40 requests."""
    return bodies_of(name)[:40]


def test_an_answer_that_no_choice_of_variants_gives_is_wrong(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = digits(root)
    monkeypatch.setattr("experiments.demo_seldon.answers.bodies_of", first_bodies)
    requests = [json.loads(body) for body in first_bodies("digits")]
    possible = possible_answers(pipeline, requests)
    monkeypatch.setattr("experiments.demo_seldon.answers.possible_answers", lambda *_: possible)
    assert len(possible) == 40 and all(1 <= len(each) <= 9 for each in possible)
    # Most images leave no doubt, and then one digit is right.
    sure = [number for number, each in enumerate(possible) if len(each) == 1]
    answers = [(number, digit(json.loads(next(iter(possible[number])))["digit"][0])) for number in sure]
    assert len(sure) >= 10 and sum(scores_of("digits", answers)) / len(sure) > 0.9
    assert wrong_answers(pipeline, answers) == 0
    # Each is given the answer of the next one: wrong where that is another digit.
    shifted = [
        (number, answer) for (number, _), (_, answer) in zip(answers, [*answers[1:], answers[0]], strict=True)
    ]
    others = sum(a[1] != b[1] for a, b in zip(answers, shifted, strict=True))
    assert wrong_answers(pipeline, shifted) == others >= 5
    # Variants that disagree are each possible.
    assert any(len(each) > 1 for each in possible)
    image = {"image": requests[0]["inputs"][0]["data"]}
    for locate in pipeline.stages[0].variants:
        for classify in pipeline.stages[1].variants:
            (crop,) = predicted(locate, [image])
            (found,) = predicted(classify, [crop])
            assert json.dumps({"digit": [int(found["digit"])]}) in possible[0]


def test_an_answer_of_classes_that_no_choice_of_variants_gives_is_wrong(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.demo_seldon.answers.bodies_of", first_bodies)
    pipeline = load_pipeline(root / "pipelines/signals/pipeline.yaml")
    sent = np.concatenate([rows_of(json.loads(body)) for body in first_bodies("signals")])
    found = Recognise("fine").predict(Clean("robust").predict(sent))
    answers = [(number, {"data": {"ndarray": [row.tolist()]}}) for number, row in enumerate(found)]
    assert wrong_answers(pipeline, answers) == 0
    scores = scores_of("signals", answers)
    assert 0.6 < sum(scores) / len(scores) < 1
    shifted = [(number, answers[number - 1][1]) for number, _ in answers]
    assert wrong_answers(pipeline, shifted) > len(answers) / 2


def test_the_microservices_are_left_out_where_they_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    said = Console(file=StringIO())
    assert not_here("ocr", Shape.SPLIT, said) == ("", "")
    assert "do not speak" in not_here("signals", Shape.SPLIT, said)[1]
    monkeypatch.setattr(OwnEnvironment, "python", lambda _: "/with/it")
    assert not_here("signals", Shape.SINGLE, said) == ("/with/it", "")

    def lacking(_: OwnEnvironment) -> str:
        raise RuntimeError("seldon-core 1.17.1 cannot be installed: no network")

    monkeypatch.setattr(OwnEnvironment, "python", lacking)
    assert not_here("signals", Shape.SINGLE, said) == (
        "",
        "seldon-core 1.17.1 cannot be installed: no network",
    )


def test_an_answer_that_fits_another_page_better_is_mixed_up() -> None:
    def score(page: int, answer: Any) -> float:
        return float(answer["of"] == page)

    assert mixed_up([(0, {"of": 0}), (1, {"of": 2}), (2, {"of": 9})], 3, score) == 1


def test_pods_between_two_changes_are_the_first_one_s() -> None:
    events = [
        PodEvent(1.0, "p-default-0-a", "early", "started"),
        PodEvent(11.0, "p-default-0-a", "one", "started"),
        PodEvent(12.0, "p-default-svc-orch", "two", "taken"),
        PodEvent(13.0, "p-default-0-a", "one", "ended", "a"),
        PodEvent(21.0, "p-default-0-a", "one", "taken"),
    ]
    before, after = ({"variant": "v", "cores": 1.0, "batch_size": 1, "replicas": n} for n in (1, 2))
    decisions = [
        {"tick": 2, "action": "apply", "previous": [before], "configs": [after], "detail": ""},
        {"tick": 3, "action": "hold", "previous": [after], "configs": [after], "detail": ""},
        {"tick": 4, "action": "apply", "previous": [after], "configs": [before], "detail": ""},
    ]
    first, second = applied(decisions, {1: 5.0, 2: 10.0, 4: 20.0}, events, 30.0)
    assert first.kind == second.kind == "replicas"
    assert (first.stage_started, first.stage_taken, first.front_taken, first.ended) == (1, 0, 1, 1)
    assert (second.stage_started, second.stage_taken, second.front_taken, second.ended) == (0, 1, 0, 0)


def test_latencies_are_those_since_the_last_change() -> None:
    decisions = [{"tick": tick, "action": "hold" if tick == 3 else "apply"} for tick in (1, 2, 3, 4)]
    at_s = {1: 5.0, 2: 10.0, 3: 15.0, 4: 20.0}
    assert [changed_s(decisions, at_s, now_s) for now_s in (4.0, 18.0, 25.0)] == [0.0, 10.0, 20.0]


def test_changes_are_of_every_kind(root: Path) -> None:
    found = list(wanted_of(digits(root), FIRST, COUNT))
    assert len(found) == COUNT and all(before != after for before, after in pairwise(it for _, it in found))
    assert {key for kind, _ in found for key in kind.split(", ")} >= set(KEYS)
    assert sum("parts" in kind for kind, _ in found) == 9
    assert all("parts" in kind for kind, configs in found if is_shared(configs))
    assert {configs[-1].replicas for _, configs in found} >= {1, 4, 8}
    assert not [fault for _, configs in found for fault in share_faults(configs)]
    # A shorter run begins the same.
    assert list(wanted_of(digits(root), FIRST, 6)) == found[:6]


def test_a_change_waits_for_its_slowest_stage() -> None:
    locate = FIRST[0]
    eight = StageConfig("classify", "forest", 1, 0.25, 8)
    assert waves_of(FIRST, (locate, eight)) == 4
    assert waves_of(FIRST, (locate, StageConfig("classify", "tree", 1, 0.25, 8))) == 1
    other = (StageConfig("locate", "logistic", 1, 0.25, 1), eight)
    parts = in_order([FIRST, with_share(other, 0)])
    assert waves_of(FIRST, parts) == 1
    assert waves_of(parts, in_order([with_share(FIRST, 30), with_share(other, 70)])) == 0
    assert waves_of(parts, other) == 0
    timed = [Timed("", "", "", 4, 20.0), Timed("", "", "", 0, 0.1)]
    assert error_ratios(timed, 4.0) == [4 * 4.0 / 20.0 - 1]
