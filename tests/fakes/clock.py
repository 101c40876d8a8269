"""Ends a loop that runs on the virtual clock."""

from __future__ import annotations

from dataclasses import dataclass

from ipa.control.clock import VirtualClock


@dataclass
class StopAt:
    """Set once the virtual clock has reached a time."""

    clock: VirtualClock
    at_s: float

    def is_set(self) -> bool:
        return self.clock.monotonic_s() >= self.at_s
