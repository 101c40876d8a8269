"""Answers the project's own queries over Prometheus' HTTP API, from the series of the built-in scraper.

It reads back the shapes of `ipa.adapters.prometheus.queries` and no other PromQL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ipa.adapters.prometheus.queries import (
    ANYTHING,
    NOW,
    NUMBER,
    OPTIONAL,
    Matcher,
    Query,
    QueryShape,
    Selector,
)
from ipa.adapters.prometheus.scraper import SeriesStore

_PER_S = {"ms": 1000, "s": 1}
_SELECTOR = r"(?P<metric>[a-zA-Z_:][a-zA-Z0-9_:]*)\{(?P<labels>(?:[^\"}]|\"(?:[^\"\\]|\\.)*\")*)\}"
_LABEL = re.compile(r'(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)(?P<how>=~?)"(?P<value>(?:[^"\\]|\\.)*)"(?:,|$)')
_BY = r"(?: by \((?P<by>[a-zA-Z_][a-zA-Z0-9_]*(?:, [a-zA-Z_][a-zA-Z0-9_]*)*)\))?"
_WINDOW = r"\[(?P<window>\d+)(?P<unit>ms|s)\]"
_SHAPES = {
    QueryShape.SAMPLES: re.compile(rf"{_SELECTOR}{_WINDOW}"),
    QueryShape.RATE: re.compile(rf"sum{_BY} \(rate\({_SELECTOR}{_WINDOW}\)\)"),
    QueryShape.GAUGE: re.compile(rf"sum{_BY} \({_SELECTOR}\)"),
    QueryShape.AGE: re.compile(rf"time\(\) - min{_BY} \(timestamp\({_SELECTOR}\)\)"),
}


def parse(text: str) -> Query | None:
    """The query of which this is the text; None for any other PromQL."""
    for shape, pattern in _SHAPES.items():
        if match := pattern.fullmatch(text):
            found = match.groupdict()
            window_s = int(found["window"]) / _PER_S[found["unit"]] if "window" in found else 0.0
            by = tuple(found["by"].split(", ")) if found.get("by") else ()
            matchers = tuple(map(_matcher, _LABEL.finditer(match["labels"])))
            query = Query(shape, Selector(match["metric"], matchers), by, window_s)
            return query if str(query) == text else None
    return None


def _matcher(match: re.Match[str]) -> Matcher:
    value = re.sub(r"\\(.)", lambda escape: "\n" if escape[1] == "n" else escape[1], match["value"])
    if match["how"] == "=":
        return Matcher(match["name"], (value,))
    ending = next((each for each in (OPTIONAL, NUMBER, ANYTHING) if value.endswith(each)), "")
    literals = [""]
    for each in re.findall(r"\\.|.", value.removesuffix(ending), re.DOTALL):
        if each == "|":
            literals.append("")
        else:
            literals[-1] += each[-1]
    return Matcher(match["name"], tuple(literals), ending)


def respond(store: SeriesStore, path: str, parameters: Mapping[str, str], now_s: float) -> dict[str, Any]:
    """The `data` of the answer to a request of the API, which is one of the project's own."""
    if path == "/api/v1/query" and parameters["query"] == NOW:
        return {"resultType": "vector", "result": [{"metric": {}, "value": [now_s, _text(now_s)]}]}
    query = parse(parameters["query"])
    assert query is not None, f"the fake does not know the query {parameters['query']!r}"
    assert path == "/api/v1/query", path
    is_samples = query.shape is QueryShape.SAMPLES
    result: list[dict[str, Any]] = []
    for key, samples in store.rows(query, float(parameters.get("time", now_s))).items():
        pairs = (label.split("=", 1) for label in key) if is_samples else zip(query.by, key, strict=True)
        metric = {name: value for name, value in pairs if value}
        points = [[at_s, _text(value)] for at_s, value in samples]
        each = {"values": points} if is_samples else {"value": points[0]}
        result.append({"metric": metric, **each})
    return {"resultType": "matrix" if is_samples else "vector", "result": result}


def _text(value: float) -> str:
    """A value as Prometheus writes it."""
    if math.isnan(value):
        return "NaN"
    return f"{'+' if value > 0 else '-'}Inf" if math.isinf(value) else repr(value)
