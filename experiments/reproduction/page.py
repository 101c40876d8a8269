"""The comparison with the published runs as tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from experiments.bench.render import aligned
from experiments.published.page import percent
from experiments.reproduction import beating, infadapter
from experiments.reproduction.compare import (
    EITHER,
    FORECASTS,
    HEADLINE,
    PLAIN,
    TIES,
    WITHIN,
    Compared,
    Way,
    counts,
)
from experiments.reproduction.inloop import LoopRun


def measured(
    comparisons: Sequence[Compared],
    looped: Sequence[LoopRun],
    adapted: Sequence[infadapter.Outcome],
    planned: Sequence[beating.Outcome],
) -> str:
    """The tables of all runs together, every figure from what was found."""
    in_loop = sum(all(abs(off) <= WITHIN for off in each.off) for each in looped)
    return "\n\n".join(
        (
            f"Mean cores *and* mean PAS within {percent(WITHIN)} of the log, of {len(comparisons)} runs:",
            lines(count_rows(comparisons)),
            "The controllers' mean rates differ from the workloads' by up to "
            f"{percent(max(_rate_off(each) for each in comparisons))}. In the simulator {in_loop} of "
            f"{len(looped)} runs of IPA are within {percent(WITHIN)}.",
            f"InfAdapter, means over {len({each.seed for each in adapted})} seeds, ranges over the three β:",
            lines(adapted_rows(adapted)),
            "Against IPA by planning alone, with foresight:",
            lines(verdict_rows(planned)),
            verdict_words(list(beating.verdicts(planned))),
        )
    )


def details(comparisons: Sequence[Compared], looped: Sequence[LoopRun]) -> str:
    """The runs that are off, every run, and every run of the simulator."""
    parts = {
        "Off, with the line at the log's mean": lines(off_rows(comparisons, HEADLINE)),
        "Off, with foresight": lines(off_rows(comparisons, PLAIN)),
        "Every run": lines(run_rows(comparisons)),
        "In the simulator": lines(loop_rows(looped)),
        "Corrected labels and names": "; ".join(dict.fromkeys(_notes(comparisons))) or "none",
    }
    return "\n\n".join(f"## {title}\n\n{text}" for title, text in parts.items()) + "\n"


def lines(rows: Sequence[Sequence[str]]) -> str:
    """The rows, the first being the head, as a Markdown table; a word where there is none."""
    return "\n".join(aligned(rows)) if len(rows) > 1 else "None."


def count_rows(comparisons: Sequence[Compared]) -> list[list[str]]:
    """The number of runs and cells within, by forecast and ties."""
    ties = (*TIES, EITHER)
    rows = [["forecast", *(f"{what}, {each}" for what in ("runs", "cells") for each in ties)]]
    for forecast in FORECASTS:
        each = [counts(comparisons, (forecast, choice)) for choice in ties]
        rows.append(
            [forecast, *(f"{a} of {b}" for a, b, _, _ in each), *(f"{c} of {d}" for _, _, c, d in each)]
        )
    return rows


def off_rows(comparisons: Sequence[Compared], way: Way) -> list[list[str]]:
    """The runs that are off, and why."""
    rows = [["run", "cores", "published", "off", "PAS off", "why"]]
    for each in comparisons:
        if not each.within(way):
            cores, pas = each.off(way)
            mine = f"{each.replays[way].cores:.2f}"
            log = f"{each.run.log.cores:.2f}"
            rows.append([_name(each), mine, log, percent(cores), percent(pas), each.reason(way)])
    return rows


def run_rows(comparisons: Sequence[Compared]) -> list[list[str]]:
    """A line a run."""
    head = ["run", "rate", "cores", "PAS"]
    for name in ("foresight", "line"):
        head += [f"{name}: cores", "off", "PAS", "off"]
    rows = [head]
    for each in comparisons:
        log = each.run.log
        row = [_name(each), f"{log.rate_rps:.1f}", f"{log.cores:.2f}", f"{100 * log.pas:.2f}"]
        for way in (PLAIN, HEADLINE):
            replay, (cores, pas) = each.replays[way], each.off(way)
            row += [f"{replay.cores:.2f}", percent(cores), f"{100 * replay.pas:.2f}", percent(pas)]
        rows.append(row)
    return rows


def loop_rows(looped: Sequence[LoopRun]) -> list[list[str]]:
    """A line a run of the simulator."""
    rows = [["run", "published cores, PAS", "decided", "off", "paid cores", "late or lost", "changes"]]
    for each in looped:
        cores, pas = each.off
        rows.append(
            [
                " ".join((each.series, each.pipeline, each.workload)),
                f"{each.log_cores:.2f}, {100 * each.log_pas:.2f}",
                f"{each.cores:.2f}, {100 * each.pas:.2f}",
                f"{percent(cores)}, {percent(pas)}",
                f"{each.paid_cores:.2f}",
                f"{100 * each.late_ratio:.2f} %",
                str(each.changes),
            ]
        )
    return rows


def adapted_rows(adapted: Sequence[infadapter.Outcome]) -> list[list[str]]:
    """A line for each forecaster, with sets and with single variants."""
    betas = list(dict.fromkeys(each.beta for each in adapted))
    rows = [
        [
            "forecast",
            "variants",
            "late",
            "beyond capacity",
            *(f"accuracy, cores at β {beta:g}" for beta in betas),
        ]
    ]
    for forecast in dict.fromkeys(each.forecast for each in adapted):
        for sets in (True, False):
            some = [each for each in adapted if (each.forecast, each.sets) == (forecast, sets)]
            by_beta = [[each for each in some if each.beta == beta] for beta in betas]
            late = [fmean(each.late_ratio for each in group) for group in by_beta]
            beyond = [fmean(each.beyond_ratio for each in group) for group in by_beta]
            accuracy = [fmean(each.accuracy for each in group) for group in by_beta]
            cores = [fmean(each.cores for each in group) for group in by_beta]
            cells = [f"{100 * a:.2f} %, {c:.1f}" for a, c in zip(accuracy, cores, strict=True)]
            ranges = [f"{percent(min(each))} to {percent(max(each))}" for each in (late, beyond)]
            rows.append([forecast, "a set" if sets else "one", *ranges, *cells])
    return rows


def verdict_rows(outcomes: Sequence[beating.Outcome]) -> list[list[str]]:
    """Every system against ipa."""
    rows = [["weights", "system", "cores", "worst cell", "PAS no lower", "cores no more"]]
    for each in beating.verdicts(outcomes):
        rows.append(
            [
                each.objective,
                each.system,
                percent(each.cores_mean_ratio),
                percent(each.cores_worst_ratio),
                f"{each.no_less_accurate} of {each.cells}",
                f"{each.no_more_cores} of {each.cells}",
            ]
        )
    return rows


def verdict_words(planned: Sequence[beating.Verdict]) -> str:
    """Which goals are met by planning."""
    met = [f"{each.system} with the weights {each.objective}" for each in planned if each.met]
    if met:
        return f"All goals are met by: {', '.join(met)}."
    return "No system meets all goals by planning alone."


def _rate_off(each: Compared) -> float:
    return abs(each.run.log.rate_rps / each.replays[PLAIN].rate_rps - 1)


def _notes(comparisons: Sequence[Compared]) -> Iterator[str]:
    for each in comparisons:
        for note in each.run.notes:
            yield f"{each.run.pipeline}, series {each.run.series}: {note}"


def _name(each: Compared) -> str:
    return " ".join((each.run.series, each.run.pipeline, each.run.workload, each.run.system))
