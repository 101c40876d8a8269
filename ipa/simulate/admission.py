"""The router's refusal of requests that could not be in time behind those that wait, in virtual time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import numpy as np

from ipa.simulate.columns import Bools, Floats


@dataclass(frozen=True, slots=True)
class StageCapacity:
    """Requests a second that a stage carries, those that it serves or has in a next batch, its usual time."""

    rate_rps: float
    at_once: float
    usual_s: float


class Admission:
    """Refuses what would be older than `deadline_s` at its end.

    The stage of the least capacity decides: `_backlog_s` is the time that it takes for all that was admitted.
    A request is admitted if that and the usual times of all stages leave it in time, or if it would compete
    with no other for a place.
    """

    def __init__(self, deadline_s: float) -> None:
        self.deadline_s = deadline_s
        # Time per request, and the most that the backlog may be, from each moment on.
        self._limits: list[tuple[float, float, float]] = []
        self._backlog_s, self._at_s = 0.0, 0.0

    def set_stages(self, at_s: float, stages: Mapping[str, StageCapacity]) -> None:
        """Judge by these stages from `at_s` on; earlier calls for `at_s` or later are overridden."""
        self._limits = [limit for limit in self._limits if limit[0] < at_s]
        least = min(stages.values(), key=lambda stage: stage.rate_rps)
        if least.rate_rps > 0:
            request_s = 1 / least.rate_rps
            usual_s = sum(stage.usual_s for stage in stages.values())
            most_s = max(self.deadline_s - usual_s, least.at_once * request_s)
            self._limits.append((at_s, request_s, most_s))
        else:
            # Without replicas all wait for them.
            self._limits.append((at_s, 0.0, inf))

    def refused(self, times_s: Floats) -> Bools:
        """True for the requests of these arrivals that are refused; times rise from call to call."""
        refused = np.zeros(len(times_s), dtype=np.bool_)
        starts_s = [limit[0] for limit in self._limits]
        edges = [0, *np.searchsorted(times_s, starts_s[1:]).tolist(), len(times_s)] if starts_s else []
        for place, (_, request_s, most_s) in enumerate(self._limits):
            first, stop = edges[place], edges[place + 1]
            refused[first:stop] = self._judge(times_s[first:stop].tolist(), request_s, most_s)
        if len(times_s):
            # Limits of the past are not needed any more.
            past = int(np.searchsorted(starts_s, times_s[-1], side="right")) - 1
            self._limits = self._limits[max(past, 0) :]
        return refused

    def _judge(self, times_s: list[float], request_s: float, most_s: float) -> list[bool]:
        backlog_s, before_s = self._backlog_s, self._at_s
        refused = []
        for at_s in times_s:
            backlog_s = max(0.0, backlog_s - (at_s - before_s))
            before_s = at_s
            is_refused = backlog_s > most_s
            if not is_refused:
                backlog_s += request_s
            refused.append(is_refused)
        self._backlog_s, self._at_s = backlog_s, before_s
        return refused
