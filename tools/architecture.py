"""Measures the rooms of ipa/ and the walls between them.

`python -m tools.architecture` prints them, removes from `KNOWN` the faults that the working tree no longer
has, adds none, and lowers the budgets (`tools.budgets`). tests/architecture compares the working tree with
`KNOWN` by the functions here.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator, Sized
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import grimp
from rich import print as show
from rich.table import Table

from tools.budgets import main as lower
from tools.sample_prose import docstrings

ROOT = Path(__file__).resolve().parent.parent
# The faults that are still allowed: circles by their modules, repeated class names with the files of each,
# the number of files that name Seldon, and by room the public docstrings that start like a question.
KNOWN = ROOT / "tests" / "architecture" / "known.json"
# A file below this is rarely an idea of its own.
SMALL_LINES = 50
# The room that may name Seldon.
SELDON_ROOMS = ("targets/seldon/",)
HEADS = ("lines", "files", f"under {SMALL_LINES} lines", "largest", "mean")
# The name of the room that the files at the top of the package count as.
TOP = "(top)"
# A docstring says what a thing is or does; one that starts with these describes it as a question.
QUESTIONS = ("What", "Whether", "Who", "When", "So", "How")
# The faces of the service. Only the room that composes the service names concrete adapters.
FACES, CONCRETE = ("ipa.cli", "ipa.api", "ipa.clients"), ("ipa.adapters", "ipa.targets")


@dataclass(frozen=True, slots=True)
class Room:
    """A folder of ipa/, or the files at its top, by the lines of each file."""

    name: str
    lines: tuple[int, ...]

    @property
    def small_files(self) -> int:
        """The number of files under `SMALL_LINES`, empty ones aside."""
        return sum(0 < each < SMALL_LINES for each in self.lines)

    @property
    def cells(self) -> tuple[int, ...]:
        """Lines, files, small files, largest and mean file."""
        files = len(self.lines)
        return sum(self.lines), files, self.small_files, max(self.lines), round(sum(self.lines) / files)


@dataclass(frozen=True)
class House:
    """The package ipa/ of one checkout of the repository."""

    folder: Path

    def files(self) -> dict[str, Path]:
        """The Python files by their path inside ipa/."""
        package = self.folder / "ipa"
        return {path.relative_to(package).as_posix(): path for path in sorted(package.rglob("*.py"))}

    def rooms(self) -> dict[str, Room]:
        """The rooms by name; the files at the top of the package count as one room."""
        lines = defaultdict(list)
        for name, path in self.files().items():
            lines[name.split("/")[0] if "/" in name else TOP].append(len(path.read_text().splitlines()))
        return {name: Room(name, tuple(each)) for name, each in sorted(lines.items())}

    @cached_property
    def imports(self) -> dict[str, set[str]]:
        """The modules of the package that each one imports, at the top of the file or inside a function."""
        # grimp finds a package by the path of imports, where an installed ipa must not come first.
        sys.path.insert(0, str(self.folder))
        loaded = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "ipa"}
        try:
            graph = grimp.build_graph("ipa", cache_dir=None)
        finally:
            sys.path.remove(str(self.folder))
            sys.modules.update(loaded)
        return {name: set(graph.find_modules_directly_imported_by(name)) for name in graph.modules}

    def circles(self) -> list[tuple[str, ...]]:
        """The strongly connected components of more than one module, the largest first."""
        circles = [tuple(sorted(each)) for each in components(self.imports) if len(each) > 1]
        return sorted(circles, key=lambda each: (-len(each), each))

    def upward_imports(self) -> list[tuple[str, str]]:
        """The imports of a module above, or beside, the importer's layer in pyproject.toml."""
        layers = self.layers()
        pairs = []
        for importer, imported in self.imports.items():
            here = _layer(importer, layers)
            for other in sorted(imported):
                there = _layer(other, layers)
                if here is None or there is None or here[1] == there[1]:
                    continue
                # A lower index is a higher layer; rooms of one layer know nothing of each other.
                if there[0] <= here[0]:
                    pairs.append((importer, other))
        return sorted(pairs)

    def layers(self) -> list[list[str]]:
        """The layers that pyproject.toml declares over the whole package, the highest first."""
        contracts = tomllib.loads((self.folder / "pyproject.toml").read_text())["tool"]["importlinter"][
            "contracts"
        ]
        declared = [
            each["layers"] for each in contracts if each["type"] == "layers" and not each.get("containers")
        ]
        return [re.findall(r"[\w.]+", layer) for layer in max(declared, key=len)]

    def faces_on_adapters(self) -> list[str]:
        """The modules of the faces that import an adapter themselves."""
        return sorted(
            importer
            for importer, imported in self.imports.items()
            if importer.startswith(FACES) and any(each.startswith(CONCRETE) for each in imported)
        )

    def files_on_seldon(self) -> list[str]:
        """The files that name Seldon, in upper or lower case, outside `SELDON_ROOMS`."""
        return [
            name
            for name, path in self.files().items()
            if not name.startswith(SELDON_ROOMS) and "seldon" in path.read_text().casefold()
        ]

    def faults(self) -> Faults:
        """The faults that tests/architecture refuses unless they are known."""
        repeated = {name: len(files) for name, files in self.repeated_classes().items()}
        return Faults(
            tuple(self.circles()), repeated, len(self.files_on_seldon()), self.question_docstrings()
        )

    def question_docstrings(self) -> dict[str, int]:
        """The number of public docstrings, by room, that start with one of `QUESTIONS`."""
        counts = Counter(
            name.split("/")[0] if "/" in name else TOP
            for name, path in self.files().items()
            for _, text in docstrings(path, self.folder)
            if text.split()[0].rstrip(",.:") in QUESTIONS
        )
        return dict(sorted(counts.items()))

    def repeated_classes(self) -> dict[str, list[str]]:
        """The public class names that more than one file defines at its top level, with those files."""
        places = defaultdict(list)
        for name, path in self.files().items():
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(name)
        return {name: files for name, files in sorted(places.items()) if len(files) > 1}


@dataclass(frozen=True, slots=True)
class Faults:
    """The circles, repeated class names, files on Seldon and docstrings like questions, or those allowed."""

    circles: tuple[tuple[str, ...], ...]
    repeated_classes: dict[str, int]
    files_on_seldon: int
    question_docstrings: dict[str, int]

    def beyond(self, allowed: Faults) -> list[str]:
        """A line for each fault that is not allowed; a part of an allowed circle is."""
        circles = [
            f"a circle of {len(each)} modules: {', '.join(each)}"
            for each in self.circles
            if not any({*each} <= {*known} for known in allowed.circles)
        ]
        classes = [
            f"{files} files define a public class {name}: rename it so that its name says its room"
            for name, files in self.repeated_classes.items()
            if files > allowed.repeated_classes.get(name, 1)
        ]
        grown = self.files_on_seldon > allowed.files_on_seldon
        seldon = f"{self.files_on_seldon} files name Seldon outside its target; {allowed.files_on_seldon} may"
        asking = [
            f"{count} public docstrings in {room} start with one of {', '.join(QUESTIONS)}: "
            "start with a noun or a verb"
            for room, count in self.question_docstrings.items()
            if count > allowed.question_docstrings.get(room, 0)
        ]
        return [*circles, *classes, *([seldon] if grown else ()), *asking]

    def within(self, allowed: Faults) -> Faults:
        """These faults as far as they are allowed."""
        repeated = {
            name: min(files, allowed.repeated_classes.get(name, 1))
            for name, files in self.repeated_classes.items()
        }
        return Faults(
            tuple(each for each in self.circles if any({*each} <= {*known} for known in allowed.circles)),
            {name: files for name, files in repeated.items() if files > 1},
            min(self.files_on_seldon, allowed.files_on_seldon),
            {
                room: min(count, allowed.question_docstrings[room])
                for room, count in self.question_docstrings.items()
                if room in allowed.question_docstrings
            },
        )


def known_faults() -> Faults:
    """The faults in `KNOWN`."""
    read = json.loads(KNOWN.read_text())
    return Faults(
        tuple(map(tuple, read["circles"])),
        read["repeated_classes"],
        read["files_on_seldon"],
        read["question_docstrings"],
    )


def components(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """The strongly connected components of a directed graph (Tarjan), without recursion."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    waiting: list[str] = []
    for start in sorted(graph):
        if start in index:
            continue
        path = [(start, iter(sorted(graph[start])))]
        index[start] = low[start] = len(index)
        waiting.append(start)
        while path:
            node, rest = path[-1]
            for other in rest:
                if other not in index:
                    index[other] = low[other] = len(index)
                    waiting.append(other)
                    path.append((other, iter(sorted(graph.get(other, ())))))
                    break
                if other in waiting:
                    low[node] = min(low[node], index[other])
            else:
                path.pop()
                if path:
                    low[path[-1][0]] = min(low[path[-1][0]], low[node])
                if low[node] == index[node]:
                    cut = waiting.index(node)
                    yield waiting[cut:]
                    del waiting[cut:]


def _layer(module: str, layers: list[list[str]]) -> tuple[int, str] | None:
    """The index of a module's layer and its room; None for a module outside the layers."""
    for index, rooms in enumerate(layers):
        for room in rooms:
            if module == room or module.startswith(f"{room}."):
                return index, room
    return None


def main() -> None:
    """Print the rooms and the figures of the whole, shorten the list of known faults, lower the budgets."""
    house = House(ROOT)
    KNOWN.write_text(json.dumps(asdict(house.faults().within(known_faults())), indent=1) + "\n")
    rooms = house.rooms()
    whole = Room("all", tuple(line for room in rooms.values() for line in room.lines))
    made = Table("room", *HEADS)
    for room in (*rooms.values(), whole):
        made.add_row(room.name, *map(str, room.cells))
    show(made)
    figures: dict[str, Sized] = {
        "circles": house.circles(),
        "imports against the layers": house.upward_imports(),
        "files of cli and api that import an adapter": house.faces_on_adapters(),
        "files that name Seldon outside its target": house.files_on_seldon(),
        "public class names used more than once": house.repeated_classes(),
    }
    for name, entries in figures.items():
        show(f"{name}: {len(entries)}")
    lower()


if __name__ == "__main__":
    main()
