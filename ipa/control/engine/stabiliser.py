"""Up at once, down slowly: what is not needed now must have been better for some ticks in a row."""

from __future__ import annotations

from ipa.model.plan import Plan


def remember(window: tuple[Plan, ...], plan: Plan, ticks: int) -> tuple[Plan, ...]:
    """The window with the newest plan, no longer than `ticks`."""
    return (*window, plan)[-max(ticks, 1) :]


def ripe(window: tuple[Plan, ...], ticks: int) -> Plan | None:
    """The most careful of the lower plans, that of the highest rate, once the window is `ticks` long."""
    if len(window) < ticks:
        return None
    return max(reversed(window), key=lambda plan: plan.rate_rps)
