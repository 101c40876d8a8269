"""The queries to a metrics server: four shapes, and their text in PromQL.

    Rate      sum by (LABEL) (rate(METRIC{...}[5s]))
    Quantile  histogram_quantile(0.99, sum by (le, LABEL) (rate(METRIC_bucket{...}[15s])))
    Gauge     sum by (LABEL) (METRIC{...})
    Age       time() - min by (LABEL) (timestamp(METRIC{...}))

There may be several LABELs, or none for a single value. The matcher NAME=~"VALUE|" is for a label that series
may lack, NAME=~"VALUE(-[0-9]+)?" for a value that may end in a number, NAME=~"VALUE|OTHER" for one of several
values. Sums aggregate several series (replicas, terminated pods that were scraped until now); ages take the
oldest, since a sum is as old as its oldest part. No user text becomes PromQL: names are fixed, label values
are escaped. The fifth query, NOW, reads the server's clock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

NOW = "time()"
# The suffix of a numbered value.
NUMBER = "(-[0-9]+)?"


@dataclass(frozen=True, slots=True)
class Selector:
    """A metric's name and its label values. Labels in `where_said` may be absent from a series.

    A `numbered` value may end in a number: default, default-2, default-3. A label in `among` has any of
    several values, none of which is empty. One in `starting` has a value that begins so.
    """

    metric: str
    labels: Mapping[str, str]
    where_said: Mapping[str, str] = field(default_factory=dict)
    numbered: Mapping[str, str] = field(default_factory=dict)
    among: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    starting: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        inside = [f'{name}="{_escape(value)}"' for name, value in self.labels.items()]
        # A series without the label matches the empty alternative.
        inside += [f'{name}=~"{_escape(_literal(value))}|"' for name, value in self.where_said.items()]
        inside += [f'{name}=~"{_escape(_literal(value))}{NUMBER}"' for name, value in self.numbered.items()]
        inside += [f'{name}=~"{_escape(_either(values))}"' for name, values in self.among.items()]
        inside += [f'{name}=~"{_escape(_literal(value))}.*"' for name, value in self.starting.items()]
        return f"{self.metric}{{{','.join(inside)}}}"

    def selects(self, labels: Mapping[str, str]) -> bool:
        """True if it matches a series with these labels."""
        said = all(labels.get(name, value) == value for name, value in self.where_said.items())
        counted = all(
            re.fullmatch(_literal(value) + NUMBER, labels.get(name, ""))
            for name, value in self.numbered.items()
        )
        one = all(labels.get(name) in values for name, values in self.among.items())
        begun = all(labels.get(name, "").startswith(value) for name, value in self.starting.items())
        return said and counted and one and begun and self.labels.items() <= labels.items()


@dataclass(frozen=True, slots=True)
class Rate:
    """The events per second of a counter, the mean over `window_s`; by labels or summed."""

    selector: Selector
    window_s: float
    by: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"sum{_by(self.by)} (rate({self.selector}[{duration(self.window_s)}]))"


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile of a histogram over `window_s`; NaN without observations."""

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
    """The seconds since the oldest of the newest samples, by the server's clock; by labels or over all."""

    selector: Selector
    by: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"time() - min{_by(self.by)} (timestamp({self.selector}))"


Query = Rate | Quantile | Gauge | Age


def duration(seconds: float) -> str:
    """Return the PromQL duration: whole seconds, or milliseconds if they are not whole."""
    return f"{seconds:.0f}s" if float(seconds).is_integer() else f"{round(seconds * 1000)}ms"


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}


def _escape(value: str) -> str:
    return "".join(_ESCAPES.get(character, character) for character in value)


def _literal(value: str) -> str:
    """The regular expression that matches exactly this value."""
    # As Go's QuoteMeta does it.
    return re.sub(r"[\\.+*?()|\[\]{}^$]", lambda match: f"\\{match[0]}", value)


def _either(values: tuple[str, ...]) -> str:
    """The regular expression that matches exactly these values."""
    return "|".join(map(_literal, values))


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""
