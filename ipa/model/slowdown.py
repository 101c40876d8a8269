"""How many times its profile a variant takes where it runs now."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Slowdown:
    """The variant's batches take `ratio` times what its profile says; 1 is as measured."""

    stage: str
    variant: str
    ratio: float


# Those that are not 1, each variant once, in the order of the pipeline: equal ones are one key.
Slowdowns = tuple[Slowdown, ...]
AS_MEASURED: Slowdowns = ()


def ratios_of(slowdowns: Iterable[Slowdown], stage: str) -> dict[str, float]:
    """The ratios of a stage's variants, by name; one that is not in it is 1."""
    return {each.variant: each.ratio for each in slowdowns if each.stage == stage}
