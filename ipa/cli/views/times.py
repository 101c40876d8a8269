"""Times for people: local, as on the page and in the log. Programs get UTC in ISO 8601."""

from __future__ import annotations

from datetime import datetime


def date_time(at: str) -> str:
    """The local date and time of an ISO 8601 time, to the second."""
    return f"{datetime.fromisoformat(at).astimezone():%Y-%m-%d %H:%M:%S}"


def time_of_day(at: str) -> str:
    """The local time of day of an ISO 8601 time, to the second."""
    return f"{datetime.fromisoformat(at).astimezone():%H:%M:%S}"
