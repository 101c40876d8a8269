"""Train and score the variants: `python -m pipelines.digits.train`. Seconds; done by itself on first use."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray
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

    Classifying is scored on exact crops, locating by what the classifiers make of its crops.
    """
    files: dict[str, bytes] = {}
    training = canvases(training=True, placements=6)
    test = canvases(training=False, placements=4)
    scores: dict[str, dict[str, float]] = {"locate": {}, "classify": {}}
    # More threads than idle cores wait for each other, for minutes; one takes seconds.
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer steps than to full convergence score the same within 0.2 %.
        warnings.simplefilter("ignore", ConvergenceWarning)
        exact = canvases(training=True, placements=1)
        test_crops, classifiers = crops(test.images, test.corners), []
        for variant, make in CLASSIFY.items():
            model = make().fit(crops(exact.images, exact.corners), exact.labels)
            classifiers.append(model)
            scores["classify"][variant] = float(model.score(test_crops, test.labels))
            files[f"classify-{variant}.joblib"] = _dumped(model)
        for variant, make in LOCATE.items():
            model = make().fit(training.images, training.corners)
            found = crops(test.images, np.rint(model.predict(test.images)).astype(np.int64))
            scores["locate"][variant] = kept(classifiers, found, test_crops, test.labels)
            files[f"locate-{variant}.joblib"] = _dumped(model)
    write_models(folder, {**files, SCORES: json.dumps(scores, indent=1).encode()})
    return scores


def kept(
    classifiers: Sequence[Any],
    found: NDArray[np.float32],
    exact: NDArray[np.float32],
    labels: NDArray[np.int64],
) -> float:
    """How many digits are still right after locating, of those right on exact crops; the classifiers' mean.

    So the product with a classifier's accuracy is that of the whole: a crop that is one pixel off often
    still classifies.
    """
    return float(np.mean([each.score(found, labels) / each.score(exact, labels) for each in classifiers]))


def _dumped(model: Any) -> bytes:
    body = BytesIO()
    joblib.dump(model, body)
    return body.getvalue()


if __name__ == "__main__":
    for stage_name, accuracies in train().items():
        for variant_name, accuracy in accuracies.items():
            print(f"{stage_name:9} {variant_name:9} {accuracy:.3f}")
