"""Plans random instances of every kind with every engine; exits with 1 if any two differ."""

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

from tests.fakes.planner_agreement import KINDS, Agreement, examples, randoms

# Configurations up to which all are tried: about a second.
MOST = 20_000
SHOWN = 40


@dataclass
class Tally:
    """The results of the instances of one kind."""

    counts: Counter[str] = field(default_factory=Counter)
    difference: float = 0.0

    def add(self, agreement: Agreement) -> None:
        """Count one instance."""
        self.counts["instances"] += 1
        self.counts["feasible"] += agreement.feasible
        self.counts["enumerated"] += agreement.enumerated
        self.counts["disagreements"] += bool(agreement.faults)
        self.difference = max(self.difference, agreement.difference)

    def row(self) -> list[str]:
        """The numbers as text, in the order of the table."""
        names = ("instances", "feasible", "enumerated", "disagreements")
        return [*(f"{self.counts[name]}" for name in names), f"{self.difference:.1e}"]


def agreements(kind: str, count: int, start: int) -> Iterator[Agreement]:
    """Compare this many instances of the kind. A crash is a disagreement."""
    check = KINDS[kind][1]
    checked: list[Agreement] = []

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
            checked.append(check(random, MOST))
        except HypothesisException:
            raise
        except Exception:  # whatever an engine fails with is a disagreement, told with its trace
            checked.append(Agreement("", (), False, False, inf, (traceback.format_exc(),)))

    collect()
    yield from checked


def table(title: str, tallies: dict[str, Tally]) -> str:
    """The tallies as a Markdown table."""
    names = [title, "number", "feasible", "enumerated", "disagreements", "largest difference"]
    rows = [names, *([name, *tally.row()] for name, tally in tallies.items())]
    widths = [max(len(row[at]) for row in rows) for at in range(len(names))]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in rows
    ]
    ruler = "|-" + "-|-".join("-" * width for width in widths) + "-|"
    return "\n".join([lines[0], ruler, *lines[1:]])


def main() -> int:
    """Plan, compare and print; 1 if any results differ."""
    parser = argparse.ArgumentParser(prog="python -m experiments.agreement", description=__doc__)
    parser.add_argument("--instances", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    whole: dict[str, Tally] = {}
    special: dict[str, Tally] = {}
    for kind in KINDS:
        for agreement in agreements(kind, examples(kind, args.instances), args.seed):
            for name in (kind, "all"):
                whole.setdefault(name, Tally()).add(agreement)
            for name in agreement.kinds:
                special.setdefault(name, Tally()).add(agreement)
            if agreement.faults and whole["all"].counts["disagreements"] <= SHOWN:
                print(f"{kind}: {'; '.join(agreement.faults)}\n  {agreement.instance}")
        print(f"{kind}: {whole[kind].counts['instances']} done", file=sys.stderr, flush=True)
    whole["all"] = whole.pop("all")
    print(table("problem", whole), table("feature", dict(sorted(special.items()))), sep="\n\n")
    return 1 if whole["all"].counts["disagreements"] else 0


if __name__ == "__main__":
    sys.exit(main())
