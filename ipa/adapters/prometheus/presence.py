"""Checks of a Prometheus: that it answers, its clock, and the pipeline's series that it has."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ipa.adapters.prometheus.queries import NOW, Age, Selector
from ipa.adapters.prometheus.transport import CheckedSession
from ipa.model.errors import InputError


@dataclass(frozen=True, slots=True)
class Presence:
    """The series of a selector: by label value, the age in seconds of the oldest of the newest samples.

    If there are none, `others` are the values that `label` has in series of the same metric.
    """

    ages_s: Mapping[str, float]
    label: str = ""
    others: tuple[str, ...] = ()


class Asker:
    """The client of these checks. Errors: UnavailableError (no answer), InputError (invalid answer)."""

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url = f"{url.rstrip('/')}/api/v1/query"
        self._session = CheckedSession(timeout_s)

    def skew_s(self) -> float:
        """Return the seconds by which its clock is ahead of ours, exact to half of the round trip."""
        sent_s = time.time()
        result = self._ask(NOW)
        middle_s = (sent_s + time.time()) / 2
        try:
            return float(result[0]) - middle_s
        except (IndexError, TypeError, ValueError) as error:
            raise InputError("its answer to the query time() is not a number") from error

    def presence(self, selector: Selector, by: str = "") -> Presence:
        """Return the series of the selector, by one label, or together under ""."""
        ages_s = self._ages(Age(selector, (by,) if by else ()))
        if ages_s or not selector.labels:
            return Presence(ages_s)
        label = next(iter(selector.labels))
        others = self._ages(Age(Selector(selector.metric, {}), (label,)))
        return Presence({}, label, tuple(sorted(others)))

    def _ages(self, query: Age) -> dict[str, float]:
        try:
            return {
                str(series["metric"].get(*query.by, "") if query.by else ""): float(series["value"][1])
                for series in self._ask(str(query))
            }
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise InputError("a series that is not a label, a time and a number") from error

    def _ask(self, query: str) -> list[Any]:
        answer = self._session.get(self._url, params={"query": query}).json()
        result: list[Any] = answer["data"]["result"]
        return result
