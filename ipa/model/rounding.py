"""Rounding to the precision of the record, and times in words."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, TypeVar

from ipa.model.observation import Forecast
from ipa.model.plan import Plan, StagePlan

T = TypeVar("T", Forecast, Plan, StagePlan)

# A millionth of an SLA or of a load is below the resolution of any metric, and each digit is stored every
# tick.
TEXT = "%.5g"
# Durations and times have millisecond precision.
MS_DIGITS = 3


def significant(value: float) -> float:
    """Return the value with five significant digits."""
    return float(TEXT % value)


def to_ms(time_s: float) -> float:
    """Return a time or a duration in whole milliseconds."""
    return round(time_s, MS_DIGITS)


def moment_to_ms(at: datetime) -> datetime:
    """Return the moment rounded down to the millisecond."""
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def rounded_forecast(forecast: Forecast) -> Forecast:
    """Return the forecast in significant digits."""
    rates_rps = tuple(significant(rate) for rate in forecast.rates_rps)
    return replace(_rounded(forecast, "point_rps", "upper_rps", "quality_ratio"), rates_rps=rates_rps)


def rounded_plan(plan: Plan) -> Plan:
    """Return the plan with its predicted times, and their causes, in significant digits.

    Configurations, rates, capacities and objectives stay exact: they are compared with the running ones.
    """
    times = ("latency_s", "queue_delay_s", "utilisation_ratio", "mean_s", "excess_s")
    return replace(
        _rounded(plan, "bound", "gap", "latency_s"),
        solve_s=to_ms(plan.solve_s),
        stages=tuple(_rounded(stage, *times) for stage in plan.stages),
    )


def _rounded(value: T, *fields: str) -> T:
    """The value with its fields of a known precision in significant digits."""
    known = ((name, getattr(value, name)) for name in fields)
    digits: dict[str, Any] = {name: significant(number) for name, number in known if number is not None}
    return replace(value, **digits)


def in_utc(at: datetime) -> str:
    """The time in words that are the same for every reader, such as 2026-01-31 12:00:00 UTC."""
    return f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
