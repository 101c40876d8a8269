"""Batched queries: one query for some dozens of pipelines, whose answer is split by pipeline.

A tick sends ten queries and more. A thousand pipelines would send a thousand a second, and each query costs
both sides more than its few numbers are worth.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ipa.adapters.prometheus.queries import Quantile, Query, Rate, Selector
from ipa.adapters.prometheus.series import aggregate
from ipa.adapters.ttl_cache import TtlCache
from ipa.model.errors import InputError
from ipa.model.pipeline import Pipeline

# Keeps an answer well below the limit of `transport`, and a query below that of proxies.
GROUP = 50

# Start and end of a range in s; None for an instant query.
Span = tuple[int, int] | None
Fetch = Callable[[Query, Span], list[Any]]


@dataclass(frozen=True, slots=True)
class PipelineLabel:
    """The label that identifies the pipeline of a series, and a pipeline's value of it."""

    label: str
    of: Callable[[Pipeline], str]


@dataclass(frozen=True, slots=True)
class _Row:
    labels: Mapping[str, str]
    # Times in s and numbers as text, not yet checked.
    samples: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Answered:
    """Series in Prometheus' form, and the monotonic time of their fetch in s."""

    result: list[Any]
    at_s: float


# Answers one query. Errors: UnavailableError (no answer), InputError (invalid answer).
Ask = Callable[[Query, Span], Answered]


class QueryBatcher:
    """A source of answers that queries a group of pipelines at once and caches the answer for `life_s`.

    `pipelines` are all pipelines that are read; one that is not among them, or is alone, has queries of its
    own. Errors: those of `fetch`, and InputError for invalid series.
    """

    def __init__(
        self,
        identity: PipelineLabel,
        pipelines: Callable[[], Collection[Pipeline]],
        fetch: Fetch,
        life_s: float,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._identity, self._pipelines = identity, pipelines
        self._fetch, self._monotonic_s = fetch, monotonic_s
        self._shared: TtlCache[dict[str, list[_Row]]] = TtlCache(life_s, monotonic_s)
        # The pipelines, and the group of each by its label value.
        self._grouped: tuple[tuple[Pipeline, ...], dict[str, tuple[str, ...]]] = ((), {})

    def ask(self, query: Query, span: Span = None) -> Answered:
        """Return the series of the query, which is of one pipeline."""
        label = self._identity.label
        own = query.selector.labels.get(label, "")
        group = self._group(own)
        if len(group) < 2:
            return Answered(self._fetch(query, span), self._monotonic_s())

        def fetch() -> dict[str, list[_Row]]:
            return _by_value(self._fetch(widened(query, label, group), span), label, span)

        rows, at_s = self._shared.get((group, *_kind(query, label), span), fetch)
        return Answered(narrowed(query, rows.get(own, []), span), at_s)

    def _group(self, value: str) -> tuple[str, ...]:
        """The label values of its group, its own included; empty if it is not known."""
        # Identical objects compare equal without a look inside.
        pipelines = tuple(self._pipelines())
        if pipelines != self._grouped[0]:
            ordered = sorted({self._identity.of(pipeline) for pipeline in pipelines})
            groups = [tuple(ordered[at : at + GROUP]) for at in range(0, len(ordered), GROUP)]
            self._grouped = (pipelines, {each: group for group in groups for each in group})
        return self._grouped[1].get(value, ())


def widened(query: Query, identity: str, group: tuple[str, ...]) -> Query:
    """Return the query for all of the group, by the labels that tell them apart; buckets for a quantile.

    Namespaces and predictor numbers differ within a group, so `narrowed` selects them.
    """
    asked = query.selector
    labels = {name: value for name, value in asked.labels.items() if name != identity}
    selector = Selector(asked.metric, labels, among={identity: group})
    by = (identity, *asked.where_said, *asked.numbered, *query.by)
    if isinstance(query, Quantile):
        return Rate(selector, query.window_s, ("le", *by))
    return replace(query, selector=selector, by=by)


def _kind(query: Query, identity: str) -> tuple[Hashable, ...]:
    """A key that is equal for queries that widen to the same one; their text is long, so it is made late."""
    asked = query.selector
    labels = tuple(item for item in asked.labels.items() if item[0] != identity)
    window_s = query.window_s if isinstance(query, Rate | Quantile) else 0.0
    names = (*asked.where_said, *asked.numbered, *query.by)
    return type(query).__name__, asked.metric, labels, window_s, names


def narrowed(query: Query, rows: Sequence[_Row], span: Span) -> list[Any]:
    """Return Prometheus' answer to the query alone, from the group's rows; InputError for invalid rows."""
    found: dict[tuple[str, ...], list[_Row]] = defaultdict(list)
    for row in rows:
        if query.selector.selects({**query.selector.labels, **row.labels}):
            found[tuple(row.labels.get(name, "") for name in query.by)].append(row)
    key = "value" if span is None else "values"
    result = []
    for labels, of_labels in found.items():
        samples = _combined(query, of_labels)
        metric = {name: value for name, value in zip(query.by, labels, strict=True) if value}
        result.append({"metric": metric, key: samples[0] if span is None else samples})
    return result


def _combined(query: Query, rows: Sequence[_Row]) -> Sequence[Any]:
    """The aggregation of several series by the query."""
    if len(rows) == 1 and not isinstance(query, Quantile):
        return rows[0].samples
    if len({tuple(sorted(row.labels.items())) for row in rows}) < len(rows):
        raise InputError("several series where one was expected")
    at: dict[float, list[tuple[Mapping[str, str], float]]] = defaultdict(list)
    try:
        for row in rows:
            for at_s, text in row.samples:
                at[float(at_s)].append((row.labels, float(text)))
    except (TypeError, ValueError) as error:
        raise InputError("a series that is not times and numbers") from error
    return [[at_s, repr(aggregate(query, at[at_s]))] for at_s in sorted(at)]


def _by_value(result: Sequence[Any], identity: str, span: Span) -> dict[str, list[_Row]]:
    """The series by pipeline; InputError for a series without labels."""
    found: dict[str, list[_Row]] = defaultdict(list)
    try:
        for series in result:
            labels = series["metric"]
            samples = [series["value"]] if span is None else series["values"]
            found[labels.get(identity, "")].append(_Row(labels, samples))
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError("a series that is not labels, times and numbers") from error
    return found
