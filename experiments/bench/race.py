"""The engines on the very same problems, one problem after the other, and what they disagree on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any, Protocol

from experiments.bench.cell import Cell
from experiments.bench.rows import Row, cell_row

# Objectives that differ by more (relative, above 1 in size) are not the same optimum.
SAME = 1e-9
FAILURES = ("deadline", "licence", "error", "disagreement")
# So many different messages are kept.
MESSAGES = 5


class Solver(Protocol):
    """The needs of a race of an engine."""

    name: str

    def start(self) -> None:
        """Get ready."""

    def solve(self, cell: Cell, seed: int, deadline_s: float, *, without_sla: bool = False) -> dict[str, Any]:
        """The answer to the cell's problem of that seed."""


@dataclass(frozen=True, slots=True)
class Effort:
    """The size of a run: problems a cell, seconds a solve, seconds after which an engine leaves a cell."""

    instances: int
    deadline_s: float
    budget_s: float


@dataclass(slots=True)
class Record:
    """The results of one engine in a cell."""

    times_ms: list[float] = field(default_factory=list)
    failures: Counter[str] = field(default_factory=Counter)
    messages: list[str] = field(default_factory=list)
    instances: int = 0
    peak_mb: float = 0.0

    @property
    def spent_s(self) -> float:
        """All its solves together."""
        return sum(self.times_ms) / 1000

    def add(self, answer: Mapping[str, Any]) -> None:
        """Count an answer. A refused licence or an error has no time worth knowing; a passed deadline has."""
        self.instances += 1
        self.peak_mb = max(self.peak_mb, answer.get("peak_mb", 0.0))
        if answer["failure"]:
            self.fail(answer["failure"], answer["message"])
        if answer["failure"] in ("", "deadline"):
            self.times_ms.append(answer["ms"])

    def fail(self, kind: str, message: str) -> None:
        """Count a failure."""
        self.failures[kind] += 1
        if message not in self.messages:
            self.messages.append(message)

    def row(self, cell: Cell, engine: str) -> Row:
        """The row of the table."""
        kinds = {kind: self.failures[kind] for kind in FAILURES}
        return cell_row(
            engine,
            cell,
            self.instances,
            self.times_ms,
            self.failures.total(),
            peak_mb=round(self.peak_mb, 2),
            **kinds,
            messages=self.messages[:MESSAGES],
        )


def race(cell: Cell, engines: Sequence[Solver], effort: Effort, probe: Solver | None = None) -> list[Row]:
    """A row for each engine. All get problem 0, then all problem 1, ..., each time another engine first.

    An engine that has used up its budget drops out, so that its row counts fewer problems. `probe` finds
    how many problems are infeasible, and in how many the best plan would be better without the SLA.
    """
    records = {engine.name: Record() for engine in engines}
    infeasible = binding = known = 0
    for engine in engines:
        engine.start()
    for seed in range(effort.instances):
        running = [engine for engine in engines if records[engine.name].spent_s < effort.budget_s]
        first = seed % max(1, len(running))
        answers = {
            engine.name: engine.solve(cell, seed, effort.deadline_s)
            for engine in (*running[first:], *running[:first])
        }
        if not answers:
            break
        for name, answer in answers.items():
            records[name].add(answer)
        for name, message in disagreements(answers, f"{cell}, seed {seed}").items():
            records[name].fail("disagreement", message)
        proved = [answer for answer in answers.values() if answer["proved"]]
        if proved:
            known += 1
            best = max((value for value in map(_objective, proved)), default=-inf)
            infeasible += best == -inf
            if probe is not None and best > -inf:
                loose = probe.solve(cell, seed, effort.deadline_s, without_sla=True)
                binding += _objective(loose) > best + SAME * max(1.0, abs(best))
    shares = {"infeasible_share": infeasible / known if known else None}
    if probe is not None:
        shares["binding_share"] = binding / known if known else None
    return [{**records[engine.name].row(cell, engine.name), **shares} for engine in engines]


def disagreements(answers: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, str]:
    """By engine what is wrong with its proof: another engine has a better plan, which was checked.

    A plan whose objective lies below the best by more than rounding is no optimum, and where there is any
    plan the problem is not infeasible.
    """
    best = max(map(_objective, answers.values()), default=-inf)
    if best == -inf:
        return {}
    winner = max(answers, key=lambda name: _objective(answers[name]))
    wrong = {}
    for name, answer in answers.items():
        if answer["proved"] and best - _objective(answer) > SAME * max(1.0, abs(best)):
            claim = "infeasible" if answer["objective"] is None else repr(answer["objective"])
            wrong[name] = f"{where}: {name} proves {claim}, {winner} reaches {best!r}"
    return wrong


def _objective(answer: Mapping[str, Any]) -> float:
    return -inf if answer["objective"] is None else float(answer["objective"])
