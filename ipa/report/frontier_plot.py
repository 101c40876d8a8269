"""Plot of a frontier: accuracy over cost, latency as colour. Needs matplotlib, of the extra `experiments`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ipa.report.plots import GREY, RED, new_figure, saved, set_log_x

# Of coinciding points the quickest is on top. Beyond this many, dots are smaller.
MANY = 400
# Costs this many times apart get a logarithmic axis.
WIDE = 5


class PlottedPlan(Protocol):
    """A plan with the three plotted figures."""

    @property
    def cost(self) -> float:
        """Cores, or USD an hour."""

    @property
    def pas(self) -> float:
        """Accuracy of a request."""

    @property
    def latency_s(self) -> float:
        """Seconds."""


P = TypeVar("P", bound=PlottedPlan)


@dataclass(frozen=True, slots=True)
class PlotPoint:
    """One plan: cost, accuracy, latency in seconds."""

    cost: float
    pas: float
    latency_s: float


def frontier_picture(
    title: str,
    dots: Sequence[PlotPoint],
    chosen: PlotPoint | None,
    sla_s: float,
    kind: str = "svg",
    unit: str = "cores",
) -> bytes:
    """The plot as a file of that kind, "svg" or "png"; the same input gives the same bytes of SVG.

    The line joins the Pareto-optimal plans in accuracy and cost, which is in `unit`; `chosen` is marked.
    """
    with new_figure(7.2, 4.2) as figure:
        _draw(figure, title, dots, chosen, sla_s, unit)
        return saved(figure, kind)


def _draw(  # type: ignore[no-untyped-def] # matplotlib has no types here
    figure, title: str, dots: Sequence[PlotPoint], chosen: PlotPoint | None, sla_s: float, unit: str
) -> None:
    axes = figure.add_subplot()
    edge = accuracy_cost(dots)
    slowest_first = sorted(dots, key=lambda dot: -dot.latency_s)
    # On to the right end: nothing is more accurate there either.
    ends = [*edge, max(dots, key=lambda dot: dot.cost)]
    axes.step(
        [dot.cost for dot in ends],
        [dot.pas for dot in (*edge, edge[-1])],
        where="post",
        color=GREY,
        linewidth=1,
        zorder=1,
        label="most accurate at that cost",
    )
    shown = axes.scatter(
        [dot.cost for dot in slowest_first],
        [dot.pas for dot in slowest_first],
        c=[dot.latency_s for dot in slowest_first],
        cmap="viridis_r",
        s=28 if len(dots) <= MANY else 12,
        linewidths=0,
        zorder=2,
        label="Pareto-optimal plans",
    )
    if chosen is not None:
        axes.scatter(
            [chosen.cost],
            [chosen.pas],
            s=120,
            facecolors="none",
            edgecolors=RED,
            linewidths=1.8,
            zorder=3,
            label=f"chosen: PAS {chosen.pas:.3f}, {chosen.cost:.4g} {unit}, {chosen.latency_s:.3g} s",
        )
    bar = figure.colorbar(shown, ax=axes, pad=0.02)
    bar.set_label(f"latency, s (SLA {sla_s:g} s)")
    bar.outline.set_visible(False)
    axes.set_title(title)
    _cost_axis(axes, [dot.cost for dot in dots], unit)
    axes.set_ylabel("accuracy of a request (PAS)")
    axes.grid()
    # Below the axes, so that it hides no plan.
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)


def _cost_axis(axes, costs: Sequence[float], unit: str) -> None:  # type: ignore[no-untyped-def]
    """A logarithmic axis if costs are far apart: expensive plans that buy only speed would fill the plot."""
    low, high = min(costs), max(costs)
    axes.set_xlabel(f"cost, {unit}")
    if high < WIDE * low:
        axes.set_xlim(low - 0.06 * (high - low) - 0.05, high + 0.06 * (high - low) + 0.05)
        return
    set_log_x(axes)
    axes.set_xlim(low / 1.15, high * 1.15)


def accuracy_cost(dots: Sequence[P]) -> list[P]:
    """The points that none of at most their cost equals or exceeds in accuracy, by rising cost."""
    best: list[P] = []
    for dot in sorted(dots, key=lambda each: (round(each.cost, 9), -each.pas, each.latency_s)):
        if not best or round(dot.pas, 12) > round(best[-1].pas, 12):
            best.append(dot)
    return best
