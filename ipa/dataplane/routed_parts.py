"""Configurations of a pipeline side by side, as its router knows them: shares, stages, requests in flight."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Any

import orjson

from ipa.dataplane import http
from ipa.dataplane.expectation import UNKNOWN, StageTimes
from ipa.dataplane.metrics import RouterMetrics
from ipa.dataplane.passage import Passage

# How far the next request's place is from the last one's, as a part of all: no other number spreads places
# more evenly, and requests that repeat in a pattern do not meet the same part each time.
STRIDE = (sqrt(5) - 1) / 2
WHOLE_PERCENT = 100
ALONE: Mapping[str, int] = {http.FIRST_PART: WHOLE_PERCENT}


@dataclass(slots=True)
class RoutedStage:
    """A stage: its name, the URL of its queue, and what the queue told last of its times, and when."""

    name: str
    url: str
    told: StageTimes = UNKNOWN
    told_at_s: float = 0.0


class RoutedPart:
    """One of the configurations side by side: its share, its stages, its requests and their metrics."""

    def __init__(self, name: str, stages: Sequence[RoutedStage], metrics: RouterMetrics) -> None:
        self.share_percent = 0
        self.stages = [RoutedStage(stage.name, stage.url) for stage in stages]
        self.passage = Passage(len(stages))
        self.metrics = metrics.of_part(name)
        self.headers = {} if name == http.FIRST_PART else {http.PART_HEADER: name}


class RoutedParts:
    """The parts of a pipeline by their names, each with its share of the requests."""

    def __init__(
        self, stages: Sequence[RoutedStage], metrics: RouterMetrics, shares: Mapping[str, int]
    ) -> None:
        self._stages, self._metrics = stages, metrics
        self._parts: dict[str, RoutedPart] = {}
        self._place = 0.0
        self.share(shares)

    def share(self, shares: Mapping[str, int]) -> None:
        """Give the parts these percents of the requests from now on; parts without any are forgotten."""
        for name in shares.keys() - self._parts.keys():
            self._parts[name] = RoutedPart(name, self._stages, self._metrics)
        for name, part in list(self._parts.items()):
            part.share_percent = shares.get(name, 0)
            if name not in shares and not part.passage.in_flight:
                del self._parts[name]

    def to_json(self) -> dict[str, Any]:
        """The shares in percent, and the requests on their way, by part."""
        parts = self._parts.items()
        return {
            "shares": {name: part.share_percent for name, part in parts if part.share_percent},
            "in_flight": {name: part.passage.in_flight for name, part in parts},
        }

    def choose(self) -> RoutedPart:
        """The part of the next request: of any number of requests in a row each has nearly its share."""
        self._place = (self._place + STRIDE) % 1.0
        percent = self._place * WHOLE_PERCENT
        *others, last = (part for part in self._parts.values() if part.share_percent)
        for part in others:
            percent -= part.share_percent
            if percent < 0:
                return part
        return last


@dataclass(frozen=True, slots=True)
class RouterOrder:
    """An order to a router: shares by part, and the SLA with the time to drop; None keeps what it has."""

    shares: Mapping[str, int] | None = None
    times_s: tuple[float, float] | None = None


def parse_order(body: bytes) -> RouterOrder:
    """The order of a PUT; HttpError 422 says what is wrong with it."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise http.HttpError(400, "input", f"the body is not JSON: {error}") from error
    times = {"sla_s", "drop_after_s"}
    if not isinstance(given, dict) or given.keys() not in ({"shares"}, times, {"shares", *times}):
        raise http.HttpError(422, "input", "the body must have shares, or sla_s and drop_after_s, or all")
    shares = parse_shares(given["shares"]) if "shares" in given else None
    if "sla_s" not in given:
        return RouterOrder(shares)
    times_s = given["sla_s"], given["drop_after_s"]
    if not all(type(it) in (int, float) and 0 < it < inf for it in times_s):
        raise http.HttpError(422, "input", "sla_s and drop_after_s must be seconds above 0 and finite")
    return RouterOrder(shares, times_s)


def parse_shares(shares: Any) -> Mapping[str, int]:
    """The percents by part; HttpError 422: they are none, or not 100 in all."""
    is_valid = (
        isinstance(shares, dict)
        and all(name in http.PARTS for name in shares)
        and all(type(percent) is int and percent > 0 for percent in shares.values())
        and sum(shares.values()) == WHOLE_PERCENT
    )
    if not isinstance(shares, dict) or not is_valid:
        words = f"by part ({', '.join(http.PARTS)}), {WHOLE_PERCENT} in all"
        raise http.HttpError(422, "input", f"shares must be whole percents {words}")
    return shares
