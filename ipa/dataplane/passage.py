"""The requests on their way through a pipeline: how long the next would take behind them."""

from __future__ import annotations

import math
from collections import deque

# A loss counts for this long.
COUNTED_S = 1.0
# The rate of answers is that of so many, as far as they are of the last second: before a step of the load
# few were asked for. Where there are fewer than LEAST_COUNTED in it, that of as many, of OLDEST_S at most.
COUNTED, COUNTED_FOR_S = 64, 1.0
LEAST_COUNTED, OLDEST_S = 8, 4.0


class Passage:
    """Counts requests in and out: on the mean they take their number over the rate of answers (Little's law).

    That is known at once, while what stages tell of their queues comes with answers. It is wrong for a load
    that just rose and is served: it is asked only while requests are lost on the way, or refused.
    """

    def __init__(self, stages: int = 1) -> None:
        self._in_flight = 0
        # When requests came to the pipeline, and to each of its stages, in the last COUNTED_S.
        self._came_s: deque[float] = deque()
        self._entered_s: list[deque[float]] = [deque() for _ in range(stages)]
        self._answered: deque[float] = deque(maxlen=COUNTED)
        self._lost_s = -math.inf

    @property
    def in_flight(self) -> int:
        """The requests that were admitted and have not ended."""
        return self._in_flight

    def come(self, now_s: float) -> None:
        """Note a request that comes to the pipeline."""
        self._came_s.append(now_s)
        _forget(self._came_s, now_s)

    def asked_ratio(self, stage: int, now_s: float) -> float:
        """The requests that came to the pipeline for each that comes to the stage, with this one.

        1 while none is lost or refused.
        """
        entered_s = self._entered_s[stage]
        entered_s.append(now_s)
        _forget(entered_s, now_s)
        _forget(self._came_s, now_s)
        return max(1.0, len(self._came_s) / len(entered_s)) if now_s - self._lost_s <= COUNTED_S else 1.0

    def enter(self) -> None:
        """Note a request that was admitted."""
        self._in_flight += 1

    def leave(self, now_s: float, *, is_answered: bool) -> None:
        """Note the end of a request that was admitted."""
        self._in_flight -= 1
        if is_answered:
            self._answered.append(now_s)

    def lose(self, now_s: float) -> None:
        """Note that a request was refused, or was late on its way."""
        self._lost_s = now_s

    def expected_s(self, now_s: float) -> float:
        """The time until the answer of a request that comes now; 0 while none is lost or refused."""
        answered = self._answered
        while answered and now_s - answered[0] >= (
            COUNTED_FOR_S if len(answered) > LEAST_COUNTED else OLDEST_S
        ):
            answered.popleft()
        if now_s - self._lost_s > COUNTED_S or not self._in_flight:
            return 0.0
        if not self._answered:
            return self._in_flight * OLDEST_S
        return self._in_flight * (now_s - self._answered[0]) / len(self._answered)


def _forget(times_s: deque[float], now_s: float) -> None:
    """Leave the times of the last COUNTED_S."""
    while times_s and times_s[0] <= now_s - COUNTED_S:
        times_s.popleft()
