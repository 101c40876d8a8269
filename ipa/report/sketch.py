"""The plots of a report, as SVG text without matplotlib, which a service lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from math import floor, log10

Points = Sequence[tuple[float, float]]

# Okabe and Ito's colours: distinct for the colour-blind, and in print.
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#6b7280"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 820, 220, 58, 10, 30, 36
STEPS = (1, 2, 2.5, 5, 10)
# The approximate width of a letter of the legend, in pixels.
LETTER = 6.2


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


def sketch(plot: Plot) -> str:
    """The plot as an <svg> element. The same input gives the same text."""
    return "".join(_Sketch(plot).parts())


class _Sketch:
    def __init__(self, plot: Plot) -> None:
        self._plot = plot
        band = plot.band[1:] if plot.band else ()
        points = [point for line in (*(it.points for it in plot.lines), *band) for point in line]
        ys = [y for _, y in points] + ([plot.limit[1]] if plot.limit else [])
        self._x = _span([x for x, _ in points])
        low, high = _span([*ys, 0.0] if plot.from_zero else ys)
        self._y = low, plot.y_max or high + 0.05 * (high - low)

    def parts(self) -> Iterator[str]:
        """The element, piece by piece."""
        plot = self._plot
        label = escape(f"{plot.title}: {', '.join(line.label for line in plot.lines)}", quote=True)
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{label}" font-family="sans-serif" font-size="11" fill="#374151">'
        )
        yield f'<text x="{LEFT}" y="14" font-weight="600" font-size="12">{escape(plot.title)}</text>'
        yield from self._axes()
        yield from (_path(f"M{self._at_x(x)} {TOP}V{HEIGHT - BOTTOM}", GREY, 0.7, "2 3") for x in plot.marks)
        if plot.band:
            _, low, high = plot.band
            edge = [*high, *reversed(low)]
            yield f'<path d="{self._line(edge)}Z" fill="{ORANGE}" fill-opacity="0.22"/>' if edge else ""
        if plot.limit:
            yield _path(f"M{LEFT} {self._at_y(plot.limit[1])}H{WIDTH - RIGHT}", RED, 1.2, "5 3")
        yield from (self._drawn(line) for line in plot.lines)
        yield from self._legend()
        yield "</svg>"

    def _axes(self) -> Iterator[str]:
        for value in _ticks(*self._y, 4):
            y = self._at_y(value)
            yield _path(f"M{LEFT} {y}H{WIDTH - RIGHT}", "#e5e7eb", 1)
            yield f'<text x="{LEFT - 6}" y="{y + 4:g}" text-anchor="end">{value:g}</text>'
        for value in _ticks(*self._x, 8):
            x, y = self._at_x(value), HEIGHT - BOTTOM + 15
            yield f'<text x="{x}" y="{y}" text-anchor="middle">{value:g}</text>'
        middle = (TOP + HEIGHT - BOTTOM) / 2
        yield (
            f'<text x="14" y="{middle:g}" transform="rotate(-90 14 {middle:g})" text-anchor="middle">'
            f"{escape(self._plot.y_label)}</text>"
        )
        below = escape(self._plot.x_label)
        yield f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 5}" text-anchor="end">{below}</text>'

    def _legend(self) -> Iterator[str]:
        plot = self._plot
        named = [(line.label, line.colour) for line in plot.lines]
        named += [(plot.band[0], ORANGE)] if plot.band else []
        named += [(plot.limit[0], RED)] if plot.limit else []
        x = WIDTH - RIGHT - sum(26 + LETTER * len(name) for name, _ in named)
        for name, colour in named:
            yield f'<rect x="{x:g}" y="7" width="14" height="4" fill="{colour}"/>'
            yield f'<text x="{x + 18:g}" y="14">{escape(name)}</text>'
            x += 26 + LETTER * len(name)

    def _drawn(self, line: Line) -> str:
        if not line.points:
            return ""
        return _path(self._line(line.points, is_step=line.style == "step"), line.colour, 1.5)

    def _line(self, points: Points, *, is_step: bool = False) -> str:
        made = [(self._at_x(x), self._at_y(y)) for x, y in points]
        to = "".join(f"H{x}V{y}" if is_step else f"L{x} {y}" for x, y in made[1:])
        return f"M{made[0][0]} {made[0][1]}{to}"

    def _at_x(self, value: float) -> float:
        low, high = self._x
        return round(LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT), 1)

    def _at_y(self, value: float) -> float:
        low, high = self._y
        inside = min(max(value, low), high)
        return round(HEIGHT - BOTTOM - (inside - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)


def _path(d: str, colour: str, width: float, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path d="{d}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashed}/>'


def _span(values: list[float]) -> tuple[float, float]:
    """The range of the values; for one value, or none, a range around it."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    return (low, high) if high > low else (low, low + 1.0)


def _ticks(low: float, high: float, most: int) -> list[float]:
    """About `most` round values in the range."""
    raw = (high - low) / most
    unit = 10.0 ** floor(log10(raw))
    step = next(each * unit for each in STEPS if each * unit >= raw * (1 - 1e-9))
    first = -floor(-low / step - 1e-9) if low else 0
    return [round(step * at, 10) for at in range(first, floor(high / step + 1e-9) + 1)]
