"""The figures of the fault cases, kept by row and printed as one table.

A test of row K1 is called `test_k1_...` and takes the fixture `case`; what it finds it says there, and the
saying is the assertion. `python -m pytest tests/faults --faults-table FOLDER` writes table.md and table.json.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tools.faults import FAULTS

# `make faults` walks every variant of a case.
WHOLE = os.environ.get("IPA_FAULT_HOURS") is not None
T = TypeVar("T")
ROW = re.compile(r"test_([kpcsalwihforgv])_?(\d+)_")


@dataclass
class Case:
    """One test of a row: its figures and its seeds."""

    row: str
    title: str
    figures: dict[str, str] = field(default_factory=dict)
    seeds: str = ""

    def equal(self, name: str, value: Any, wanted: Any) -> None:
        """Say a figure that must be exactly this."""
        self.figures[name] = f"{_text(value)}"
        assert value == wanted, f"{self.row}: {name} is {value!r}, not {wanted!r}"

    def at_most(self, name: str, value: float, limit: float) -> None:
        """Say a figure that must not be above the limit."""
        self.figures[name] = f"{_text(value)} (≤ {_text(limit)})"
        assert value <= limit, f"{self.row}: {name} is {value!r}, above {limit!r}"

    def at_least(self, name: str, value: float, limit: float) -> None:
        """Say a figure that must not be below the limit."""
        self.figures[name] = f"{_text(value)} (≥ {_text(limit)})"
        assert value >= limit, f"{self.row}: {name} is {value!r}, below {limit!r}"

    def note(self, name: str, value: Any) -> None:
        """Say a figure for which there is no limit."""
        self.figures[name] = _text(value)


def variants(shown: Sequence[T], others: Sequence[T]) -> list[T]:
    """The variants of a case that `make test` walks, and in `make faults` the others too."""
    return [*shown, *(others if WHOLE else ())]


def case_of(test: str) -> Case:
    """The case that a test's name says; ValueError where it says none of `FAULTS`."""
    match = ROW.match(test)
    if match is None:
        raise ValueError(f"a fault test is called test_<row>_<what>, not {test}")
    name, row = test.partition("[")[0], f"{match[1].upper()}{match[2]}"
    if row not in FAULTS:
        raise ValueError(f"{row} of {name} has no words in FAULTS of tools/faults.py")
    return Case(row, name[match.end() :].replace("_", " "))


def rows_without(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows that no test has."""
    have = {entry["row"] for entry in entries}
    return [row for row in FAULTS if row not in have]


def markdown(entries: Sequence[Mapping[str, Any]]) -> str:
    """The table: a line a test, in the order of the rows."""
    lines = [
        "| case | | what | figures | seeds | s |",
        "|---|---|---|---|---|---|",
        *(_line(entry) for entry in sorted(entries, key=_order)),
    ]
    missing = rows_without(entries)
    passed = sum(entry["passed"] for entry in entries)
    lines.append("")
    lines.append(
        f"{passed} of {len(entries)} tests pass; rows without a test: {', '.join(missing) or 'none'}."
    )
    return "\n".join(lines)


def write(entries: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """The table as text, also kept in the folder as table.md and table.json."""
    folder.mkdir(parents=True, exist_ok=True)
    text = markdown(entries)
    (folder / "table.md").write_text(text + "\n", encoding="utf-8")
    (folder / "table.json").write_text(json.dumps(sorted(entries, key=_order), indent=1), encoding="utf-8")
    return text


def entry_of(case: Case, passed: bool, duration_s: float) -> dict[str, Any]:
    """The case as plain values."""
    return {**asdict(case), "passed": passed, "duration_s": round(duration_s, 2)}


def _line(entry: Mapping[str, Any]) -> str:
    def cell(values: Mapping[str, str]) -> str:
        return "; ".join(f"{name} {value}" for name, value in values.items())

    mark = "pass" if entry["passed"] else "FAIL"
    cells = (
        entry["row"],
        mark,
        entry["title"],
        cell(entry["figures"]),
        entry["seeds"],
        f"{entry['duration_s']:.1f}",
    )
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"


def _order(entry: Mapping[str, Any]) -> tuple[int, str]:
    return list(FAULTS).index(entry["row"]), entry["title"]


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
