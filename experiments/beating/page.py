"""The results against the goals, as a page of the documentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from experiments.beating.cells import FRUGAL, IPA, ORACLE, OURS, TOLD, Outcome, by_cell
from experiments.bench.render import aligned

TEMPLATE = Path(__file__).with_name("template.md")
# The goals: cores on the mean of the cells, late requests in a cell beside ipa's and in most cells, and cores
# beside those of the same policy that knows what comes.
CORES_GOAL, LATE_GOAL, FEW_LATE, MOST_CELLS, ORACLE_GOAL = 0.8, 0.5, 0.01, 0.9, 1.1
# PAS and cores are means of many sums.
ROUNDING = 1e-6
TOLD_OF = {OURS: ORACLE, FRUGAL: TOLD}


@dataclass(frozen=True, slots=True)
class Verdict:
    """A system against ipa over the cells of one weight set: ratios, and in how many cells a goal is met.

    `of_oracle` is its cores beside those of the same policy told the true rates, on the mean and at worst.
    """

    system: str
    objective: str
    cells: int
    seeds: int
    cores_mean: float
    cores_worst: float
    no_more_cores: int
    no_less_accurate: int
    pas_worst: float
    late_at_most_half: int
    few_late: int
    of_oracle: tuple[float, float] | None


def mean(found: Sequence[Outcome], value: str) -> float:
    """The mean over the runs."""
    return fmean(getattr(each, value) for each in found)


def verdict(outcomes: Sequence[Outcome], objective: str, system: str) -> Verdict:
    """How the system does against ipa with those weights."""
    cells = list(by_cell(outcomes, objective))
    cores = [mean(cell[system], "cores") / mean(cell[IPA], "cores") for cell in cells]
    pas = [mean(cell[system], "pas") / mean(cell[IPA], "pas") for cell in cells]
    late = [(mean(cell[system], "late_ratio"), mean(cell[IPA], "late_ratio")) for cell in cells]
    told = TOLD_OF.get(system)
    beside = [mean(cell[system], "cores") / mean(cell[told], "cores") for cell in cells] if told else []
    return Verdict(
        system,
        objective,
        len(cells),
        len(cells[0][system]),
        fmean(cores),
        max(cores),
        sum(each <= 1 + ROUNDING for each in cores),
        sum(each >= 1 - ROUNDING for each in pas),
        min(pas),
        sum(own <= LATE_GOAL * ipa for own, ipa in late),
        sum(own <= FEW_LATE for own, _ in late),
        (fmean(beside), max(beside)) if beside else None,
    )


def goals(found: Verdict) -> list[tuple[str, str, bool]]:
    """Each goal in words, what was measured, and whether it is met."""
    cells, most = found.cells, round(MOST_CELLS * found.cells)
    rows = [
        (
            "accuracy no lower than ipa's in every cell",
            f"{found.no_less_accurate} of {cells}, at worst {found.pas_worst:.2%} of it",
            found.no_less_accurate == cells,
        ),
        (
            f"cores at most {CORES_GOAL:.0%} on average",
            f"{found.cores_mean:.1%}",
            found.cores_mean <= CORES_GOAL,
        ),
        (
            "cores never more",
            f"worst {found.cores_worst:.1%}; {found.no_more_cores} of {cells} no more",
            found.no_more_cores == cells,
        ),
        (
            "late or lost at most half of ipa's in every cell",
            f"{found.late_at_most_half} of {cells}",
            found.late_at_most_half == cells,
        ),
        (
            f"late or lost at most {FEW_LATE:.0%} in {most} cells",
            f"{found.few_late} of {cells}",
            found.few_late >= most,
        ),
    ]
    if found.of_oracle is not None:
        average, worst = found.of_oracle
        rows.append(
            (
                "cores within 10 % of the same policy with perfect forecasts",
                f"{average:.1%} on average, {worst:.1%} at worst",
                worst <= ORACLE_GOAL,
            )
        )
    return rows


def goal_table(outcomes: Sequence[Outcome], objective: str) -> str:
    """The goals and what each of our policies makes of them."""
    systems = (FRUGAL, OURS)
    found = [goals(verdict(outcomes, objective, system)) for system in systems]
    rows = [["goal", *systems]]
    for alternatives in zip(*found, strict=True):
        rows.append([alternatives[0][0], *(f"{said}: {_met(met)}" for _, said, met in alternatives)])
    return "\n".join(aligned(rows))


def _met(met: bool) -> str:
    return "met" if met else "missed"


def cell_table(outcomes: Sequence[Outcome], objective: str) -> str:
    """A line a cell: cores, PAS in percent, late in percent and changes of each system, means over seeds."""
    systems = (IPA, FRUGAL, OURS)
    head = ["pipeline", "workload"]
    for system in systems:
        head += [f"{system}: cores", "PAS", "late", "changes"]
    rows = [head]
    for cell in by_cell(outcomes, objective):
        first = cell[IPA][0]
        row = [first.pipeline, first.workload]
        for system in systems:
            runs = cell[system]
            row += [
                f"{mean(runs, 'cores'):.2f}",
                f"{100 * mean(runs, 'pas'):.2f}",
                f"{100 * mean(runs, 'late_ratio'):.2f} %",
                f"{mean(runs, 'changes'):.0f}",
            ]
        rows.append(row)
    return "\n".join(aligned(rows))


def section(outcomes: Sequence[Outcome], objective: str) -> str:
    """Goals and cells of one weight set."""
    seeds = verdict(outcomes, objective, FRUGAL).seeds
    return "\n\n".join(
        (
            f"## With the weights `{objective}`",
            f"{seeds} seed{'' if seeds == 1 else 's'} per cell; means over them.",
            goal_table(outcomes, objective),
            cell_table(outcomes, objective),
        )
    )


def page(outcomes: Sequence[Outcome], published_loads: bool) -> str:
    """The whole page, every figure from the outcomes."""
    loads = "the published ones" if published_loads else "synthetic, with the same mean, range and shape"
    objectives = dict.fromkeys(each.objective for each in outcomes)
    return TEMPLATE.read_text(encoding="utf-8").format(
        loads=loads, sections="\n\n".join(section(outcomes, objective) for objective in objectives)
    )
