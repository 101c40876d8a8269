"""Train and score the variants: `python -m pipelines.text.train`. Half a minute; done on first use too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from io import BytesIO
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

import joblib
import numpy as np
from threadpoolctl import threadpool_limits

from pipelines.text.data import SEED, documented, part, passages
from pipelines.text.models import ANSWER, EXTRACT, TOPIC, Answers, lines_f1
from pipelines.trained import trained_model, write_models

MODELS = Path(__file__).resolve().parents[2] / "runs" / "models" / "text"
SCORES = "scores.json"
REMEDY = "Train the models anew: python -m pipelines.text.train"
# Lines and passages of each object to learn from: more take longer and score the same within 1 %.
LINES = 6000
DRAWS = 8


def load_model(stage: str, variant: str, folder: Path = MODELS) -> Any:
    """The model of a variant; trains all variants first where they, or their digests, are not there.

    InputError where the file was changed since it was trained: a joblib file can hold any code.
    """
    path = folder / f"{stage}-{variant}.joblib"
    return joblib.load(BytesIO(trained_model(path, train, REMEDY)))


def train(folder: Path = MODELS) -> dict[str, dict[str, float]]:
    """The accuracies by stage and variant, after training and saving every variant.

    Extracting is scored by the F1 of the lines; the two others on the true prose, and on the true topic.
    """
    # More threads than idle cores wait for each other, for minutes; one takes seconds.
    with threadpool_limits(1):
        scores, files = _trained()
    write_models(folder, {**files, SCORES: json.dumps(scores, indent=1).encode()})
    return scores


def _trained() -> tuple[dict[str, dict[str, float]], dict[str, bytes]]:
    files: dict[str, bytes] = {}
    scores: dict[str, dict[str, float]] = {"extract": {}, "topic": {}, "answer": {}}

    def keep(stage: str, variant: str, model: Any, score: float) -> None:
        body = BytesIO()
        joblib.dump(model, body)
        files[f"{stage}-{variant}.joblib"] = body.getvalue()
        scores[stage][variant] = score

    training, test = passages(training=True, draws=DRAWS), passages(training=False, draws=1)
    lines, is_prose = _training_lines()
    for variant, make in EXTRACT.items():
        model = make().fit(lines[:LINES], is_prose[:LINES])
        told = iter(model.predict([line for it in test for line in it.lines]))
        keep(
            "extract",
            variant,
            model,
            fmean(lines_f1(it.is_prose, list(islice(told, len(it.lines)))) for it in test),
        )
    for variant, make in TOPIC.items():
        model = make().fit([it.prose for it in training], [it.topic for it in training])
        keep("topic", variant, model, model.score([it.prose for it in test], [it.topic for it in test]))
    for variant, make in ANSWER.items():
        answers = Answers(make, training)
        suggested = answers.suggest([it.prose for it in test], [it.topic for it in test])
        keep(
            "answer",
            variant,
            answers,
            fmean(it.name in names for it, names in zip(test, suggested, strict=True)),
        )
    return scores, files


def _training_lines() -> tuple[list[str], list[bool]]:
    """Every line of the training part in random order, and which of them are prose."""
    known: Mapping[str, bool] = {
        line: is_prose
        for it in documented()
        for its, is_prose in ((it.code, False), (it.prose, True))
        for line in part(its, training=True)
    }
    order = np.random.default_rng(SEED).permutation(len(known))
    lines = list(known)
    return [lines[place] for place in order], [known[lines[place]] for place in order]


if __name__ == "__main__":
    for stage_name, accuracies in train().items():
        for variant_name, accuracy in accuracies.items():
            print(f"{stage_name:9} {variant_name:13} {accuracy:.3f}")
