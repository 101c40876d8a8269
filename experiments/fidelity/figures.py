"""The figures that are compared, and by how much they differ."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Figures:
    """Latencies of the answered requests, the share of all that were answered within the SLA, and cost."""

    latency_p50_s: float
    latency_p99_s: float
    within_sla_ratio: float
    accuracy: float
    core_seconds: float


def figures_of(
    latencies_s: NDArray[np.float64], sla_s: float, accuracy: float, core_seconds: float
) -> Figures:
    """The figures of a run; a latency that is NaN is that of a lost request."""
    p50, p99 = np.nanquantile(latencies_s, (0.5, 0.99))
    within = float(np.mean(latencies_s <= sla_s))
    return Figures(float(p50), float(p99), within, accuracy, core_seconds)


def mean_of(runs: list[Figures]) -> Figures:
    """The means over several runs."""
    return Figures(**{it.name: fmean(getattr(run, it.name) for run in runs) for it in fields(Figures)})


def compared(real: Figures, simulated: list[Figures]) -> list[dict[str, Any]]:
    """A row a figure: real, the mean of the simulated runs with their least and most, relative difference."""
    mean = asdict(mean_of(simulated))
    rows = []
    for name, value in asdict(real).items():
        values = [asdict(run)[name] for run in simulated]
        rows.append(
            {
                "figure": name,
                "real": value,
                "simulated": mean[name],
                "simulated_least": min(values),
                "simulated_most": max(values),
                "difference_ratio": mean[name] / value - 1 if value else None,
            }
        )
    return rows
