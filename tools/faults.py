"""docs/explanation/faults.md from runs/faults/table.json, which `make faults` writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "runs" / "faults" / "table.json"
PAGE = ROOT / "docs" / "explanation" / "faults.md"
# So many different values of one figure are listed, then only how many there are.
MOST_VALUES = 3

GROUPS = {
    "K": "The Kubernetes API server",
    "P": "Prometheus",
    "C": "Clocks",
    "S": "Solvers",
    "A": "Ends and restarts at any point, the store",
    "L": "Two replicas of the service",
    "W": "Workloads",
    "I": "Inputs",
    "H": "Requests of others",
    "F": "Forecasts and the history",
    "O": "Operation",
    "R": "Attack and growth",
    "G": "The genuine Seldon",
}

HEAD = """# What goes wrong, and what then happens

Every row is a fault that the service is built for, tried by the tests of that name in `tests/faults`.
`make faults` runs them all, checks the figures and prints them one by one; `python tools/faults.py` makes
this page of its table. A bound in brackets is what the figure must keep. Beside it stands what a plain
adapter comes to in the same case: one that reads the object, changes it and writes it back, repeats what
fails, and believes `status.state`.

What holds after *every* step of these tests: batch, variant and replicas within the profile's domain and
the floor; never more cores than the budget, old and new pods together; no write without leadership, in
advisory or shadow mode, while paused or frozen; missing, invalid or stale data never lowers capacity; one
change in flight; a durable record before each write; fields of others byte-identical; a specific reason
for every hold.

"""


def merged(rows: Sequence[Mapping[str, str]]) -> str:
    """The figures of several tests of one row: each name with the different values it has."""
    values: dict[str, list[str]] = {}
    for row in rows:
        for name, value in row.items():
            seen = values.setdefault(name, [])
            if value not in seen:
                seen.append(value)
    return "; ".join(f"{name} {_several(seen)}" for name, seen in values.items())


def _several(values: Sequence[str]) -> str:
    if len(values) <= MOST_VALUES:
        return " / ".join(values)
    return f"{' / '.join(values[:MOST_VALUES])} / … ({len(values)} values)"


def page(entries: Sequence[Mapping[str, Any]]) -> str:
    """The page, a table a group of rows."""
    lines = [HEAD.rstrip("\n"), ""]
    for group, title in GROUPS.items():
        lines += [f"## {title}", "", "| case | tests | figures | plain adapter |", "|---|---|---|---|"]
        rows = sorted(
            {entry["row"] for entry in entries if entry["row"][0] == group}, key=lambda row: int(row[1:])
        )
        for row in rows:
            mine = [entry for entry in entries if entry["row"] == row]
            passed = sum(entry["passed"] for entry in mine)
            tests = str(len(mine)) if passed == len(mine) else f"{passed} of {len(mine)} pass"
            figures = merged([it["figures"] | ({"seeds": it["seeds"]} if it["seeds"] else {}) for it in mine])
            cells = (row, tests, figures, merged([it["plain"] for it in mine]))
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        lines.append("")
    return "\n".join(lines)


def main() -> int:
    """Write the page; 1 where there is no table yet."""
    if not TABLE.is_file():
        print(f"{TABLE} is not there; `make faults` writes it", file=sys.stderr)
        return 1
    PAGE.write_text(page(json.loads(TABLE.read_text(encoding="utf-8"))), encoding="utf-8")
    print(PAGE.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
