"""Every PromQL text of the project: four shapes, written here and read back by the built-in server.

    Rate      sum by (LABEL) (rate(METRIC{...}[5s]))
    Quantile  histogram_quantile(0.99, sum by (le, LABEL) (rate(METRIC_bucket{...}[15s])))
    Gauge     sum by (LABEL) (METRIC{...})
    Age       time() - min by (LABEL) (timestamp(METRIC{...}))

LABEL is left out where a single value is asked for; there may be several. A matcher NAME=~"VALUE|" is for a
label that series may lack, NAME=~"VALUE(-[0-9]+)?" for a value that may have a number behind it,
NAME=~"VALUE|OTHER" for one of several. Sums make one of several series
(replicas, terminated pods that were scraped till now); ages take the oldest, since a sum is as old as its
oldest part. No user text is ever PromQL: names are fixed, label values are escaped. Beside them there is NOW,
by which the server's clock is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

NOW = "time()"
# What may be behind a numbered value.
NUMBER = "(-[0-9]+)?"


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric's name and the label values it must have; those `where_said` only where it has the label.

    A `numbered` value may have a number behind it: default, default-2, default-3. A label `among`
    several has any of those values, none of which is empty.
    """

    metric: str
    labels: Mapping[str, str]
    where_said: Mapping[str, str] = field(default_factory=dict)
    numbered: Mapping[str, str] = field(default_factory=dict)
    among: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __str__(self) -> str:
        inside = [f'{name}="{_escape(value)}"' for name, value in self.labels.items()]
        # A series without the label matches the empty alternative.
        inside += [f'{name}=~"{_escape(_literal(value))}|"' for name, value in self.where_said.items()]
        inside += [f'{name}=~"{_escape(_literal(value))}{NUMBER}"' for name, value in self.numbered.items()]
        inside += [f'{name}=~"{_escape(_either(values))}"' for name, values in self.among.items()]
        return f"{self.metric}{{{','.join(inside)}}}"

    def selects(self, labels: Mapping[str, str]) -> bool:
        """Whether it asks for a series with those labels."""
        said = all(labels.get(name, value) == value for name, value in self.where_said.items())
        counted = all(
            re.fullmatch(_literal(value) + NUMBER, labels.get(name, ""))
            for name, value in self.numbered.items()
        )
        one = all(labels.get(name) in values for name, values in self.among.items())
        return said and counted and one and self.labels.items() <= labels.items()


@dataclass(frozen=True, slots=True)
class Rate:
    """Events a second of a counter, the mean over `window_s`; by labels or summed."""

    selector: Selector
    window_s: float
    by: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"sum{_by(self.by)} (rate({self.selector}[{duration(self.window_s)}]))"


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile of a histogram over `window_s`; NaN where nothing was observed in it."""

    quantile: float
    selector: Selector
    window_s: float
    by: tuple[str, ...] = ()

    def __str__(self) -> str:
        rate = f"rate({self.selector}[{duration(self.window_s)}])"
        return f"histogram_quantile({self.quantile!r}, sum{_by(('le', *self.by))} ({rate}))"


@dataclass(frozen=True, slots=True)
class Gauge:
    """The newest value of a gauge; by labels or summed."""

    selector: Selector
    by: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"sum{_by(self.by)} ({self.selector})"


@dataclass(frozen=True, slots=True)
class Age:
    """Seconds since the oldest of the newest samples, by the server's own clock; by labels or over all."""

    selector: Selector
    by: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"time() - min{_by(self.by)} (timestamp({self.selector}))"


Query = Rate | Quantile | Gauge | Age

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
            return _query(shape, match)
    return None


def duration(seconds: float) -> str:
    """A PromQL duration: whole seconds, or milliseconds where they are not whole."""
    return f"{seconds:.0f}s" if float(seconds).is_integer() else f"{round(seconds * 1000)}ms"


def _query(shape: str, match: re.Match[str]) -> Query | None:
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


Found = tuple[dict[str, str], dict[str, str], dict[str, str], dict[str, tuple[str, ...]]]


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(text.split(", ")) if text else ()


def _labels(text: str) -> Found | None:
    """The label values of a selector's inside: plain, where said, numbered, among; None for anything else."""
    labels: dict[str, str] = {}
    where_said: dict[str, str] = {}
    numbered: dict[str, str] = {}
    among: dict[str, tuple[str, ...]] = {}
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
        else:
            said = tuple(map(_meant, _alternatives(value)))
            if value != _either(said):
                return None
            if said[1:] == ("",):
                where_said[name] = said[0]
            else:
                among[name] = said
        position = match.end()
    return labels, where_said, numbered, among


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}


def _escape(value: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in value)


def _unescape(value: str) -> str:
    back = {escaped: character for character, escaped in _ESCAPES.items()}
    return re.sub(r"\\.", lambda match: back.get(match[0], match[0]), value)


def _literal(value: str) -> str:
    """The regular expression that matches just that value."""
    # As Go's QuoteMeta does it.
    return re.sub(r"[\\.+*?()|\[\]{}^$]", lambda match: f"\\{match[0]}", value)


def _alternatives(pattern: str) -> list[str]:
    """What is between bars that are none of the values' own."""
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


def _either(values: tuple[str, ...]) -> str:
    """The regular expression that matches just those values."""
    return "|".join(map(_literal, values))


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""
