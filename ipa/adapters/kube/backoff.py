"""Earliest time of the next request to the API server, for all calls of one client (`Throttle`).

Three rules. What the server asks for with Retry-After is kept. Without it the wait doubles with every
failure in a row, and half of it is jitter, so that clients that failed together do not come back together.
After a failure one request at a time tries whether the server answers again, and then requests are let out
at a steady rate for a while, however many have gathered.
"""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

from ipa.control.ports import Clock
from ipa.model.errors import UnavailableError

# Longer than that is no pushback but a mistake: it would end the control of every pipeline.
LONGEST_RETRY_AFTER_S = 3600.0
# Of what was asked for, so much on top, drawn anew by each client; at most LONGEST_SPREAD_S.
SPREAD_RATIO = 0.25
LONGEST_SPREAD_S = 2.0


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits that double. The longest is below a call's deadline, so that a server is found soon again."""

    first_s: float = 0.5
    longest_s: float = 8.0

    def delay_s(self, failures: int, draw: float) -> float:
        """The wait after so many failures in a row (0: none); `draw` in [0, 1) is the jitter."""
        if failures <= 0:
            return 0.0
        # From 2^40 on it is the longest anyhow, and must not overflow.
        whole_s = min(self.longest_s, self.first_s * 2.0 ** min(failures - 1, 40))
        return whole_s * (0.5 + 0.5 * draw)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one client after an outage: `rate_per_s` for `slow_s`, then none.

    In quiet times the server's own fairness decides, and says so with 429. `slow_s` is longer than a tick:
    by then every loop that failed has come back.
    """

    rate_per_s: float = 20.0
    slow_s: float = 15.0
    backoff: Backoff = Backoff()


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait by Retry-After, a number or a date by the server's clock; None if it is neither."""
    text = headers.get("Retry-After", "").strip()
    if not text:
        return None
    if text.isascii() and text.isdecimal():
        # Not more digits than a float holds.
        return float(text[:12])
    until, now = http_date(text), http_date(headers.get("Date", ""))
    if until is None or now is None:
        return None
    return max((until - now).total_seconds(), 0.0)


def http_date(text: str) -> datetime | None:
    """The time that an HTTP date says, None where it is none."""
    if not text:
        return None
    try:
        found = parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    # "-0000" and no zone at all are no statement of UTC.
    return found if found.tzinfo is not None else None


class Throttle:
    """The gate that all requests of a client pass: `enter`, then one of `answered`, `pushed_back` and `lost`.

    Times are of the clock's monotonic seconds. `failures` came in a row.
    """

    def __init__(self, clock: Clock, limits: Limits, seed: int | None = None) -> None:
        self._clock, self._limits = clock, limits
        self.failures = 0
        # The latest failure was learnt then; nothing goes out before the second one.
        self._failed_s = self._not_before_s = -math.inf
        # Until then requests go at the limits' rate, the next one at the second one.
        self._slow_until_s = self._next_s = -math.inf
        # One request is out to see whether the server answers again.
        self._is_trying = False
        self._changed = threading.Condition()
        # Without a seed each client draws its own: two replicas must not come back together.
        self._random = random.Random(seed)

    def enter(self, what: str, patience_s: float) -> float:
        """Wait until the request may be sent, at most so long, and return that time.

        UnavailableError at once where it would take longer, saying until when.
        """
        until_s = self._clock.monotonic_s() + patience_s
        while True:
            with self._changed:
                now_s = self._clock.monotonic_s()
                wait_s = self._wait_s(now_s)
                if wait_s <= 0.0:
                    self._is_trying = self.failures > 0
                    self._next_s = now_s + 1.0 / self._limits.rate_per_s
                    return now_s
                if math.isinf(wait_s):
                    # Another's request tells; it ends by its own deadline.
                    if now_s >= until_s or not self._changed.wait(until_s - now_s):
                        raise UnavailableError(
                            f"{what}: not sent: the API server has not answered an earlier request"
                        )
                    continue
            if now_s + wait_s > until_s:
                at = (self._clock.now() + timedelta(seconds=wait_s)).strftime("%H:%M:%S")
                raise UnavailableError(
                    f"{what}: not sent: backing off from the API server until {at} UTC, "
                    f"for another {wait_s:.1f} s"
                )
            self._clock.wait(wait_s)

    def _wait_s(self, now_s: float) -> float:
        """Seconds until a request may go, 0 for now; infinite while another tries whether anything goes."""
        if now_s < self._not_before_s:
            return self._not_before_s - now_s
        if self._is_trying:
            return math.inf
        if self.failures or now_s >= self._slow_until_s:
            return 0.0
        return max(0.0, self._next_s - now_s)

    def answered(self, sent_s: float) -> None:
        """Record a response, good or bad. One to a request before the latest failure says nothing new."""
        with self._changed:
            if self.failures and sent_s >= self._failed_s:
                now_s = self._clock.monotonic_s()
                # Those who waited must not all go at once. Where nobody had to wait there was no outage.
                if self._not_before_s > self._failed_s:
                    self._slow_until_s = now_s + self._limits.slow_s
                self.failures, self._is_trying, self._not_before_s = 0, False, -math.inf
                self._next_s = now_s + 1.0 / self._limits.rate_per_s
            self._changed.notify_all()

    def pushed_back(self, sent_s: float, retry_after_s: float | None) -> None:
        """Back off after a 429 or 503, for the Retry-After if there is one."""
        asked_s = None if retry_after_s is None else min(max(retry_after_s, 0.0), LONGEST_RETRY_AFTER_S)
        self._fail(sent_s, asked_s, harmless=0)

    def lost(self, sent_s: float) -> None:
        """Record a request without a response. One is no outage: there is a wait from the second on."""
        self._fail(sent_s, None, harmless=1)

    def _fail(self, sent_s: float, asked_s: float | None, harmless: int) -> None:
        with self._changed:
            now_s, draw = self._clock.monotonic_s(), self._random.random()
            # Requests that were out together fail together: that is one failure, not as many.
            is_new = sent_s >= self._failed_s
            if is_new or not self.failures:
                self.failures += 1
            if is_new:
                self._failed_s, self._is_trying = now_s, False
            wait_s = self._limits.backoff.delay_s(self.failures - harmless, draw)
            if asked_s is not None:
                wait_s = asked_s + draw * min(SPREAD_RATIO * asked_s, LONGEST_SPREAD_S)
            self._not_before_s = max(self._not_before_s, now_s + wait_s)
            self._changed.notify_all()
