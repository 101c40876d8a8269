"""Every query is read back as it was written, whatever the label values."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from ipa.adapters.prometheus.queries import (
    ANYTHING,
    LOCAL,
    NUMBER,
    ON_CLUSTER,
    OPTIONAL,
    Dialect,
    Matcher,
    Query,
    QueryShape,
    Selector,
    queries,
)
from ipa.model.pipeline import Pipeline, Sla, Stage, Variant
from ipa.targets.seldon.metrics import EXECUTOR
from tests.fakes.promql import parse

names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name != "le")
several = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=3).map(tuple)
matchers = st.one_of(
    st.builds(Matcher, names, several),
    st.builds(Matcher, names, several, st.sampled_from([OPTIONAL, NUMBER, ANYTHING])),
)
selectors = st.builds(Selector, names, st.lists(matchers, max_size=5).map(tuple))
labels = st.lists(names, max_size=3).map(tuple)
windows = st.integers(1, 600_000).map(lambda milliseconds: milliseconds / 1000)
anything = st.one_of(
    st.builds(Query, st.just(QueryShape.RATE), selectors, labels, windows),
    st.builds(Query, st.sampled_from([QueryShape.GAUGE, QueryShape.AGE]), selectors, labels),
)


@given(anything)
def test_what_is_written_is_read_back(query: Query) -> None:
    assert parse(str(query)) == query


@given(st.text(max_size=30), st.sampled_from([LOCAL, ON_CLUSTER, EXECUTOR]))
def test_names_never_leave_their_quotes(name: str, dialect: Dialect) -> None:
    pipeline = Pipeline(name, (Stage("s", (Variant("v"),)),), Sla(1.0, 99.0), {})
    text = str(queries(pipeline, dialect)["arrivals"])
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", text, flags=re.DOTALL)
    assert outside == re.sub(
        r'"[^"]*"', "", str(queries(Pipeline("p", (), Sla(1.0, 99.0), {}), dialect)["arrivals"])
    )
    assert "\n" not in text
