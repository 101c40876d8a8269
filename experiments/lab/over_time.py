"""One run of each policy over time: the load, the cores and the late requests by tick."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.lab.markup import note
from experiments.lab.pictures import colours_of
from experiments.lab.units import Finished
from experiments.plots import svg
from ipa.report.sketch import GREY, Line, Plot

# More lines than this hide each other.
MOST = 5
# Columns of the table by tick.
TIME, RATE, CORES, PAS, LATE = "at_s", "rate_rps", "cores", "pas", "latency_s"


def over_time(reference: str | None, finished: Sequence[Finished]) -> list[str]:
    """Plots of the cell whose load changes most, with `ours` and the reference among the policies."""
    kept = [each for each in finished if each.outcome.ticks]
    if not kept:
        return []

    def swing(each: Finished) -> float:
        rates = _numbers(each.outcome.ticks.get(RATE, ()))
        return round(max(rates, default=0.0) / max(1e-9, sum(rates) / max(1, len(rates))), 3)

    example = max(kept, key=swing)
    keys = ("pipeline", "workload", "sla", "forecaster")
    same = [each for each in kept if all(each.unit.labels[k] == example.unit.labels[k] for k in keys)]
    same.sort(key=lambda each: str(each.unit.labels["policy"]) not in ("ours", reference))
    shown = same[:MOST]
    colours = colours_of([str(each.unit.labels["policy"]) for each in shown])
    labels = example.unit.labels
    where = (
        f"{labels['pipeline']} under {labels['workload']}, SLA {labels['sla_s']:.3g} s, seed {labels['seed']}"
    )
    plots = [svg(Plot("Load", "requests / s", [Line("seen", _points(shown[0], RATE), GREY)]))]
    for key, title, label in ((CORES, "Cores", "cores paid"), (PAS, "Accuracy of what runs", "PAS")):
        lines = [
            Line(name, points, colours[name], "step")
            for each in shown
            if (points := _points(each, key)) and (name := str(each.unit.labels["policy"]))
        ]
        if lines:
            plots.append(svg(Plot(title, label, lines, from_zero=key != PAS)))
    return [note(where + "."), *plots]


def _points(each: Finished, key: str) -> list[tuple[float, float]]:
    ticks = each.outcome.ticks
    return [
        (float(at), float(value))
        for at, value in zip(ticks.get(TIME, ()), ticks.get(key, ()), strict=False)
        if value is not None
    ]


def _numbers(values: Sequence[object]) -> list[float]:
    return [float(value) for value in values if isinstance(value, int | float)]
