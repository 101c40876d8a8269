"""Train and score the variants: `python -m pipelines.digits.train`. Seconds; done by itself on first use."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.ensemble import ExtraTreesClassifier, VotingClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.multioutput import MultiOutputClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from pipelines.digits.data import SEED, canvases, crops, profiles, profiles_and_pixels
from pipelines.trained import trained_model, write_models

MODELS = Path(__file__).resolve().parents[2] / "runs" / "models" / "digits"
SCORES = "scores.json"
REMEDY = "Train the models anew: python -m pipelines.digits.train"

LOCATE: dict[str, Callable[[], Any]] = {
    "ridge": lambda: make_pipeline(FunctionTransformer(profiles), Ridge(1.0)),
    "logistic": lambda: make_pipeline(
        FunctionTransformer(profiles), MultiOutputClassifier(LogisticRegression(C=10, max_iter=150))
    ),
    "ensemble": lambda: make_pipeline(
        FunctionTransformer(profiles_and_pixels),
        MultiOutputClassifier(
            VotingClassifier(
                [
                    ("forest", ExtraTreesClassifier(60, random_state=SEED)),
                    ("logistic", LogisticRegression(max_iter=60)),
                    ("network", MLPClassifier((64,), max_iter=15, random_state=SEED)),
                ],
                voting="soft",
            )
        ),
    ),
}
CLASSIFY: dict[str, Callable[[], Any]] = {
    "tree": lambda: DecisionTreeClassifier(max_depth=6, random_state=SEED),
    "logistic": lambda: LogisticRegression(max_iter=150),
    "forest": lambda: ExtraTreesClassifier(300, random_state=SEED),
}


def load_model(stage: str, variant: str, folder: Path = MODELS) -> Any:
    """The model of a variant; trains all variants first where they, or their digests, are not there.

    InputError where the file was changed since it was trained: a joblib file can hold any code.
    """
    path = folder / f"{stage}-{variant}.joblib"
    return joblib.load(BytesIO(trained_model(path, train, REMEDY)))


def train(folder: Path = MODELS) -> dict[str, dict[str, float]]:
    """The accuracies by stage and variant, after training and saving every variant.

    Locating is right where the corner is exact; classifying is scored on exact crops.
    """
    files: dict[str, bytes] = {}
    training = canvases(training=True, placements=6)
    test = canvases(training=False, placements=4)
    scores: dict[str, dict[str, float]] = {"locate": {}, "classify": {}}
    # More threads than idle cores wait for each other, for minutes; one takes seconds.
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer steps than to full convergence score the same within 0.2 %.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for variant, make in LOCATE.items():
            model = make().fit(training.images, training.corners)
            found = np.rint(model.predict(test.images))
            scores["locate"][variant] = float((found == test.corners).all(axis=1).mean())
            files[f"locate-{variant}.joblib"] = _dumped(model)
        exact = canvases(training=True, placements=1)
        for variant, make in CLASSIFY.items():
            model = make().fit(crops(exact.images, exact.corners), exact.labels)
            scores["classify"][variant] = float(model.score(crops(test.images, test.corners), test.labels))
            files[f"classify-{variant}.joblib"] = _dumped(model)
    write_models(folder, {**files, SCORES: json.dumps(scores, indent=1).encode()})
    return scores


def _dumped(model: Any) -> bytes:
    body = BytesIO()
    joblib.dump(model, body)
    return body.getvalue()


if __name__ == "__main__":
    for stage_name, accuracies in train().items():
        for variant_name, accuracy in accuracies.items():
            print(f"{stage_name:9} {variant_name:9} {accuracy:.3f}")
