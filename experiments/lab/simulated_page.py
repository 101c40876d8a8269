"""The report of an experiment whose runs are simulations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from experiments.lab.beaten import beaten
from experiments.lab.experiment import Experiment
from experiments.lab.markup import (
    DASH,
    Cell,
    figure,
    folded,
    grouped_table,
    judged,
    note,
    subheading,
    text,
)
from experiments.lab.over_time import over_time
from experiments.lab.pictures import Dots, Place, dots, trade_off
from experiments.lab.published import read_published
from experiments.lab.simulated_grid import CellKey, Grid, grid_of
from experiments.lab.units import Finished
from ipa.report import html
from ipa.report.stats import Mean

V = TypeVar("V")
METRICS: tuple[tuple[str, str, str, float, bool], ...] = (
    # key of the summary, heading, format, scale, whether more is better
    ("pas_mean", "PAS", ".2f", 100.0, True),
    ("cores_mean", "cores", ".2f", 1.0, False),
    ("violation_ratio", "violations %", ".2f", 100.0, False),
    ("latency_p50_s", "p50 s", ".3f", 1.0, False),
    ("latency_p99_s", "p99 s", ".2f", 1.0, False),
    ("changes", "changes", ".1f", 1.0, False),
)


def parts(experiment: Experiment, finished: Sequence[Finished], data: Path) -> list[str]:
    """The report's parts: the whole in one table, the trade-off, every cell, an example over time."""
    published = read_published(data) if experiment.published == "ipa" else {}
    grid = grid_of(experiment, finished, published)
    found = [html.heading("All cells together"), *_overall(grid), *beaten(grid)]
    found += [
        html.heading("Every cell"),
        *_pictures(grid),
        folded("All figures of every cell", _tables(grid)),
    ]
    example = over_time(experiment.reference, finished)
    if example:
        found += [html.heading("One run over time"), *example]
    return found


def headline(experiment: Experiment, finished: Sequence[Finished]) -> str:
    """The table over all cells, for the index."""
    return _overall_table(grid_of(experiment, finished, {}))


def _overall(grid: Grid) -> list[str]:
    found = [_overall_table(grid)]
    seeds = len(grid.seeds)
    cells = "one cell" if len(grid.cells) == 1 else f"{len(grid.cells)} cells"
    how = (
        f"Means over {cells}; ± is half a 95 % interval (Student's t over {seeds} seeds)."
        if seeds > 1
        else f"Means over {cells}; one seed, so nothing is known of how sure they are."
    )
    how += (
        " Violations: requests that were late or lost, of those sent. Cores: all that were paid, old and new"
    )
    how += " replicas of a change together."
    if grid.reference is not None:
        how += f" Differences are to {grid.reference}, under the same requests."
        places = [
            Place(policy, x, y)
            for policy in grid.policies
            if (x := _scaled(grid.overall(policy, "cores_mean", against="ratio"), 100))
            and (y := _scaled(grid.overall(policy, "pas_mean", against="less"), 100))
        ]
        title = f"Accuracy and cost against {grid.reference}"
        found.append(trade_off(title, places, "cores, % more", "PAS, points more"))
    return [*found, note(how)]


def _scaled(mean: Mean | None, by: float) -> Mean | None:
    if mean is None:
        return None
    return Mean(mean.value * by, None if mean.half_width is None else mean.half_width * by, mean.count)


def _overall_table(grid: Grid) -> str:
    header = ["policy"]
    rows: list[list[Cell]] = []
    with_reference = grid.reference is not None
    for key, name, *_ in METRICS:
        header.append(name)
        if with_reference and key in ("pas_mean", "cores_mean"):
            header.append("Δ points" if key == "pas_mean" else "Δ %")
    for policy in grid.policies:
        row = [text(policy)]
        for key, _, form, scale, more in METRICS:
            row.append(figure(grid.overall(policy, key), form, scale=scale))
            if with_reference and key in ("pas_mean", "cores_mean"):
                how = "less" if key == "pas_mean" else "ratio"
                change = None if policy == grid.reference else grid.overall(policy, key, against=how)
                kind = judged(change, 0.0, more_is_better=more)
                row.append(figure(change, "+.2f" if how == "less" else "+.1f", scale=100, kind=kind))
        rows.append(row)
    return grouped_table(header, [rows], texts=1)


def _pictures(grid: Grid) -> list[str]:
    """Cores and accuracy of every cell, against the reference where there is one; what was late or lost."""

    def over(value: Callable[[CellKey, str], V]) -> list[list[V]]:
        return [[value(cell, policy) for policy in grid.policies] for cell in grid.cells]

    names = [_cell_name(grid, cell) for cell in grid.cells]
    of = "" if grid.reference is None else f", of those of {grid.reference}"
    than = "%" if grid.reference is None else f"points more than {grid.reference}"
    late = over(lambda cell, policy: _scaled(grid.mean(cell, policy, "violation_ratio"), 100))
    return [
        dots(
            Dots(
                "Cores",
                f"cores{of}",
                names,
                grid.policies,
                over(lambda cell, policy: _cores(grid, cell, policy)),
                over(lambda cell, policy: _their_cores(grid, cell, policy)),
                log=True,
                line=1.0 if of else None,
            )
        ),
        dots(
            Dots(
                "Accuracy of a request (PAS)",
                f"PAS, {than}",
                names,
                grid.policies,
                over(lambda cell, policy: _pas(grid, cell, policy)),
                over(lambda cell, policy: _their_pas(grid, cell, policy)),
                line=0.0 if of else None,
            )
        ),
        dots(Dots("Late or lost", "% of the requests sent", names, grid.policies, late)),
    ]


def _cores(grid: Grid, cell: CellKey, policy: str) -> Mean | None:
    if grid.reference is None:
        return grid.mean(cell, policy, "cores_mean")
    change = grid.against(cell, policy, "cores_mean", relative=True)
    return None if change is None else Mean(change.value + 1, change.half_width, change.count)


def _pas(grid: Grid, cell: CellKey, policy: str) -> Mean | None:
    if grid.reference is None:
        return _scaled(grid.mean(cell, policy, "pas_mean"), 100)
    return _scaled(grid.against(cell, policy, "pas_mean", relative=False), 100)


def _their_cores(grid: Grid, cell: CellKey, policy: str) -> float | None:
    own, base = grid.theirs(cell, policy), grid.theirs(cell, grid.reference or "")
    if grid.reference is None:
        return own.cores if own else None
    return own.cores / base.cores if own and base and policy != grid.reference else None


def _their_pas(grid: Grid, cell: CellKey, policy: str) -> float | None:
    own, base = grid.theirs(cell, policy), grid.theirs(cell, grid.reference or "")
    if grid.reference is None:
        return 100 * own.pas if own else None
    return 100 * (own.pas - base.pas) if own and base and policy != grid.reference else None


def _cell_name(grid: Grid, cell: CellKey) -> str:
    varied = [at for at in range(3) if len({each[at] for each in grid.cells}) > 1]
    return " ".join(cell[at] for at in varied) or cell[0]


def _tables(grid: Grid) -> list[str]:
    found = []
    has_published = any(grid.theirs(cell, policy) for cell in grid.cells for policy in grid.policies)
    header = ["workload", "SLA", "policy", *(name for _, name, *_ in METRICS), "lost"]
    if has_published:
        header += ["their PAS", "their cores"]
    for pipeline in dict.fromkeys(cell[0] for cell in grid.cells):
        groups = []
        for cell in (cell for cell in grid.cells if cell[0] == pipeline):
            rows = []
            for number_of, policy in enumerate(grid.policies):
                first = not number_of
                sla_s = next(iter(grid.rows[cell, policy].values()))["sla_s"]
                row = [
                    text(cell[1] if first else ""),
                    text(f"{sla_s:.3g} s" if first else ""),
                    text(policy),
                    *(
                        figure(grid.mean(cell, policy, key), form, scale=scale)
                        for key, _, form, scale, _ in METRICS
                    ),
                    figure(grid.mean(cell, policy, "lost"), ".0f"),
                ]
                if has_published:
                    run = grid.theirs(cell, policy)
                    row += [text(f"{run.pas * 100:.2f}"), text(f"{run.cores:.2f}")] if run else [DASH, DASH]
                rows.append(row)
            groups.append(rows)
        found += [subheading(pipeline), grouped_table(header, groups, texts=3)]
    if has_published:
        found.append(
            note(
                "Theirs are the published figures, means over the decisions in the authors' logs (revision "
                "series). Each run there has weights and margins of its own; here a pipeline has one set. "
                "RIM there is the larger of two static over-provisions."
            )
        )
    return found
