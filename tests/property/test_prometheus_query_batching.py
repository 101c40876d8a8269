"""A pipeline's answer for many is the one that it would get alone."""

from __future__ import annotations

from functools import partial
from math import isnan
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ipa.adapters.prometheus.queries import Age, Gauge, Quantile, Query, Rate, Selector
from ipa.adapters.prometheus.query_batching import PipelineLabel, QueryBatcher, Span
from ipa.adapters.prometheus.series import SeriesStore
from ipa.model.pipeline import Pipeline, Sla
from tests.amounts import many
from tests.fakes.promql import respond

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


def selectors(name: str) -> Selector:
    return Selector(
        "m", {"deployment": name, "service": "predictions"}, {"namespace": "here"}, {"predictor": "default"}
    )


def queries(name: str) -> tuple[Query, ...]:
    asked = selectors(name)
    return (
        Rate(asked, 10.0),
        Rate(asked, 10.0, ("stage",)),
        Gauge(asked, ("stage",)),
        Age(asked, ("stage",)),
        Age(asked),
        Quantile(0.9, asked, 10.0),
        Quantile(0.5, asked, 10.0, ("stage",)),
    )


def answered(store: SeriesStore, query: Query, span: Span) -> list[Any]:
    """As Prometheus does it over HTTP."""
    times = {} if span is None else {"start": str(span[0]), "end": str(span[1]), "step": "1"}
    path = "/api/v1/query" if span is None else "/api/v1/query_range"
    result: list[Any] = respond(store, path, {"query": str(query), **times}, NOW_S)["result"]
    return result


def plain(result: list[Any]) -> dict[frozenset[tuple[str, str]], list[tuple[float, float | None]]]:
    """The numbers by labels; what is not a number is None, which equals itself."""
    found = {}
    for each in result:
        values = [each["value"]] if "value" in each else each["values"]
        numbers = [(float(at_s), float(text)) for at_s, text in values]
        found[frozenset(each["metric"].items())] = [
            (at_s, None if isnan(value) else round(value, 9)) for at_s, value in numbers
        ]
    return found


@settings(max_examples=many(60), deadline=None, derandomize=True)
@given(samples)
def test_everybody_is_told_what_they_would_be_alone(given_samples: list[tuple[dict[str, str], int]]) -> None:
    store = SeriesStore()
    for second in range(12):
        scraped = [("m", labels, float(count * second)) for labels, count in given_samples]
        store.add("target", NOW_S - 11 + second, scraped)
    fetch = partial(answered, store)
    identity = PipelineLabel("deployment", lambda pipeline: pipeline.name)
    together = QueryBatcher(identity, lambda: PIPELINES, fetch, 1.0, lambda: 0.0)
    for pipeline in PIPELINES:
        for query in queries(pipeline.name):
            for span in (None, (int(NOW_S) - 4, int(NOW_S))):
                alone = fetch(query, span)
                assert plain(together.ask(query, span).result) == plain(alone), str(query)


@settings(max_examples=many(30), deadline=None, derandomize=True)
@given(samples)
def test_the_built_in_server_answers_as_prometheus_does(
    given_samples: list[tuple[dict[str, str], int]],
) -> None:
    store = SeriesStore()
    for second in range(12):
        scraped = [("m", labels, float(count * second)) for labels, count in given_samples]
        store.add("target", NOW_S - 11 + second, scraped)
    for query in queries(PIPELINES[0].name):
        for span in (None, (int(NOW_S) - 4, int(NOW_S))):
            assert plain(store.series(query, NOW_S, span)) == plain(answered(store, query, span))
