"""The times that a stage is expected to take, as queues tell the router and the router tells queues."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# The id that a cluster's orchestrator gives to each request, and passes on to every stage.
PUID_HEADER = "seldon-puid"
# In a queue's answer: the times of a request that comes now.
EXPECTED_HEADER = "ipa-expected-ms"
# In a queue's answer: the time from the arrival of the request to its answer.
TOOK_HEADER = "ipa-took-ms"
# In a request to a queue: the time that is left of the SLA, where that is not the time budget.
AIM_HEADER = "ipa-aim-ms"
# In a request to a queue: the times of all later stages together.
AHEAD_HEADER = "ipa-ahead-ms"
# In a request to a queue: how many requests come to the pipeline for each that comes to the stage, while
# some are lost on the way.
ASKED_HEADER = "ipa-asked-ratio"
# In the router's request to the last queue: the name of the pipeline, as which it answers.
NAME_HEADER = "ipa-model-name"
# In every answer: where its time went, as browsers show it.
TIMING_HEADER = "server-timing"
# A stage that tells nothing for this long may have changed: without an end, what it told could keep away the
# requests whose answers would correct it.
KEPT_S = 2.0
# Three of each stage, and a few more.
MAX_TIMES = 256
# Where hardly any request arrives, what comes for each of them is a matter of chance.
MOST_ASKED_RATIO = 16.0
# On an idle machine a request and its answer take 2 to 5 ms between router and queue.
USUAL_HOP_S = 0.02


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Times of a request in a stage, or in several together.

    `wait_s` until a batch takes it, 0 while no other requests compete for the place; `usual_s` and `least_s`
    from then to the answer.
    """

    wait_s: float = 0.0
    usual_s: float = 0.0
    least_s: float = 0.0

    def after(self, age_s: float) -> StageTimes:
        """The times `age_s` later: what waits is being served; none after `KEPT_S`."""
        if age_s > KEPT_S:
            return UNKNOWN
        return StageTimes(max(0.0, self.wait_s - age_s), self.usual_s, self.least_s)

    def with_hop(self, hop_s: float) -> StageTimes:
        """The times if requests take that long between router and queue: beyond the usual they wait."""
        wait_s = max(0.0, hop_s - USUAL_HOP_S)
        return StageTimes(self.wait_s + wait_s, self.usual_s + max(0.0, hop_s - wait_s), self.least_s)

    def to_header(self) -> str:
        """As a header: milliseconds by name."""
        wait_ms, usual_ms, least_ms = 1000 * self.wait_s, 1000 * self.usual_s, 1000 * self.least_s
        return f"wait={wait_ms:.3f}, usual={usual_ms:.3f}, least={least_ms:.3f}"


UNKNOWN = StageTimes()


def total(times: Iterable[StageTimes]) -> StageTimes:
    """The times of stages one after the other."""
    wait_s = usual_s = least_s = 0.0
    for each in times:
        wait_s, usual_s, least_s = wait_s + each.wait_s, usual_s + each.usual_s, least_s + each.least_s
    return StageTimes(wait_s, usual_s, least_s)


def server_timing(seconds: Mapping[str, float]) -> str:
    """Return the `Server-Timing` header (milliseconds) of the times by name."""
    return ", ".join(f"{name};dur={max(0.0, value) * 1000:.3f}" for name, value in seconds.items())


def parse_timing(text: str | None) -> dict[str, float]:
    """Return the seconds by name of a `Server-Timing` header; of an invalid one those that are understood."""
    found = {}
    for entry in (text or "").split(",")[:MAX_TIMES]:
        name, _, value = entry.strip().partition(";dur=")
        if (seconds := parse_ms(value)) is not None and name:
            found[name] = seconds
    return found


def parse_ms(text: str | None) -> float | None:
    """The seconds in a header of milliseconds; None without one or if it is invalid."""
    try:
        seconds = float(text) / 1000 if text else math.nan
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def parse_ratio(text: str | None) -> float:
    """The ratio in a header, at least 1; 1 without one or if it is invalid."""
    try:
        ratio = float(text) if text else 1.0
    except ValueError:
        return 1.0
    return min(max(1.0, ratio), MOST_ASKED_RATIO)


def parse_times(text: str | None) -> StageTimes:
    """The times in a header; `UNKNOWN` without one or if it is invalid: it only advises."""
    if not text:
        return UNKNOWN
    found = dict.fromkeys(("wait", "usual", "least"), 0.0)
    for entry in text.split(",")[: len(found)]:
        name, _, value = entry.strip().partition("=")
        seconds = parse_ms(value)
        if name not in found or seconds is None:
            return UNKNOWN
        found[name] = seconds
    return StageTimes(found["wait"], found["usual"], found["least"])
