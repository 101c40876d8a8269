"""The forecast of a pipeline's load."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Forecast:
    """The peak arrival rate expected over `horizon_s`: a point and an upper quantile.

    A rate is a mean over `peak_s`, the shortest peak that counts. `rung` is the forecaster of the ladder that
    has the largest part in it, `weights` the parts of all, `steps_down` the reasons why others have none;
    `quality_ratio` is 1 for a full window without gaps.
    """

    point_rps: float
    upper_rps: float
    quantile: float
    horizon_s: float
    rung: str
    quality_ratio: float
    steps_down: tuple[str, ...] = ()
    peak_s: float = 1.0
    weights: tuple[tuple[str, float], ...] = ()
