"""Every query is read back as it was written, whatever the label values."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from ipa.adapters.prometheus.dialects import LOCAL, ON_CLUSTER, Dialect, queries
from ipa.adapters.prometheus.queries import Age, Gauge, Quantile, Query, Rate, Selector
from ipa.model.pipeline import Pipeline, Sla, Stage, Variant
from ipa.targets.seldon.metrics import EXECUTOR
from tests.fakes.promql import parse

names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True).filter(lambda name: name != "le")
values = st.dictionaries(names, st.text(max_size=12), max_size=3)
alternatives = st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=3).map(tuple)


def selector(
    name: str, labels: dict[str, str], said: dict[str, str], among: dict[str, tuple[str, ...]]
) -> Selector:
    """One whose matchers are of different labels."""
    said = {key: value for key, value in said.items() if key not in labels}
    among = {key: value for key, value in among.items() if key not in {**labels, **said}}
    return Selector(name, labels, said, among=among)


selectors = st.builds(selector, names, values, values, st.dictionaries(names, alternatives, max_size=2))
labels = st.lists(names, max_size=3).map(tuple)
windows = st.integers(1, 600_000).map(lambda milliseconds: milliseconds / 1000)
quantiles = st.floats(0.001, 0.999)
anything = st.one_of(
    st.builds(Rate, selectors, windows, labels),
    st.builds(Quantile, quantiles, selectors, windows, labels),
    st.builds(Gauge, selectors, labels),
    st.builds(Age, selectors, labels),
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
