"""Quantities with their units: "500ms", "20rps", "1GiB".

Decimal arithmetic, so that "227.1ms" and "0.2271s" are the same float and what is written reads back.
"""

from __future__ import annotations

import re
from decimal import Decimal

DURATION_UNITS = {"ms": Decimal("0.001"), "s": Decimal(1), "min": Decimal(60)}
RATE_UNITS = {"rps": Decimal(1)}
MEMORY_UNITS = {"MiB": Decimal(1) / 1024, "GiB": Decimal(1)}

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?(?:e-?[0-9]{1,2})?) ?([A-Za-z]+)")


def _parse(text: str, units: dict[str, Decimal]) -> float:
    found = _QUANTITY.fullmatch(text)
    if found is None or found[2] not in units:
        raise ValueError(f"{text!r} is not a number with one of the units {', '.join(units)}")
    return float(Decimal(found[1]) * units[found[2]])


def parse_duration_s(text: str) -> float:
    """Seconds of "500ms", "2s" or "1.5min"; ValueError for anything else."""
    return _parse(text, DURATION_UNITS)


def parse_rate_rps(text: str) -> float:
    """Requests (or items) a second of "20rps"; ValueError for anything else."""
    return _parse(text, RATE_UNITS)


def parse_memory_gib(text: str) -> float:
    """GiB of "512MiB" or "1.5GiB"; ValueError for anything else."""
    return _parse(text, MEMORY_UNITS)


def _plain(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration_s` reads back as this float: ms below a second."""
    value = Decimal(repr(float(seconds)))
    if 0 < value < 1:
        return f"{_plain(value * 1000)}ms"
    return f"{_plain(value)}s"


def format_rate(rate_rps: float) -> str:
    """The text that `parse_rate_rps` reads back as this float."""
    return f"{_plain(Decimal(repr(float(rate_rps))))}rps"


def format_memory(memory_gib: float) -> str:
    """The text that `parse_memory_gib` reads back as this float."""
    return f"{_plain(Decimal(repr(float(memory_gib))))}GiB"


def format_number(value: float) -> int | float:
    """The number as files write it: 4 rather than 4.0."""
    return int(value) if float(value).is_integer() else float(value)
