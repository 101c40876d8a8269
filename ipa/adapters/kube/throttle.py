"""The gate of backoff.py for threads: a call that may not be sent yet waits here, or fails at once."""

from __future__ import annotations

import math
import random
import threading
from datetime import timedelta

from ipa.adapters.kube.backoff import Gate, Limits
from ipa.control.ports import Clock
from ipa.model.errors import UnavailableError


class Throttle:
    """The throttle of all calls of a client: `enter`, then one of `answered`, `pushed_back` and `lost`."""

    def __init__(self, clock: Clock, limits: Limits, seed: int | None = None) -> None:
        self._clock = clock
        self._gate = Gate(limits)
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
                wait_s = self._gate.wait_s(now_s)
                if wait_s <= 0.0:
                    self._gate = self._gate.taken(now_s)
                    return now_s
                if math.isinf(wait_s):
                    # Another's request tells; it ends by its own deadline.
                    if now_s >= until_s or not self._changed.wait(until_s - now_s):
                        raise UnavailableError(
                            f"{what}: not sent: the API server has not answered an earlier request"
                        )
                    continue
            if now_s + wait_s > until_s:
                raise self._not_yet(what, wait_s)
            self._clock.wait(wait_s)

    def answered(self, sent_s: float) -> None:
        """Record a response."""
        with self._changed:
            self._gate = self._gate.answered(sent_s, self._clock.monotonic_s())
            self._changed.notify_all()

    def pushed_back(self, sent_s: float, retry_after_s: float | None) -> None:
        """Back off after a 429 or 503, for the Retry-After if there is one."""
        with self._changed:
            now_s, draw = self._clock.monotonic_s(), self._random.random()
            self._gate = self._gate.pushed_back(sent_s, now_s, retry_after_s, draw)
            self._changed.notify_all()

    def lost(self, sent_s: float) -> None:
        """Record a request without a response."""
        with self._changed:
            self._gate = self._gate.lost(sent_s, self._clock.monotonic_s(), self._random.random())
            self._changed.notify_all()

    def _not_yet(self, what: str, wait_s: float) -> UnavailableError:
        at = (self._clock.now() + timedelta(seconds=wait_s)).strftime("%H:%M:%S")
        return UnavailableError(
            f"{what}: not sent: backing off from the API server until {at} UTC, for another {wait_s:.1f} s"
        )
