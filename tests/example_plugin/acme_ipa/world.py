"""A world: a backup takes part of the machine in the second half of a run."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from ipa.library import SimSetup, SlowPeriod


def backup(setup: SimSetup, ratio: float = 1.3) -> SimSetup:
    """All batches take `ratio` times as long from half of the run on."""
    half_s = len(setup.rates_rps) / 2
    return replace(setup, slow=(*setup.slow, SlowPeriod(half_s, inf, ratio)))
