"""The count of ticks without load, and the start and end of the declared fall-back."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ipa.model.forecast import Forecast
from ipa.model.pipeline import Fallback


@dataclass(frozen=True, slots=True)
class TelemetryLoss:
    """The ticks in a row without and with a valid load, and True if the fall-back is in force.

    It begins after `after_ticks` ticks without load and ends after `recover_ticks` ticks with load in a row:
    a metrics server that fails now and then does not toggle it.
    """

    blind_ticks: int = 0
    seen_ticks: int = 0
    in_fallback: bool = False

    def unseen(self, fallback: Fallback | None) -> TelemetryLoss:
        """The state after one more tick without load."""
        blind_ticks = self.blind_ticks + 1
        begins = fallback is not None and blind_ticks >= fallback.after_ticks
        return TelemetryLoss(blind_ticks, 0, self.in_fallback or begins)

    def seen(self, fallback: Fallback | None) -> TelemetryLoss:
        """The state after one more tick with load."""
        seen_ticks = self.seen_ticks + 1
        goes_on = self.in_fallback and fallback is not None and seen_ticks < fallback.recover_ticks
        return TelemetryLoss(0, seen_ticks, goes_on)


TELEMETRY_SEEN = TelemetryLoss()


def fallback_forecast(fallback: Fallback, seen: Forecast | None = None) -> Forecast:
    """The forecast of the fall-back: its declared rate, or the observed one if that is higher."""
    if seen is None:
        return Forecast(fallback.rate_rps, fallback.rate_rps, 1.0, 0.0, "fall-back", 0.0)
    return replace(seen, upper_rps=max(seen.upper_rps, fallback.rate_rps))
