"""Answers the project's own queries over Prometheus' HTTP API, from the series of the built-in scraper.

It reads back the four shapes of `ipa.adapters.prometheus.queries` and no other PromQL.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ipa.adapters.prometheus.queries import (
    _ESCAPES,
    NOW,
    NUMBER,
    Age,
    Gauge,
    Quantile,
    Query,
    Rate,
    Selector,
    _either,
    _literal,
)
from ipa.adapters.prometheus.series import Key, SeriesStore

_PER_S = {"ms": 1000, "s": 1}
_SELECTOR = r"(?P<metric>[a-zA-Z_:][a-zA-Z0-9_:]*)\{(?P<labels>(?:[^\"}]|\"(?:[^\"\\]|\\.)*\")*)\}"
_WINDOW = r"\[(?P<window>\d+)(?P<unit>ms|s)\]"
_LABEL = re.compile(r'(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)(?P<how>=~?)"(?P<value>(?:[^"\\]|\\.)*)"(?:,|$)')
_NAMES = r"[a-zA-Z_][a-zA-Z0-9_]*(?:, [a-zA-Z_][a-zA-Z0-9_]*)*"
_BY = rf"(?: by \((?P<by>{_NAMES})\))?"
_SHAPES = {
    "rate": re.compile(rf"sum{_BY} \(rate\({_SELECTOR}{_WINDOW}\)\)"),
    "quantile": re.compile(
        r"histogram_quantile\((?P<quantile>[0-9.e-]+), "
        rf"sum by \(le(?:, (?P<by>{_NAMES}))?\) \(rate\({_SELECTOR}{_WINDOW}\)\)\)"
    ),
    "gauge": re.compile(rf"sum{_BY} \({_SELECTOR}\)"),
    "age": re.compile(rf"time\(\) - min{_BY} \(timestamp\({_SELECTOR}\)\)"),
}


def parse(text: str) -> Query | None:
    """The query of which this is the text; None for any other PromQL."""
    for shape, pattern in _SHAPES.items():
        match = pattern.fullmatch(text.strip())
        if match:
            return _shaped(shape, match)
    return None


def _shaped(shape: str, match: re.Match[str]) -> Query | None:
    labels = _labels(match["labels"])
    if labels is None:
        return None
    selector, by = Selector(match["metric"], *labels), _names(match["by"])
    if shape == "gauge":
        return Gauge(selector, by)
    if shape == "age":
        return Age(selector, by)
    window_s = int(match["window"]) / _PER_S[match["unit"]]
    if shape == "rate":
        return Rate(selector, window_s, by)
    try:
        return Quantile(float(match["quantile"]), selector, window_s, by)
    except ValueError:
        return None


Found = tuple[dict[str, str], dict[str, str], dict[str, str], dict[str, tuple[str, ...]], dict[str, str]]
ANYTHING = ".*"


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(text.split(", ")) if text else ()


def _labels(text: str) -> Found | None:
    """The label values of a selector's inside: plain, where said, numbered, among, starting.

    None for anything else.
    """
    labels: dict[str, str] = {}
    where_said: dict[str, str] = {}
    numbered: dict[str, str] = {}
    among: dict[str, tuple[str, ...]] = {}
    starting: dict[str, str] = {}
    position = 0
    while position < len(text):
        match = _LABEL.match(text, position)
        if match is None:
            return None
        name, value = match["name"], _unescape(match["value"])
        if match["how"] == "=":
            labels[name] = value
        elif value.endswith(NUMBER):
            numbered[name] = _meant(value.removesuffix(NUMBER))
            if value != _literal(numbered[name]) + NUMBER:
                return None
        elif value.endswith(ANYTHING):
            starting[name] = _meant(value.removesuffix(ANYTHING))
            if value != _literal(starting[name]) + ANYTHING:
                return None
        else:
            said = tuple(map(_meant, _alternatives(value)))
            if value != _either(said):
                return None
            if said[1:] == ("",):
                where_said[name] = said[0]
            else:
                among[name] = said
        position = match.end()
    return labels, where_said, numbered, among, starting


def _unescape(value: str) -> str:
    back = {escaped: character for character, escaped in _ESCAPES.items()}
    return re.sub(r"\\.", lambda match: back.get(match[0], match[0]), value)


def _alternatives(pattern: str) -> list[str]:
    """The text between bars that is none of the values' own."""
    found = [""]
    for each in re.findall(r"\\.|.", pattern, re.DOTALL):
        if each == "|":
            found.append("")
        else:
            found[-1] += each
    return found


def _meant(pattern: str) -> str:
    """The value of which this is the literal."""
    return re.sub(r"\\(.)", r"\1", pattern, flags=re.DOTALL)


def respond(store: SeriesStore, path: str, parameters: Mapping[str, str], now_s: float) -> dict[str, Any]:
    """The `data` of the answer to a request of the API, which is one of the project's own."""
    if path == "/api/v1/query" and parameters["query"] == NOW:
        return {"resultType": "scalar", "result": [now_s, _text(now_s)]}
    query = parse(parameters["query"])
    assert query is not None, f"the fake does not know the query {parameters['query']!r}"
    if path == "/api/v1/query":
        at_s = float(parameters.get("time", now_s))
        answers = store.answer(query, at_s).items()
        result = [{"metric": _metric(query, key), "value": [at_s, _text(value)]} for key, value in answers]
        return {"resultType": "vector", "result": result}
    assert path == "/api/v1/query_range", path
    start_s, end_s, step_s = (float(parameters[name]) for name in ("start", "end", "step"))
    series: dict[Key, list[list[Any]]] = {}
    for step in range(math.floor((end_s - start_s) / step_s) + 1):
        at_s = start_s + step * step_s
        for key, value in store.answer(query, at_s).items():
            series.setdefault(key, []).append([at_s, _text(value)])
    result = [{"metric": _metric(query, key), "values": values} for key, values in series.items()]
    return {"resultType": "matrix", "result": result}


def _metric(query: Query, key: Key) -> dict[str, str]:
    return {name: value for name, value in zip(query.by, key, strict=True) if value}


def _text(value: float) -> str:
    """A value as Prometheus writes it."""
    if math.isnan(value):
        return "NaN"
    return f"{'+' if value > 0 else '-'}Inf" if math.isinf(value) else repr(value)
