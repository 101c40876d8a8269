"""Slowdown: the observed service time of a variant over its profile's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

# The bounds of a slowdown. Beyond the upper one a variant is broken: more replicas would not help.
LEAST_RATIO, MOST_RATIO = 0.5, 4.0


@dataclass(frozen=True, slots=True)
class Slowdown:
    """A variant's slowdown: its batches take `ratio` times its profile's time; 1 is as measured."""

    stage: str
    variant: str
    ratio: float


# The slowdowns other than 1, each variant once, in the order of the pipeline: equal values make equal keys.
Slowdowns = tuple[Slowdown, ...]
AS_MEASURED: Slowdowns = ()


def ratios_of(slowdowns: Iterable[Slowdown], stage: str) -> dict[str, float]:
    """The slowdowns of a stage's variants, by name; a variant that is not in it has 1."""
    return {each.variant: each.ratio for each in slowdowns if each.stage == stage}


@dataclass(frozen=True, slots=True)
class Calibration:
    """The slowdowns measured on this machine of variants whose profiles are of another one.

    `profiled_on` are the machines of these profiles, `machine` is this one; empty if it is unknown. `detail`
    says what was not measured, and why.
    """

    machine: str = ""
    profiled_on: tuple[str, ...] = ()
    slowdowns: Slowdowns = AS_MEASURED
    detail: str = ""

    def ratio(self, stage: str, variant: str) -> float:
        """The slowdown of the variant; 1 if it was not measured."""
        return ratios_of(self.slowdowns, stage).get(variant, 1.0)

    @property
    def words(self) -> str:
        """The calibration in words; empty if profiles are of this machine."""
        if not self.profiled_on:
            return ""
        profiles = f"the profiles were measured on {'; '.join(self.profiled_on)}"
        here = f"this is {self.machine}" if self.machine else ""
        ratios = ", ".join(f"{each.stage}={each.variant} {each.ratio:.2f} x" for each in self.slowdowns)
        return ", ".join(filter(None, (profiles, here, ratios and f"measured here: {ratios}", self.detail)))


UNCALIBRATED = Calibration()
