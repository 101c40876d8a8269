"""Parsers of option values; UsageError names the option."""

from __future__ import annotations

from enum import StrEnum
from typing import TypeVar

from ipa.model.errors import UsageError


def duration_s(option: str, text: str) -> float:
    """The seconds of a duration such as 90s; UsageError names the option."""
    from ipa.files.quantities import parse_duration_s

    try:
        return parse_duration_s(text)
    except ValueError as error:
        raise UsageError(f"{option} {error}", hint="For example 90s or 30min") from error


# More rates than this in one sweep are a typo.
MOST_RATES = 10_000


E = TypeVar("E", bound=StrEnum)


def parse_rates(text: str) -> list[float]:
    """The rates of `first:last[:step]` (both ends in) or of a list `1,2,5`; UsageError otherwise."""
    try:
        numbers = [float(part) for part in text.replace(":", ",").split(",")]
    except ValueError:
        numbers = []
    if not numbers or (":" in text and ("," in text or not 2 <= len(numbers) <= 3)):
        raise UsageError(
            f"--rates {text!r} is not a range or list of rates", hint="Use 1:45, 1:45:2 or 1,2,5"
        )
    if ":" not in text:
        return numbers
    first, last, step = numbers if len(numbers) == 3 else (*numbers, 1.0)
    if not (step > 0 and 0 <= last - first < MOST_RATES * step):
        raise UsageError(f"--rates {text!r} has no rates, or more than {MOST_RATES}")
    # By multiplication: 0.1 added ten times is not 1.
    return [first + step * index for index in range(int((last - first) / step + 1e-9) + 1)]


def choice_of(option: str, text: str, kind: type[E]) -> E:
    """The member of that name; UsageError names those there are."""
    if text not in list(kind):
        raise UsageError(f"{option} {text!r} is not known", hint=f"Use one of: {', '.join(kind)}")
    return kind(text)
