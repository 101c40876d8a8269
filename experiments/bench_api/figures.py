"""From what was seen to figures beside their goals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.bench_api.asking import PhaseResult
from experiments.bench_api.service import TICK_S

PLAN_P99_MS, LIST_MS, ROUND_S, MEMORY_MB = 50.0, 100.0, 2.0, 500.0
# A tick counts as on time where it begins no later than this part of the interval.
LATE_RATIO = 0.1


@dataclass(frozen=True)
class Figure:
    """A number, and the bound that it is to keep (None: told only); `load` is the load average then."""

    name: str
    value: float
    unit: str
    load: float
    at_most: float | None = None
    at_least: float | None = None

    def row(self, *, is_judged: bool) -> str:
        """A row of the table."""
        goal = "" if self.at_most is None else f"≤ {self.at_most:g}"
        goal = goal if self.at_least is None else f"≥ {self.at_least:g}"
        met = (self.at_most is None or self.value <= self.at_most) and (
            self.at_least is None or self.value >= self.at_least
        )
        verdict = ("met" if met else "MISSED") if goal and is_judged else ""
        return f"| {self.name} | {self.value:.4g} {self.unit} | {goal} | {verdict} | {self.load:.1f} |"


def plan_figures(
    planned: PhaseResult, less: PhaseResult, quiet: PhaseResult, facts: Mapping[str, Any]
) -> list[Figure]:
    """The results of plans at a steady rate and at one that is less, and of the loop beside them."""
    made, some = (100 * each.statuses[201] / len(each.took_s) for each in (planned, less))
    return [
        Figure("what-if plans at less than that", less.rate_rps, "a second", less.load),
        Figure("of them answered with a plan", some, "%", less.load),
        Figure("their p50", less.quantile_ms(0.5), "ms", less.load),
        Figure("their p99", less.quantile_ms(0.99), "ms", less.load),
        Figure("what-if plans, each of another rate", planned.rate_rps, "a second", planned.load),
        Figure("of them answered with a plan", made, "%", planned.load, at_least=100.0),
        Figure("their p50", planned.quantile_ms(0.5), "ms", planned.load),
        Figure("their p99", planned.quantile_ms(0.99), "ms", planned.load, at_most=PLAN_P99_MS),
        Figure("sent late by the client, at most", 1000 * planned.sent_late_s, "ms", planned.load),
        Figure("the service's CPU time of one", planned.cpu_ms, "ms", planned.load),
        *_ticks("beside them", planned, quiet, facts),
    ]


def flood_figures(flooded: PhaseResult, quiet: PhaseResult, facts: Mapping[str, Any]) -> list[Figure]:
    """The result of a flood, and of the loop beside it."""
    refused, made = (100 * flooded.statuses[status] / len(flooded.took_s) for status in (429, 201))
    return [
        Figure("flood from 200 connections, answered", flooded.rate_rps, "a second", flooded.load),
        Figure("of it refused (429)", refused, "%", flooded.load),
        Figure("of it refused or planned", refused + made, "%", flooded.load, at_least=100.0),
        *_ticks("beside it", flooded, quiet, facts),
    ]


def fleet_figures(
    listed: PhaseResult, rounds: Sequence[Mapping[str, Any]], memory_mb: float, many: int
) -> list[Figure]:
    """The result of many pipelines in one service."""
    figures = [
        Figure(f"list of {many} pipelines, p50", listed.quantile_ms(0.5), "ms", listed.load, at_most=LIST_MS),
        Figure(
            f"list of {many} pipelines, p99", listed.quantile_ms(0.99), "ms", listed.load, at_most=LIST_MS
        ),
        Figure("the service's CPU time of one", listed.cpu_ms, "ms", listed.load),
        Figure(
            f"memory of {many} pipelines with their loops", memory_mb, "MB", listed.load, at_most=MEMORY_MB
        ),
    ]
    for kind, words in (("steady", "loads that stand still"), ("moving", "loads that move")):
        of_kind = [each for each in rounds if each["load_kind"] == kind]
        # Others may use the machine: the quickest counts.
        best = min(of_kind, key=lambda each: each["wall_s"])
        name, load = f"a tick of {many} pipelines, {words}", best["load_average"]
        figures.append(Figure(name, best["wall_s"], "s", load, at_most=ROUND_S))
        figures.append(Figure(f"{name}: CPU time", min(each["cpu_s"] for each in of_kind), "s", load))
    return figures


def _ticks(where: str, phase: PhaseResult, quiet: PhaseResult, facts: Mapping[str, Any]) -> list[Figure]:
    """The loop's ticks meanwhile: how many of those due, how late, how long."""
    late_ms, took_ms, share = _seen(phase, facts)
    idle_late_ms, idle_took_ms, _ = _seen(quiet, facts)
    return [
        Figure(f"ticks {where}, of those due", share, "%", phase.load, at_least=95.0),
        Figure(f"ticks {where}, latest", late_ms, "ms", phase.load, at_most=1000 * TICK_S * LATE_RATIO),
        Figure("the same when nothing is asked", idle_late_ms, "ms", quiet.load),
        Figure(f"ticks {where}, longest", took_ms, "ms", phase.load),
        Figure("the same when nothing is asked", idle_took_ms, "ms", quiet.load),
    ]


def _seen(phase: PhaseResult, facts: Mapping[str, Any]) -> tuple[float, float, float]:
    """Milliseconds that the latest tick was late and the longest took, and the share of ticks there were."""
    began = np.array(facts["began_s"])
    at = (began >= phase.began_s) & (began < phase.ended_s)
    began, took = began[at], np.array(facts["took_s"])[at]
    late = np.diff(began) - TICK_S
    share = 100 * len(began) * TICK_S / (phase.ended_s - phase.began_s)
    return 1000 * float(late.max(initial=0.0)), 1000 * float(took.max(initial=0.0)), min(share, 100.0)
