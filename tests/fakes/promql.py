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
from ipa.model.errors import InputError, NotFoundError

# Prometheus' own limit on the points of one series.
MAX_STEPS = 11_000
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
    """The `data` of the answer to a request of the API.

    InputError for parameters or queries that are not understood, NotFoundError for another path.
    """
    if path == "/api/v1/query" and parameters.get("query") == NOW:
        return {"resultType": "scalar", "result": [now_s, _text(now_s)]}
    if path == "/api/v1/query":
        query, at_s = _query(parameters), _seconds(parameters, "time", now_s)
        answers = store.answer(query, at_s).items()
        result = [{"metric": _metric(query, key), "value": [at_s, _text(value)]} for key, value in answers]
        return {"resultType": "vector", "result": result}
    if path == "/api/v1/query_range":
        query = _query(parameters)
        start_s, end_s, step_s = (_seconds(parameters, name) for name in ("start", "end", "step"))
        if step_s <= 0 or end_s < start_s or (end_s - start_s) / step_s > MAX_STEPS:
            raise InputError(
                f"a range needs a step above 0, an end after its start, at most {MAX_STEPS} steps"
            )
        series: dict[Key, list[list[Any]]] = {}
        for step in range(math.floor((end_s - start_s) / step_s) + 1):
            at_s = start_s + step * step_s
            for key, value in store.answer(query, at_s).items():
                series.setdefault(key, []).append([at_s, _text(value)])
        result = [{"metric": _metric(query, key), "values": values} for key, values in series.items()]
        return {"resultType": "matrix", "result": result}
    raise NotFoundError(f"{path} is not answered")


def _query(parameters: Mapping[str, str]) -> Query:
    text = parameters.get("query", "")
    query = parse(text)
    if query is None:
        raise InputError(
            f"the fake does not know the query {text!r}",
        )
    return query


def _seconds(parameters: Mapping[str, str], name: str, default: float | None = None) -> float:
    text = parameters.get(name)
    if text is None and default is not None:
        return default
    try:
        value = float(text or "")
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{name}={text!r} is not a number of seconds")
    return value


def _metric(query: Query, key: Key) -> dict[str, str]:
    return {name: value for name, value in zip(query.by, key, strict=True) if value}


def _text(value: float) -> str:
    """A value as Prometheus writes it."""
    if math.isnan(value):
        return "NaN"
    return f"{'+' if value > 0 else '-'}Inf" if math.isinf(value) else repr(value)
