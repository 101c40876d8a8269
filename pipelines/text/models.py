"""The variants of the stages, and what is right of their answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesClassifier, VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import ComplementNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from pipelines.text.data import SEED, Passage

SUGGESTIONS = 3


def shapes(lines: Sequence[str]) -> NDArray[np.float64]:
    """The looks of each line [n, 7]: its length, the shares of letters and spaces, punctuation, both ends."""
    return np.array(
        [
            [
                len(line),
                sum(map(str.isalpha, line)) / max(len(line), 1),
                line.count(" ") / max(len(line), 1),
                sum(map(line.count, "=()[]_")),
                line.endswith((".", ",")),
                line.startswith("#"),
                line[:1].isupper(),
            ]
            for line in lines
        ]
    )


def words(**options: Any) -> TfidfVectorizer:
    """The words of a text, weighted by how rare they are."""
    return TfidfVectorizer(sublinear_tf=True, **options)


def letters(shortest: int, longest: int, **options: Any) -> TfidfVectorizer:
    """The sequences of that many letters within words, weighted by how rare they are."""
    return words(analyzer="char_wb", ngram_range=(shortest, longest), **options)


def forest(leaves: int) -> ExtraTreesClassifier:
    """Small trees, but many. A call takes about as long for eight texts as for one."""
    return ExtraTreesClassifier(700, max_leaf_nodes=leaves, random_state=SEED)


def machine() -> LinearSVC:
    """A linear support vector machine."""
    return LinearSVC(random_state=SEED)


EXTRACT: dict[str, Callable[[], Any]] = {
    "tree": lambda: make_pipeline(
        FunctionTransformer(shapes), DecisionTreeClassifier(max_depth=4, random_state=SEED)
    ),
    "linear": lambda: make_pipeline(letters(1, 2, max_features=200), LogisticRegression(C=10)),
    "ensemble": lambda: VotingClassifier(
        [
            ("linear", make_pipeline(letters(1, 3, min_df=5), LogisticRegression(C=10))),
            ("forest", make_pipeline(letters(1, 3, max_features=600), forest(200))),
        ],
        voting="soft",
        weights=[2, 1],
    ),
}
TOPIC: dict[str, Callable[[], Any]] = {
    "bayes": lambda: make_pipeline(words(max_features=300), ComplementNB()),
    "linear": lambda: make_pipeline(words(max_features=1000), machine()),
    "ensemble": lambda: VotingClassifier(
        [
            ("words", make_pipeline(words(), machine())),
            ("pairs", make_pipeline(words(ngram_range=(1, 2)), machine())),
            ("letters", make_pipeline(letters(2, 5, min_df=2), machine())),
            ("forest", make_pipeline(words(max_features=2000), forest(100))),
        ]
    ),
}
ANSWER: dict[str, Callable[[], Any]] = {
    "words-100": lambda: make_pipeline(words(max_features=100), ComplementNB()),
    "words-300": lambda: make_pipeline(words(max_features=300), ComplementNB()),
    "ensemble": lambda: VotingClassifier(
        [
            ("words", make_pipeline(words(), ComplementNB())),
            ("letters", make_pipeline(letters(2, 5, max_features=4000), ComplementNB())),
            ("forest", make_pipeline(words(max_features=500), forest(20))),
        ],
        voting="soft",
        weights=[4, 4, 1],
    ),
}


class Answers:
    """A classifier of names for each topic. Suggests the likeliest names of the given topic."""

    def __init__(self, make: Callable[[], Any], training: Sequence[Passage]) -> None:
        self._models = {}
        for topic in sorted({it.topic for it in training}):
            own = [it for it in training if it.topic == topic]
            self._models[topic] = make().fit([it.prose for it in own], [it.name for it in own])

    def suggest(self, proses: Sequence[str], topics: Sequence[str]) -> list[list[str]]:
        """Return SUGGESTIONS names for each text, the likeliest first."""
        suggested: list[list[str]] = [[]] * len(proses)
        for topic in sorted(set(topics)):
            model = self._models[topic]
            places = [place for place, its in enumerate(topics) if its == topic]
            likely = model.predict_proba([proses[place] for place in places]).argsort(axis=1)[:, ::-1]
            for place, order in zip(places, likely, strict=True):
                suggested[place] = list(model.classes_[order[:SUGGESTIONS]])
        return suggested


def lines_f1(truth: Sequence[bool], told: Sequence[bool]) -> float:
    """The F1 of the lines told to be prose, 0 .. 1."""
    both = sum(bool(a and b) for a, b in zip(truth, told, strict=True))
    return 2.0 * both / (sum(map(bool, truth)) + sum(map(bool, told))) if any(told) or any(truth) else 1.0
