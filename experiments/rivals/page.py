"""The comparisons as tables: figures of each policy, who dominates whom how often, and in which cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from experiments.bench.render import aligned
from ipa.experiment.results import Results
from ipa.experiment.runners import AUTHORS
from ipa.experiment.simulated import POINT
from ipa.experiment.simulated_page import METRICS, CaseGrid, grid_of
from ipa.report.blocks import figure

OURS = ("ours", "ours-frugal")
# The most wanted first.
KEYS = ("cores_mean", "violation_ratio", "latency_p99_s", "pas_mean")
SHOWN = [next(it for it in METRICS if it.key == key) for key in KEYS]
EQUAL = " (equal)"


def labelled(grid: CaseGrid) -> Iterator[tuple[str, str]]:
    """Each policy with its label: with its authors' forecast, and with the equal one if that is another."""
    for policy in grid.policies:
        name, _, forecaster = policy.partition(", ")
        if forecaster == AUTHORS:
            yield name.rpartition(":")[2], policy
        elif name in POINT:
            yield f"{name}{EQUAL}", policy


def rivals(grid: CaseGrid) -> list[tuple[str, str]]:
    """Those of `labelled` that are not ours."""
    return [(label, policy) for label, policy in labelled(grid) if label not in OURS]


def beside(ours: str, rival: str) -> str:
    """The name of ours with the forecaster of the rival."""
    return f"{ours}, {rival.partition(', ')[2]}"


def figures(experiments: Sequence[Results]) -> str:
    """A table for each experiment: means over all cases with their 95 % intervals."""
    tables = [
        by_policy([results], [it.heading for it in SHOWN], labelled, overall) for results in experiments
    ]
    return "\n\n".join(tables)


def overall(grid: CaseGrid, policy: str) -> list[str]:
    """The figures of a policy over all cases, with intervals."""
    return [figure(grid.overall(policy, it.key), it.form, scale=it.scale).in_words for it in SHOWN]


def counts(experiments: Sequence[Results]) -> str:
    """In how many cases each of ours dominates a rival, and is dominated by it."""

    def cells(grid: CaseGrid, rival: str) -> list[str]:
        made = []
        for ours in (beside(each, rival) for each in OURS):
            won = sum(grid.dominates(case, ours, rival) for case in grid.cases)
            lost = sum(grid.dominates(case, rival, ours) for case in grid.cases)
            made.append(f"{won}:{lost}")
        return [", ".join(made)]

    return by_policy(experiments, [", ".join(OURS)], rivals, cells)


def by_policy(
    experiments: Sequence[Results],
    columns: Sequence[str],
    policies: Callable[[CaseGrid], Iterable[tuple[str, str]]],
    cells: Callable[[CaseGrid, str], list[str]],
) -> str:
    """A table with a line for each policy, and of each experiment the columns."""
    head = ["policy"]
    rows: dict[str, list[str]] = {}
    for results in experiments:
        grid = grid_of(results.experiment, results.finished)
        of = f"{results.experiment.name} ({len(grid.cases)} cases)"
        head += [f"{of}: {column}" for column in columns]
        for label, policy in policies(grid):
            rows.setdefault(label, [label]).extend(cells(grid, policy))
    return "\n".join(aligned([head, *rows.values()]))


def by_case(experiments: Sequence[Results]) -> str:
    """A line for each case: which rivals dominate each of ours, and which it dominates."""
    head = [column for ours in OURS for column in (f"{ours} is dominated by", f"{ours} dominates")]
    rows = [["case", *head]]
    for results in experiments:
        grid = grid_of(results.experiment, results.finished)
        for case in grid.cases:
            row = [f"{results.experiment.name}: {grid.words(case)}"]
            for ours in OURS:
                pairs = [(label, beside(ours, rival), rival) for label, rival in rivals(grid)]
                row.append(
                    ", ".join(label for label, own, rival in pairs if grid.dominates(case, rival, own))
                )
                row.append(
                    ", ".join(label for label, own, rival in pairs if grid.dominates(case, own, rival))
                )
            rows.append(row)
    return "\n".join(aligned(rows))


def losses(experiments: Sequence[Results]) -> str:
    """A line for each case in which rivals dominate one of ours, with their names.

    A rival that does so with either forecast is named once.
    """
    lines = []
    for results in experiments:
        grid = grid_of(results.experiment, results.finished)
        for case in grid.cases:
            parts = []
            for ours in OURS:
                pairs = [(label, beside(ours, rival), rival) for label, rival in rivals(grid)]
                by = [label for label, own, rival in pairs if grid.dominates(case, rival, own)]
                names = [label for label in by if label.removesuffix(EQUAL) not in by or EQUAL not in label]
                parts += [f"{ours} by {', '.join(names)}"] if names else []
            if parts:
                lines.append(f"- {results.experiment.name}, {grid.words(case)}: {'; '.join(parts)}")
    return "\n".join(lines)
