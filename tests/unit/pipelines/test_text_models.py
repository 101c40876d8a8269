"""The text pipeline: passages of withheld lines, and stages that tell prose, module and names."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from mlserver.settings import ModelParameters, ModelSettings
from mlserver.types import InferenceRequest, RequestInput

from ipa.files import load_pipeline, load_profiles
from pipelines.text import bench, runtime, train
from pipelines.text.data import (
    CODE_LINES,
    MIN_CODE,
    MIN_LINE_CHARACTERS,
    MIN_PROSE,
    PROSE_LINES,
    TOPICS,
    documented,
    part,
    passages,
)
from pipelines.text.models import ANSWER, EXTRACT, SUGGESTIONS, TOPIC, lines_f1

# Tests share the passages and trained models, and so a worker.
pytestmark = pytest.mark.xdist_group("text-models")
STAGES = {"extract": "tree", "topic": "bayes", "answer": "words-100"}
PASSAGES = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smallest variant of each stage, trained on little."""
    folder = tmp_path_factory.mktemp("models") / "text"
    smallest = {
        stage: {name: makers[name]}
        for (stage, name), makers in zip(STAGES.items(), (EXTRACT, TOPIC, ANSWER), strict=True)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "DRAWS", 2)
        patch.setattr(train, "EXTRACT", smallest["extract"])
        patch.setattr(train, "TOPIC", smallest["topic"])
        patch.setattr(train, "ANSWER", smallest["answer"])
        # Loading trains what is not there.
        train.load_model("extract", "tree", folder)
    return folder


def test_every_topic_has_objects_and_no_line_is_learnt_and_asked() -> None:
    objects = documented()
    assert {it.topic for it in objects} == set(TOPICS)
    assert len({(it.topic, it.name) for it in objects}) == len(objects) > 300
    for it in objects:
        assert len(it.prose) >= MIN_PROSE and len(it.code) >= MIN_CODE
        for lines in (it.prose, it.code):
            assert min(map(len, lines)) >= MIN_LINE_CHARACTERS
            learnt, withheld = part(lines, training=True), part(lines, training=False)
            assert set(learnt).isdisjoint(withheld) and len(learnt) + len(withheld) == len(lines)


def test_passages_are_the_same_for_the_same_seed_and_hold_what_they_say() -> None:
    first, again, other = (passages(training=False, draws=1, seed=seed) for seed in (3, 3, 4))
    assert first == again != other
    for it, whole in zip(first, documented(), strict=True):
        assert (it.topic, it.name) == (whole.topic, whole.name)
        assert sum(it.is_prose) == PROSE_LINES and len(it.lines) == PROSE_LINES + CODE_LINES
        prose = it.prose.splitlines()
        assert set(prose) <= set(part(whole.prose, training=False))
        assert set(it.lines) - set(prose) <= set(part(whole.code, training=False))


def test_f1_of_lines_counts_those_missed_and_those_made_up() -> None:
    truth = [True, True, False, False]
    assert lines_f1(truth, truth) == 1.0
    assert lines_f1(truth, [True, False, False, False]) == pytest.approx(2 / 3)
    assert lines_f1(truth, [True, True, True, True]) == pytest.approx(2 / 3)
    assert lines_f1(truth, [False] * 4) == 0.0
    assert lines_f1([False], [False]) == 1.0


def test_the_whole_is_right_where_each_stage_is() -> None:
    it = passages(training=False, draws=1)[0]
    right = {"prose": [it.prose], "topic": [it.topic], "answer": [f"x {it.name} y"]}
    assert bench.pipeline_accuracy(it, right) == 1.0
    assert bench.pipeline_accuracy(it, {**right, "topic": ["scipy.none"]}) == 0.0
    assert bench.pipeline_accuracy(it, {**right, "answer": ["x y z"]}) == 0.0
    assert bench.pipeline_accuracy(it, {**right, "prose": [it.text]}) == pytest.approx(
        2 * PROSE_LINES / (2 * PROSE_LINES + CODE_LINES)
    )


def test_the_stages_speak_v2_and_the_product_of_their_accuracies_predicts_the_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "load_model", partial(train.load_model, folder=folder))
    stages = (("extract", runtime.Extract), ("topic", runtime.Topic), ("answer", runtime.Answer))
    accuracies, outputs = [], {}
    for stage, kind in stages:
        workload = bench.workload(stage, 5)
        inputs = _batch(workload.items[:PASSAGES])
        alone = _served(kind, STAGES[stage], inputs)
        answers = [{name: [values[place]] for name, values in alone.items()} for place in range(PASSAGES)]
        scored = [workload.score(it, answer) for it, answer in zip(workload.passages, answers, strict=False)]
        accuracies.append(fmean(scored))
        # The next stage is asked with what the one before it answers.
        request = inputs if not outputs else _tensors(outputs)
        outputs = _served(kind, STAGES[stage], request)
    assert set(outputs) == {"prose", "topic", "answer"}
    assert all(len(names.split()) == SUGGESTIONS for names in outputs["answer"])
    whole = fmean(
        bench.pipeline_accuracy(it, {name: [values[place]] for name, values in outputs.items()})
        for place, it in enumerate(bench.workload("extract", 5).passages[:PASSAGES])
    )
    assert all(0.2 < accuracy < 0.95 for accuracy in accuracies)
    assert whole == pytest.approx(accuracies[0] * accuracies[1] * accuracies[2], abs=0.1)


def test_an_empty_passage_is_answered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "load_model", partial(train.load_model, folder=folder))
    assert _served(runtime.Extract, "tree", [bench.text("passage", "")]) == {"prose": [""]}


def test_a_stage_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no stage 'translate'"):
        bench.workload("translate", 1)


def test_the_files_name_the_variants_and_the_largest_are_ten_times_slower() -> None:
    pipeline = load_pipeline(Path("pipelines/text/pipeline.yaml"))
    profiles = load_profiles(Path("profiles"), "text")
    slowest_s, quickest_s = 0.0, 0.0
    for stage, makers in zip(pipeline.stages, (EXTRACT, TOPIC, ANSWER), strict=True):
        assert [it.name for it in stage.variants] == list(makers)
        profiled = profiles[stage.name].variants
        times_s = [
            next(it.latency_mean_s for it in variant.points if (it.cores, it.batch_size) == (1, 1))
            for variant in profiled
        ]
        accuracies = [variant.accuracy for variant in profiled]
        assert accuracies == sorted(accuracies), f"{stage.name}: a slower variant is more often right"
        slowest_s, quickest_s = slowest_s + max(times_s), quickest_s + min(times_s)
    assert slowest_s >= 10 * quickest_s


def _batch(items: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    return [
        {**first, "shape": [len(items)], "data": [item[place]["data"][0] for item in items]}
        for place, first in enumerate(items[0])
    ]


def _tensors(outputs: dict[str, list[str]]) -> list[dict[str, Any]]:
    return [{**bench.text(name, ""), "shape": [len(data)], "data": data} for name, data in outputs.items()]


def _served(kind: type, variant: str, inputs: list[dict[str, Any]]) -> dict[str, list[str]]:
    parameters = ModelParameters(extra={"model": variant})
    model = kind(ModelSettings(name="stage", implementation=kind, parameters=parameters))

    async def once() -> dict[str, list[str]]:
        await model.load()
        try:
            answer = await model.predict(InferenceRequest(inputs=[RequestInput(**it) for it in inputs]))
        finally:
            await model.unload()
        return {output.name: list(output.data.root) for output in answer.outputs}

    return asyncio.run(once())
