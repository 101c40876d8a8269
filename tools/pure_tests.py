"""Prints the quick test files of the pure rooms: those that import no other room, themselves or by a helper.

`make test-fast` runs these. `make mutants` also takes the slow ones.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("tests/unit", "tests/property", "tests/golden", "tests/simulation")
# Comparisons with enumeration over hundreds of problems: half of the time of all these files.
SLOW = "*_agreement.py"
# Rooms whose tests need no file, no process and no network.
PURE = (
    *("ipa.model", "ipa.queueing", "ipa.optimize", "ipa.forecast", "ipa.policies", "ipa.profiling"),
    *("ipa.control", "ipa.simulate"),
)


def all_tests() -> list[Path]:
    """The test files of `FOLDERS`."""
    return [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("test_*.py"))]


def pure_tests() -> list[Path]:
    """The test files that reach no room of ipa but the pure ones."""
    return [path for path in all_tests() if (rooms := imported(path)) and all(map(_is_pure, rooms))]


def _is_pure(module: str) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in PURE)


@cache
def imported(path: Path) -> frozenset[str]:
    """The modules of ipa, and the experiments, that a file of tests imports, itself or by its helpers."""
    modules: set[str] = set()
    for module in _names(ast.parse(path.read_text())):
        if module.startswith("tests."):
            helper = ROOT / Path(*module.split(".")).with_suffix(".py")
            modules |= imported(helper) if helper.is_file() and helper != path else set()
        elif module.split(".")[0] in ("ipa", "experiments"):
            modules.add(module)
    return frozenset(modules)


def _names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module in ("ipa", "tests", "tests.fakes"):
                yield from (f"{node.module}.{each.name}" for each in node.names)
            else:
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names)


if __name__ == "__main__":
    print(*(path.relative_to(ROOT) for path in pure_tests() if not path.match(SLOW)), sep="\n")
