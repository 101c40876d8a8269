"""The planner's benchmark: every part of it, its tables and its goals."""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from experiments.bench.cell import Cell
from experiments.bench.engines import Engine
from experiments.bench.fleet import fleet_row
from experiments.bench.goals import verdicts
from experiments.bench.pipelines import RATES_RPS, pipeline_rows
from experiments.bench.race import Effort, race
from experiments.bench.render import goal_lines, part_lines
from experiments.bench.rows import HEAD, Row
from ipa.model.pipeline import AccuracyRule
from ipa.optimize.problem import Compat

ENGINES = ("exact", "highs", "gurobi")
# A machine busier than this at the start gives figures that are not worth comparing.
QUIET = 0.5


@dataclass(frozen=True, slots=True)
class Scope:
    """The runs."""

    sizes: tuple[Cell, ...]
    tail: tuple[Cell, ...]
    growth: tuple[tuple[str, Cell], ...]
    sizes_effort: Effort
    growth_effort: Effort
    rates_rps: tuple[float, ...]
    # Fleets, and pipelines of each.
    fleets: tuple[int, int]


def full_scope() -> Scope:
    """All of it: about 15 minutes on two quiet cores."""
    sizes = ((2, 5), (3, 10), (5, 10), (10, 10), (10, 20))
    rules = (AccuracyRule.PRODUCT, AccuracyRule.SUM)
    return Scope(
        sizes=tuple(
            Cell(stages, variants, 7, cores, rule)
            for cores in (1, 4)
            for stages, variants in sizes
            for rule in rules
        ),
        tail=tuple(Cell(stages, 10, compat=Compat.TAIL) for stages in (3, 5, 10)),
        growth=(
            *(("stages", Cell(stages, 8)) for stages in (2, 4, 6, 8, 10, 12)),
            *(("variants", Cell(6, variants)) for variants in (2, 5, 10, 15, 20)),
            *(("batches", Cell(6, 8, batches)) for batches in range(1, 8)),
            *(("cores", Cell(6, 8, 7, cores)) for cores in range(1, 5)),
        ),
        sizes_effort=Effort(instances=50, deadline_s=20.0, budget_s=30.0),
        growth_effort=Effort(instances=15, deadline_s=20.0, budget_s=4.0),
        rates_rps=RATES_RPS,
        fleets=(10, 1000),
    )


def quick_scope() -> Scope:
    """Enough to see that everything works: below one minute."""
    return Scope(
        sizes=(Cell(2, 5), Cell(5, 10, accuracy=AccuracyRule.SUM), Cell(10, 10), Cell(10, 20, 7, 4)),
        tail=(Cell(3, 10, compat=Compat.TAIL),),
        growth=(
            ("stages", Cell(2, 8)),
            ("stages", Cell(6, 8)),
            ("variants", Cell(6, 4)),
            ("batches", Cell(6, 8, 3)),
            ("cores", Cell(6, 8, 7, 2)),
        ),
        sizes_effort=Effort(instances=4, deadline_s=2.0, budget_s=1.0),
        growth_effort=Effort(instances=2, deadline_s=2.0, budget_s=1.0),
        rates_rps=(2.0, 10.0, 30.0),
        fleets=(1, 100),
    )


def run(out: Path, *, quick: bool, say: Callable[[str], None]) -> int:
    """Run every part, print as it goes, write `planner.json` and `planner.md`.

    1 where engines disagree or a plan does not hold, else 0: a deadline, a licence and an answer that its own
    checks refused are counted and said, no more.
    """
    scope = quick_scope() if quick else full_scope()
    begin = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    lines: list[str] = []

    def tell(text: list[str]) -> None:
        """Print, and write all that is known by now."""
        say("\n".join(text))
        lines.extend(text)
        known = json.dumps(rows, indent=1, ensure_ascii=False)
        (out / "planner.json").write_text(known + "\n", encoding="utf-8")
        (out / "planner.md").write_text("\n".join(lines), encoding="utf-8")

    tell(_heading(scope, quick=quick))
    for part, made in _parts(scope):
        mine: list[Row] = []
        for row in made:
            mine.append({**row, "part": part})
            print(f"{part}: {', '.join(str(row[name]) for name in HEAD)}", file=sys.stderr, flush=True)
        rows += mine
        tell(part_lines(part, mine))
    tell([*goal_lines(verdicts(rows)), f"{time.monotonic() - begin:.0f} s in all.", ""])
    apart, errors = (sum(row.get(kind, 0) for row in rows) for kind in ("disagreement", "error"))
    agree = f"{apart} proofs contradict a better plan" if apart else "all proved optima agree"
    say(agree + (f"; {errors} answers were refused by their checks (see What failed)" if errors else ""))
    return 1 if apart else 0


def _parts(scope: Scope) -> Iterator[tuple[str, Iterable[Row]]]:
    yield "sizes", _races(scope.sizes, scope.sizes_effort)
    yield "tail", _races(scope.tail, scope.sizes_effort)
    yield "growth", _growth(scope.growth, scope.growth_effort)
    yield "pipelines", pipeline_rows(scope.rates_rps)
    yield "fleet", [fleet_row(*scope.fleets)]


def _races(cells: Iterable[Cell], effort: Effort) -> Iterator[Row]:
    """Each cell with new processes, whose memory is theirs alone."""
    with Engine("exact") as probe:
        for cell in cells:
            with ExitStack() as stack:
                engines = [stack.enter_context(Engine(name)) for name in ENGINES]
                yield from race(cell, engines, effort, probe)


def _growth(cells: Iterable[tuple[str, Cell]], effort: Effort) -> Iterator[Row]:
    """All cells with the same processes: memory is not told apart here."""
    with ExitStack() as stack:
        engines = [stack.enter_context(Engine(name)) for name in ENGINES]
        for varied, cell in cells:
            for row in race(cell, engines, effort):
                del row["peak_mb"]
                yield {**row, "varied": varied}


def _heading(scope: Scope, *, quick: bool) -> list[str]:
    load = os.getloadavg()[0]
    effort = scope.sizes_effort
    versions = ", ".join(f"{name} {version(name)}" for name in ("numpy", "highspy", "gurobipy"))
    return [
        "# Planner benchmark" + (" (quick: too few problems for figures)" if quick else ""),
        "",
        f"Python {platform.python_version()}, {versions}; {platform.machine()}, {os.cpu_count()} cores, "
        f"load {load:.1f} at the start" + ("" if load < QUIET else " (not quiet: times are too long)") + ".",
        f"{effort.instances} problems a cell, each given to every engine, one after the other in one run. "
        f"Milliseconds, from the problem to the verified plan, one thread; {effort.deadline_s:g} s a solve. "
        f"An engine that has used {effort.budget_s:g} s in a cell stops there: see instances.",
        "failures = deadline + licence + error + disagreement. A solve that passed its deadline counts with "
        "its time; one that was refused or failed has none. The SLA binds where the best plan without it is "
        "better.",
        "",
    ]
