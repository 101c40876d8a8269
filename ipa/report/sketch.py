"""The plots of every report, as SVG text without matplotlib, which a service lacks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from math import ceil, floor, log10

from ipa.report.stats import Mean

Points = Sequence[tuple[float, float]]

# Okabe and Ito's colours: distinct for the colour-blind, and in print.
BLUE, ORANGE, GREEN, RED, GREY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#6b7280"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 820, 156, 58, 14, 26, 36
# A line of the legend, and the least height of a named row.
LEGEND, ROW = 17, 22
STEPS = (1, 2, 2.5, 5, 10)
# The approximate width of a letter, in pixels.
LETTER = 6.2
# Colour never carries meaning alone: so has each series of dots a shape.
SHAPES = (
    "m-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0",
    "m-3.5-3.5h7v7h-7z",
    "m0-4.8l4.6 8h-9.2z",
    "m0-5l5 5l-5 5l-5-5z",
    "m0 4.8l4.6-8h-9.2z",
    "m-1.5-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
)


@dataclass(frozen=True, slots=True)
class Line:
    """One series. `style` is "-" a line, "--" a dashed one, "." dots or "step" steps."""

    label: str
    points: Points
    colour: str = BLUE
    style: str = "-"


@dataclass(frozen=True, slots=True)
class Dots:
    """One series of means with their intervals in both directions.

    Hollow ones, and those without a label, are not in the legend.
    """

    label: str
    places: Sequence[tuple[Mean, Mean]]
    colour: str = BLUE


@dataclass(frozen=True, slots=True)
class Plot:
    """One plot: its series, a horizontal limit, a band between two series, and marks at moments.

    With `rows` the vertical axis has these names from the top in place of numbers: row i is at i. `levels`
    are grey horizontal lines. `least_span` is the shortest of each axis: differences below it are noise.
    """

    title: str
    y_label: str
    lines: Sequence[Line] = ()
    x_label: str = "seconds"
    limit: tuple[str, float] | None = None
    band: tuple[str, Points, Points] | None = None
    marks: Sequence[float] = field(default=())
    y_max: float | None = None
    # True if the axis begins at zero; else it begins with the values.
    from_zero: bool = True
    dots: Sequence[Dots] = ()
    rows: Sequence[str] = ()
    levels: Sequence[float] = ()
    log_x: bool = False
    least_span: tuple[float, float] = (0.0, 0.0)


def sketch(plot: Plot) -> str:
    """The plot as an <svg> element. The same input gives the same text."""
    return "".join(_Sketch(plot).parts())


class _Sketch:
    def __init__(self, plot: Plot) -> None:
        self._plot = plot
        band = plot.band[1:] if plot.band else ()
        points = [point for line in (*(it.points for it in plot.lines), *band) for point in line]
        means = [place for each in plot.dots for place in each.places]
        xs = [x for x, _ in points] + [end for x, _ in means for end in (x.low, x.high)]
        ys = [y for _, y in points] + [end for _, y in means for end in (y.low, y.high)]
        ys += [plot.limit[1]] if plot.limit else []
        if means:
            xs += plot.marks
        x_span, y_span = plot.least_span
        # An interval may reach below zero, which is beyond any edge.
        self._x = _span([log10(x) for x in xs if x > 0] if plot.log_x else xs, x_span)
        if means:
            self._x = _wider(*self._x)
        low, high = _span([*ys, 0.0] if plot.from_zero else ys, y_span)
        self._y = low, plot.y_max or high + 0.05 * (high - low)
        if means and not plot.from_zero:
            self._y = _wider(low, high)
        height = HEIGHT
        if plot.rows:
            height = len(plot.rows) * max(ROW, 8 * len({each.label for each in plot.dots}) + 6)
            # The axis runs downwards.
            self._y = len(plot.rows) - 0.5, -0.5
        self._left = max(LEFT, 12 + round(LETTER * max(map(len, plot.rows), default=0)))
        self._legend = list(self._placed())
        self._top = TOP + LEGEND * (1 + max((row for _, row, *_ in self._legend), default=-1))
        self._bottom = self._top + height

    def parts(self) -> Iterator[str]:
        """The element, piece by piece."""
        plot = self._plot
        labels = [line.label for line in plot.lines] + [each.label for each in plot.dots if each.label]
        names = ", ".join(dict.fromkeys(labels))
        label = escape(f"{plot.title}: {names}", quote=True)
        yield (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._bottom + BOTTOM}" '
            f'role="img" aria-label="{label}" font-family="sans-serif" font-size="11" fill="#374151">'
        )
        yield f'<text x="{self._left}" y="14" font-weight="600" font-size="12">{escape(plot.title)}</text>'
        yield from self._axes()
        up = f"V{self._bottom}"
        yield from (_path(f"M{self._at_x(x)} {self._top}{up}", GREY, 0.8, "2 3") for x in plot.marks)
        yield from (_path(self._across(y), GREY, 0.8) for y in plot.levels)
        if plot.band:
            _, low, high = plot.band
            edge = [*high, *reversed(low)]
            yield f'<path d="{self._line(edge)}Z" fill="{ORANGE}" fill-opacity="0.22"/>' if edge else ""
        if plot.limit:
            yield _path(self._across(plot.limit[1]), RED, 1.2, "5 3")
        yield from (self._drawn(line) for line in plot.lines)
        for each in plot.dots:
            yield from self._dots(each)
        for x, row, name, colour, shape in self._legend:
            y = TOP + LEGEND * row
            yield (
                _shape(shape, x + 7, y, colour)
                if shape
                else f'<rect x="{x:g}" y="{y - 2}" width="14" height="4" fill="{colour}"/>'
            )
            yield f'<text x="{x + 18:g}" y="{y + 4}">{escape(name)}</text>'
        yield "</svg>"

    def _axes(self) -> Iterator[str]:
        plot, right = self._plot, WIDTH - RIGHT
        for row, name in enumerate(plot.rows):
            top, below = self._at_y(row - 0.5), self._at_y(row + 0.5)
            if row % 2 == 0:
                box = f'width="{right - self._left}" height="{below - top:g}"'
                yield f'<rect x="{self._left}" y="{top:g}" {box} fill="#f3f4f6"/>'
            y = (top + below) / 2 + 4
            yield f'<text x="{self._left - 6}" y="{y:g}" text-anchor="end">{escape(name)}</text>'
        for value in () if plot.rows else _ticks(*self._y, 4):
            y = self._at_y(value)
            yield _path(self._across(value), "#e5e7eb", 1)
            yield f'<text x="{self._left - 6}" y="{y + 4:g}" text-anchor="end">{_number(value)}</text>'
        for value in _log_ticks(*self._x) if plot.log_x else _ticks(*self._x, 8):
            x, y = self._at_x(value), self._bottom + 15
            if plot.dots:
                yield _path(f"M{x} {self._top}V{self._bottom}", "#e5e7eb", 1)
            yield f'<text x="{x}" y="{y}" text-anchor="middle">{_number(value)}</text>'
        middle = (self._top + self._bottom) / 2
        if plot.y_label:
            yield (
                f'<text x="14" y="{middle:g}" transform="rotate(-90 14 {middle:g})" text-anchor="middle">'
                f"{escape(plot.y_label)}</text>"
            )
        words = escape(plot.x_label)
        yield f'<text x="{right}" y="{self._bottom + BOTTOM - 5}" text-anchor="end">{words}</text>'

    def _placed(self) -> Iterator[tuple[float, int, str, str, str]]:
        """Each entry of the legend: its x, its line, name, colour, and the shape of its dots."""
        plot = self._plot
        named = [(line.label, line.colour, "") for line in plot.lines]
        named += [(plot.band[0], ORANGE, "")] if plot.band else []
        named += [(plot.limit[0], RED, "")] if plot.limit else []
        labels = list(dict.fromkeys(each.label for each in plot.dots))
        colours = {each.label: each.colour for each in plot.dots}
        named += [(each, colours[each], self._shape_of(each)) for each in labels if each]
        x, row = float(self._left), 0
        for name, colour, shape in named:
            width = 30 + LETTER * len(name)
            if x + width > WIDTH and x > self._left:
                x, row = float(self._left), row + 1
            yield x, row, name, colour, shape
            x += width

    def _shape_of(self, label: str) -> str:
        labels = list(dict.fromkeys(each.label for each in self._plot.dots))
        return SHAPES[labels.index(label) % len(SHAPES)]

    def _dots(self, series: Dots) -> Iterator[str]:
        for x, y in series.places:
            at_x, at_y = self._at_x(x.value), self._at_y(y.value)
            if x.half_width:
                ends = f"M{self._at_x(x.low)} {at_y}H{self._at_x(x.high)}"
                yield _path(ends, series.colour, 1.2)
            if y.half_width:
                yield _path(f"M{at_x} {self._at_y(y.low)}V{self._at_y(y.high)}", series.colour, 1.2)
            yield _shape(self._shape_of(series.label), at_x, at_y, series.colour)

    def _drawn(self, line: Line) -> str:
        if not line.points:
            return ""
        if line.style == ".":
            spots = "".join(f"M{self._at_x(x)} {self._at_y(y)}h0" for x, y in line.points)
            return f'<g stroke-linecap="round" stroke-opacity="0.6">{_path(spots, line.colour, 3)}</g>'
        dashes = "4 3" if line.style == "--" else ""
        return _path(self._line(line.points, is_step=line.style == "step"), line.colour, 1.5, dashes)

    def _line(self, points: Points, *, is_step: bool = False) -> str:
        made = [(self._at_x(x), self._at_y(y)) for x, y in points]
        to = "".join(f"H{x}V{y}" if is_step else f"L{x} {y}" for x, y in made[1:])
        return f"M{made[0][0]} {made[0][1]}{to}"

    def _across(self, y: float) -> str:
        return f"M{self._left} {self._at_y(y)}H{WIDTH - RIGHT}"

    def _at_x(self, value: float) -> float:
        low, high = self._x
        place = value if not self._plot.log_x else log10(value) if value > 0 else low
        return round(self._left + (place - low) / (high - low) * (WIDTH - self._left - RIGHT), 1)

    def _at_y(self, value: float) -> float:
        low, high = self._y
        inside = min(max(value, min(low, high)), max(low, high))
        return round(self._bottom - (inside - low) / (high - low) * (self._bottom - self._top), 1)


def _path(d: str, colour: str, width: float, dashes: str = "") -> str:
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<path d="{d}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashed}/>'


def _shape(shape: str, x: float, y: float, colour: str) -> str:
    return f'<path d="M{x:g} {y:g}{shape}" fill="{colour}" stroke="{colour}"/>'


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _span(values: Sequence[float], least: float = 0.0) -> tuple[float, float]:
    """The range of the values, widened around its middle; for one value, or none, a range from it on."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    if high - low < least:
        middle = (low + high) / 2
        return middle - least / 2, middle + least / 2
    return (low, high) if high > low else (low, low + 1.0)


def _wider(low: float, high: float) -> tuple[float, float]:
    """The range with room at both ends, so that no dot is cut off."""
    room = 0.06 * (high - low)
    return low - room, high + room


def _ticks(low: float, high: float, most: int) -> list[float]:
    """About `most` round values in the range."""
    raw = (high - low) / most
    unit = 10.0 ** floor(log10(raw))
    step = next(each * unit for each in STEPS if each * unit >= raw * (1 - 1e-9))
    first = -floor(-low / step + 1e-9) if low else 0
    return [round(step * at, 10) for at in range(first, floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """The 1, 2 and 5 times powers of ten between these logarithms."""
    powers = range(floor(low), ceil(high) + 1)
    found = [round(digit * 10.0**power, 10) for power in powers for digit in (1, 2, 5)]
    return [value for value in found if low <= log10(value) <= high]
