"""Slowdown: the observed service time of a variant over its profile's."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


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
