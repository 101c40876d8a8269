"""The expected times of requests: at stages, through the whole pipeline, and at a busy router."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

# The id that a cluster's orchestrator gives to each request, and passes on to every stage.
PUID_HEADER = "seldon-puid"
# In a queue's answer: the times of a request that comes now.
EXPECTED_HEADER = "ipa-expected-ms"
# In a queue's answer: the time from the arrival of the request to its answer.
TOOK_HEADER = "ipa-took-ms"
# In a request to a queue: the time that is left of the SLA, if that is not the time budget.
AIM_HEADER = "ipa-aim-ms"
# In a request to a queue: the times of all later stages together.
AHEAD_HEADER = "ipa-ahead-ms"
# In a request to a queue: how many requests come to the pipeline for each that comes to the stage, while
# some are lost on the way.
ARRIVALS_HEADER = "ipa-asked-ratio"
# In the router's request to the last queue: the name of the pipeline, as which it answers.
NAME_HEADER = "ipa-model-name"
# In every answer: where its time went, as browsers show it.
TIMING_HEADER = "server-timing"
# In a queue's answer: the variants that made it. In the router's: those of each stage, as `detect=small`.
VARIANTS_HEADER = "ipa-variants"
# A stage that tells nothing for this long may have changed: without an end, what it told could keep away the
# requests whose answers would correct it.
KEPT_S = 2.0
# Three of each stage, and a few more.
MAX_TIMES = 256
# Where hardly any request arrives, what comes for each of them is a matter of chance.
MOST_ARRIVALS_RATIO = 16.0
# On an idle machine a request and its answer take 2 to 5 ms between router and queue.
USUAL_HOP_S = 0.02
# A loss counts for this long.
COUNTED_S = 1.0
# The event loop is asked this often, and the longest of this many last answers counts: what is read after a
# stop has waited through it, what comes later has not. Each answer costs a loop that does little 0.05 ms.
LAG_EVERY_S = 0.02
LAGS_REMEMBERED = 3


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Times of a request in one stage, or in several stages together.

    `wait_s` is the time until a batch takes it, 0 if no other requests wait; `usual_s` and `least_s` are the
    usual and the least time from then to the answer. `each_s` is by how much each request that is there
    delays those behind it, in full batches: 0 if it is unknown, or of several stages.
    """

    wait_s: float = 0.0
    usual_s: float = 0.0
    least_s: float = 0.0
    each_s: float = 0.0

    def after(self, age_s: float) -> StageTimes:
        """The times `age_s` after the report: the wait is shorter by `age_s`; `UNKNOWN` after `KEPT_S`."""
        if age_s > KEPT_S:
            return UNKNOWN
        return StageTimes(max(0.0, self.wait_s - age_s), self.usual_s, self.least_s, self.each_s)

    def with_hop(self, hop_s: float) -> StageTimes:
        """The times with this hop between router and queue: its excess over the usual hop counts as wait."""
        wait_s = max(0.0, hop_s - USUAL_HOP_S)
        usual_s = self.usual_s + max(0.0, hop_s - wait_s)
        return StageTimes(self.wait_s + wait_s, usual_s, self.least_s, self.each_s)

    def to_header(self) -> str:
        """The times as a header, in the form of `Server-Timing`."""
        return server_timing({name: getattr(self, f"{name}_s") for name in NAMES})


UNKNOWN = StageTimes()
NAMES = ("wait", "usual", "least", "each")


def total(times: Iterable[StageTimes]) -> StageTimes:
    """The times of stages one after the other."""
    wait_s = usual_s = least_s = 0.0
    for one in times:
        wait_s, usual_s, least_s = wait_s + one.wait_s, usual_s + one.usual_s, least_s + one.least_s
    return StageTimes(wait_s, usual_s, least_s)


def server_timing(seconds: Mapping[str, float]) -> str:
    """Return the `Server-Timing` header (milliseconds) of the times by name."""
    return ", ".join(f"{name};dur={max(0.0, value) * 1000:.3f}" for name, value in seconds.items())


def parse_timing(text: str | None) -> dict[str, float]:
    """Return the seconds by name of a `Server-Timing` header, without entries that are invalid."""
    entries = (entry.strip().partition(";dur=") for entry in (text or "").split(",")[:MAX_TIMES])
    times = {name: parse_ms(value) for name, _, value in entries if name}
    return {name: seconds for name, seconds in times.items() if seconds is not None}


def parse_ms(text: str | None) -> float | None:
    """The seconds in a header of milliseconds; None without a valid header."""
    try:
        seconds = float(text) / 1000 if text else math.nan
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def parse_ratio(text: str | None) -> float:
    """The ratio in a header, at least 1; 1 without a valid header."""
    try:
        ratio = float(text) if text else 1.0
    except ValueError:
        return 1.0
    return min(max(1.0, ratio), MOST_ARRIVALS_RATIO)


def parse_times(text: str | None) -> StageTimes:
    """The times in a header, 0 for each that is invalid, since the header is only advice."""
    times = parse_timing(text)
    return StageTimes(*(times.get(name, 0.0) for name in NAMES))


class LoopLag:
    """The lag of the running event loop, measured from the first `measure` until `stop`."""

    def __init__(self) -> None:
        self._lags_s: deque[float] = deque(maxlen=LAGS_REMEMBERED)
        self._timer: asyncio.TimerHandle | None = None
        self._is_wanted = False

    def measure(self) -> float:
        """Return the longest recent lag, and keep measuring."""
        self._is_wanted = True
        if self._timer is None:
            self._measure_next(asyncio.get_running_loop())
        return max(self._lags_s, default=0.0)

    def _measure_next(self, loop: asyncio.AbstractEventLoop) -> None:
        due_s = loop.time() + LAG_EVERY_S

        def note() -> None:
            self._lags_s.append(max(0.0, loop.time() - due_s))
            if self._is_wanted:
                self._is_wanted = False
                self._measure_next(loop)
            else:
                self.stop()

        self._timer = loop.call_later(LAG_EVERY_S, note)

    def stop(self) -> None:
        """Stop measuring, and discard the measurements."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        self._lags_s.clear()


class Passage:
    """Counts requests on their way, and those that come for each that reaches a stage while some are lost."""

    def __init__(self, stages: int = 1) -> None:
        # The requests that were admitted and have not ended.
        self.in_flight = 0
        # When requests came to the pipeline, and to each of its stages, in the last COUNTED_S.
        self._came_s: deque[float] = deque()
        self._entered_s: list[deque[float]] = [deque() for _ in range(stages)]
        self._lost_s = -math.inf

    def come(self, now_s: float) -> None:
        """Count a request that arrives at the pipeline."""
        self._came_s.append(now_s)
        _forget(self._came_s, now_s)

    def arrivals_ratio(self, stage: int, now_s: float) -> float:
        """The requests that arrive at the pipeline for each one sent to the stage, this one included.

        1 while no request is lost or refused.
        """
        entered_s = self._entered_s[stage]
        entered_s.append(now_s)
        _forget(entered_s, now_s)
        _forget(self._came_s, now_s)
        return max(1.0, len(self._came_s) / len(entered_s)) if now_s - self._lost_s <= COUNTED_S else 1.0

    def lose(self, now_s: float) -> None:
        """Record that a request was refused, or became too late on the way."""
        self._lost_s = now_s


def _forget(times_s: deque[float], now_s: float) -> None:
    """Drop times older than COUNTED_S."""
    while times_s and times_s[0] <= now_s - COUNTED_S:
        times_s.popleft()
