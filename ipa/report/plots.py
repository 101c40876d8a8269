"""The plots of a report: series, limits, bands and marks, in one set of colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Points = Sequence[tuple[float, float]]

# Okabe and Ito's colours: distinct for the colour-blind, and in print.
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#6b7280"


@dataclass(frozen=True, slots=True)
class Line:
    """One series. `style` is matplotlib's: "-" a line, "." dots, "step" steps."""

    label: str
    points: Points
    colour: str = BLUE
    style: str = "-"


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot: its series, a horizontal limit, a band between two series, and marks at moments."""

    title: str
    y_label: str
    lines: Sequence[Line]
    x_label: str = "seconds"
    limit: tuple[str, float] | None = None
    band: tuple[str, Points, Points] | None = None
    marks: Sequence[float] = field(default=())
    y_max: float | None = None
    # True if the axis begins at zero; else it begins with the values.
    from_zero: bool = True
