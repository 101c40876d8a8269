"""The scorecard as a page: tables of the errors, and a figure of every prediction beside its measurement."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.scorecard.figures import KINDS, Kind, Row, Score, scores


def table(rows: Sequence[Row], belief: str) -> str:
    """The errors by place and kind in Markdown."""
    lines = [
        "| where | prediction | number | off by, mean | bias | lowest | highest | asked |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for place, kinds in scores(rows, belief).items():
        for kind in KINDS:
            if kind.name in kinds:
                lines.append(_line(place, kind, kinds[kind.name]))
    return "\n".join(lines)


def _line(place: str, kind: Kind, it: Score) -> str:
    def shown(value: float, sign: str = "") -> str:
        return f"{value:{sign}.1%}".replace("%", " %") if kind.is_ratio else f"{value:{sign}.3f}"

    asked = "" if kind.asked is None else f"≤ {shown(kind.asked)}"
    figures = [shown(it.error), *(shown(value, "+") for value in (it.bias, it.lowest, it.highest))]
    return f"| {place} | {kind.name} | {it.count} | {' | '.join(figures)} | {asked} |"


def matrix(rows: Sequence[Row], belief: str) -> str:
    """The mean size of the errors and their mean, a row a place and a column a goal, in Markdown."""
    found = scores(rows, belief)
    shown = [kind for kind in KINDS if kind.asked and any(kind.name in kinds for kinds in found.values())]
    lines = ["| where | " + " | ".join(kind.name for kind in shown) + " |", "|---|" + "--:|" * len(shown)]
    for place, kinds in found.items():
        cells = [_short(kind, kinds[kind.name]) if kind.name in kinds else "" for kind in shown]
        lines.append(f"| {place} | {' | '.join(cells)} |")
    goals = [f"≤ {kind.asked:{'.0%' if kind.is_ratio else ''}}" if kind.asked else "" for kind in shown]
    return "\n".join([*lines, f"| asked | {' | '.join(goals)} |"])


def _short(kind: Kind, it: Score) -> str:
    return f"{it.error:.0%}, {it.bias:+.0%}" if kind.is_ratio else f"{it.error:.3f}, {it.bias:+.3f}"


def draw_figure(rows: Sequence[Row], belief: str, path: Path) -> None:
    """Every prediction over its measurement, a panel for each kind with a goal; a picture in that file."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator, NullFormatter

    shown = [kind for kind in KINDS if kind.asked is not None]
    figure, axes = pyplot.subplots(1, len(shown), figsize=(4 * len(shown), 4.8), layout="constrained")
    places = list(dict.fromkeys(row.place for row in rows))
    for axis, kind in zip(axes, shown, strict=True):
        for place in places:
            pairs = [
                (getattr(row.measured, kind.measured), getattr(getattr(row, belief), kind.predicted))
                for row in rows
                if row.place == place
            ]
            known = [pair for pair in pairs if None not in pair]
            if known:
                axis.scatter(*zip(*known, strict=True), s=16, alpha=0.75, label=place)
        if kind.is_ratio:
            axis.set(xscale="log", yscale="log")
            for each in (axis.xaxis, axis.yaxis):
                each.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
                each.set_major_formatter("{x:g}")
                each.set_minor_formatter(NullFormatter())
        ends = min(*axis.get_xlim(), *axis.get_ylim()), max(*axis.get_xlim(), *axis.get_ylim())
        axis.plot(ends, ends, color="0.6", linewidth=1, zorder=0)
        axis.set(xlim=ends, ylim=ends, title=kind.name, xlabel="measured")
        axis.set_aspect("equal")
    axes[0].set_ylabel("predicted")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(places), frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    pyplot.close(figure)
