"""Plans random instances of every kind with every engine; ends with 1 where any two do not agree."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf
from random import Random

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import HypothesisException
from rich.console import Console
from rich.table import Table

from tests.fakes.planner_agreement import KINDS, Agreement, examples, randoms

# Configurations up to which all are tried: about a second.
MOST = 20_000
SHOWN = 40


@dataclass
class Tally:
    """What came of the instances of one kind."""

    counts: Counter[str] = field(default_factory=Counter)
    difference: float = 0.0

    def add(self, found: Agreement) -> None:
        """Count one instance."""
        self.counts["instances"] += 1
        self.counts["feasible"] += found.feasible
        self.counts["enumerated"] += found.enumerated
        self.counts["disagreements"] += bool(found.faults)
        self.difference = max(self.difference, found.difference)

    def row(self) -> list[str]:
        """The numbers as text, in the order of the table."""
        names = ("instances", "feasible", "enumerated", "disagreements")
        return [*(f"{self.counts[name]}" for name in names), f"{self.difference:.1e}"]


def agreements(kind: str, count: int, start: int) -> Iterator[Agreement]:
    """So many instances of the kind, compared. A crash is a disagreement."""
    check = KINDS[kind][1]
    found: list[Agreement] = []

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(randoms)
    def collect(random: Random) -> None:
        try:
            found.append(check(random, MOST))
        except HypothesisException:
            raise
        except Exception:
            found.append(Agreement("", (), False, False, inf, (traceback.format_exc(),)))

    collect()
    yield from found


def report(whole: dict[str, Tally], special: dict[str, Tally], console: Console) -> None:
    """The table: what was asked, and what was special about the problems of pipelines."""
    for title, tallies in (("Instances", whole), ("What was special about them", special)):
        table = Table(title=title)
        for name in ("", "number", "feasible", "enumerated", "disagreements", "largest difference"):
            table.add_column(name, justify="right" if name else "left")
        for name, tally in tallies.items():
            table.add_row(name, *tally.row())
        console.print(table)


def main() -> int:
    """Plan, compare and print; 1 where anything disagrees."""
    parser = argparse.ArgumentParser(prog="python -m experiments.agreement", description=__doc__)
    parser.add_argument("--instances", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    console = Console(width=120)
    whole: dict[str, Tally] = {}
    special: dict[str, Tally] = {}
    for kind in KINDS:
        for found in agreements(kind, examples(kind, asked.instances), asked.seed):
            for name in (kind, "all"):
                whole.setdefault(name, Tally()).add(found)
            for name in found.kinds:
                special.setdefault(name, Tally()).add(found)
            if found.faults and whole["all"].counts["disagreements"] <= SHOWN:
                print(f"{kind}: {'; '.join(found.faults)}\n  {found.instance}")
        print(f"{kind}: {whole[kind].counts['instances']} done", file=sys.stderr, flush=True)
    whole["all"] = whole.pop("all")
    report(whole, dict(sorted(special.items())), console)
    return 1 if whole["all"].counts["disagreements"] else 0


if __name__ == "__main__":
    sys.exit(main())
