"""Skew between the API server's clock and ours, from the Date of its responses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta

# Dates are whole seconds, rounded down.
RESOLUTION = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Skew:
    """The server's clock is between `low_s` and `high_s` ahead of ours."""

    low_s: float = -math.inf
    high_s: float = math.inf

    @property
    def estimate_s(self) -> float | None:
        """The middle of the bounds; None before the first response.

        The error is at most half a second plus half a round trip.
        """
        return (self.low_s + self.high_s) / 2 if math.isfinite(self.low_s) else None

    def narrowed(self, date: datetime, sent: datetime, received: datetime) -> Skew:
        """Narrow the bounds by a response with that Date, sent and received by our clock.

        Answers bound it more and more closely (as NTP does with round trips); one that contradicts those
        before it shows that a clock was set, and counts alone.
        """
        low_s = (date - received).total_seconds()
        high_s = (date + RESOLUTION - sent).total_seconds()
        if high_s < low_s:
            # Our own clock was set back while the answer was under way.
            return self
        both = Skew(max(low_s, self.low_s), min(high_s, self.high_s))
        return both if both.low_s <= both.high_s else Skew(low_s, high_s)
