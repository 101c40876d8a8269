"""A pipeline's answer for many is the one that it would get alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.adapters.prometheus.queries import (
    LOCAL,
    NUMBER,
    OPTIONAL,
    Matcher,
    Query,
    QueryShape,
    Samples,
    Selector,
    exact,
)
from ipa.adapters.prometheus.scraper import SeriesStore
from ipa.adapters.prometheus.server import SharedQueries
from ipa.model.pipeline import Pipeline, Sla
from tests.amounts import many

NOW_S = 1_000.0
NAMES = ("a", "a-2", "b", "a|b", "")
PIPELINES = tuple(Pipeline(name, (), Sla(1.0, 99.0), {}) for name in NAMES if name)

series = st.fixed_dictionaries(
    {"deployment": st.sampled_from(NAMES), "le": st.sampled_from(("0.1", "1.0", "+Inf"))},
    optional={
        "namespace": st.sampled_from(("here", "there")),
        "predictor": st.sampled_from(("default", "default-2", "default-x")),
        "service": st.sampled_from(("predictions", "feedback")),
        "stage": st.sampled_from(("one", "two")),
    },
)
samples = st.lists(st.tuples(series, st.integers(0, 50)), min_size=1, max_size=24)


def queries(name: str) -> tuple[Query, ...]:
    own = (*exact({"deployment": name, "service": "predictions"}), Matcher("namespace", ("here",), OPTIONAL))
    selector = Selector("m", (*own, Matcher("predictor", ("default",), NUMBER)))
    return tuple(
        Query(shape, selector, by, 10.0) for shape in QueryShape for by in ((), ("stage",), ("stage", "le"))
    )


@settings(max_examples=many(60), deadline=None, derandomize=True)
@given(samples)
def test_everybody_is_told_what_they_would_be_alone(given_samples: list[tuple[dict[str, str], int]]) -> None:
    store = SeriesStore()
    for second in range(12):
        scraped = [("m", labels, float(count * second)) for labels, count in given_samples]
        store.add("target", NOW_S - 11 + second, scraped)

    def fetch(query: Query) -> list[tuple[dict[str, str], Samples]]:
        """As Prometheus answers it over HTTP."""
        is_samples = query.shape is QueryShape.SAMPLES
        return [
            (
                dict(label.split("=", 1) for label in key)
                if is_samples
                else {name: value for name, value in zip(query.by, key, strict=True) if value},
                row,
            )
            for key, row in store.rows(query, NOW_S).items()
        ]

    dialect = replace(LOCAL, identity_label="deployment")
    together = SharedQueries(dialect, lambda: PIPELINES, fetch, 1.0, lambda: 0.0)
    for pipeline in PIPELINES:
        for query in queries(pipeline.name):
            alone = {key: pytest.approx(each) for key, each in store.rows(query, NOW_S).items()}
            assert together.ask(query)[0] == alone, str(query)
