"""Findings of `ipa doctor`, and the checks that make them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

from ipa.model.errors import IpaError

# A smaller difference between two clocks does no harm: samples are some seconds apart.
NOTABLE_SKEW_S = 5.0
SET_CLOCK = "timedatectl set-ntp true   (on the machine whose clock is wrong)"


class Severity(StrEnum):
    """The severity of a finding."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of a check: its observation, and the remedy as a command or in words."""

    name: str
    state: Severity
    seen: str
    remedy: str = ""


Look = Callable[[], Iterable[Finding]]


@dataclass(frozen=True, slots=True)
class DoctorCheck:
    """A check of `ipa doctor`. It is skipped if the check that `after` names failed.

    Checks with the same `turn` run one after another: computing at the same time would make each late.
    """

    name: str
    look: Look
    after: str = ""
    turn: str = ""
    # Seconds that it may take; None for the limit of the others.
    timeout_s: float | None = None


def ok(name: str, observed: str) -> Finding:
    """A finding without a fault."""
    return Finding(name, Severity.OK, observed)


def warn(name: str, observed: str, remedy: str = "") -> Finding:
    """A finding of something that works only in part."""
    return Finding(name, Severity.WARN, observed, remedy)


def fail(name: str, observed: str, remedy: str = "") -> Finding:
    """A finding of something that does not work."""
    return Finding(name, Severity.FAIL, observed, remedy)


def failed(name: str, error: IpaError, remedy: str = "") -> Finding:
    """The error as a finding, with all its problems; the hint of the error unless a `remedy` is given."""
    observed = "; ".join([error.message, *map(str, error.problems)])
    return fail(name, observed, remedy or error.hint)


def skew_finding(name: str, whose: str, skew_s: float) -> Finding:
    """The finding about a clock that is `skew_s` ahead of ours."""
    observed = f"{whose} clock is {skew_s:+.1f} s from ours"
    return ok(name, observed) if abs(skew_s) < NOTABLE_SKEW_S else warn(name, observed, SET_CLOCK)
