"""Passages: lines of docstrings and code of numpy, SciPy and scikit-learn, as their wheels carry them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

TOPICS = (
    *("numpy.lib",),
    *(
        f"scipy.{name}"
        for name in ("integrate", "interpolate", "ndimage", "optimize", "signal", "sparse", "stats")
    ),
    *(f"sklearn.{name}" for name in ("cluster", "ensemble", "linear_model", "metrics", "model_selection")),
)
# So that no module has most of the passages.
OBJECTS_OF_A_TOPIC = 40
MIN_PROSE, MIN_CODE = 12, 9
# Shorter lines are headings and names of parameters.
MIN_LINE_CHARACTERS = 35
# Of the lines of an object every third is in the test part.
TEST_EVERY = 3
PROSE_LINES, CODE_LINES = 4, 3
SEED = 0


@dataclass(frozen=True, slots=True)
class Documented:
    """A public class or function: lines of its docstring, and of its code with the comments."""

    topic: str
    name: str
    prose: tuple[str, ...]
    code: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Passage:
    """Lines of one object in random order, and which of them are prose."""

    topic: str
    name: str
    lines: tuple[str, ...]
    is_prose: tuple[bool, ...]

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)

    @property
    def prose(self) -> str:
        """The lines that are prose."""
        return "\n".join(line for line, is_prose in zip(self.lines, self.is_prose, strict=True) if is_prose)


@cache
def documented() -> tuple[Documented, ...]:
    """The first objects of each topic, by file and line. Nothing is imported: the files are parsed."""
    return tuple(it for topic in TOPICS for it in _of_topic(topic))


def passages(*, training: bool, draws: int, seed: int = SEED) -> list[Passage]:
    """That many passages of every object, from the lines of the training or the test part."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(draws):
        for it in documented():
            prose = _drawn(part(it.prose, training=training), PROSE_LINES, random)
            code = _drawn(part(it.code, training=training), CODE_LINES, random)
            order = random.permutation(PROSE_LINES + CODE_LINES)
            lines = [*prose, *code]
            made.append(
                Passage(
                    it.topic,
                    it.name,
                    tuple(lines[place] for place in order),
                    tuple(bool(place < PROSE_LINES) for place in order),
                )
            )
    return made


def part(lines: Sequence[str], *, training: bool) -> list[str]:
    """The lines of the training or the test part. Which is which does not depend on a seed."""
    return [line for number, line in enumerate(lines) if (number % TEST_EVERY != 0) == training]


def _drawn(lines: Sequence[str], count: int, random: np.random.Generator) -> list[str]:
    return [lines[place] for place in random.choice(len(lines), count, replace=False)]


def _of_topic(topic: str) -> list[Documented]:
    package, _, module = topic.partition(".")
    spec = find_spec(package)
    assert spec is not None and spec.origin is not None  # the wheels of the lock
    folder = Path(spec.origin).parent / module
    found: dict[str, Documented] = {}
    for path in sorted(folder.rglob("*.py")):
        if "tests" in path.relative_to(folder).parts:
            continue
        for it in _of_file(topic, path.read_text(encoding="utf-8")):
            found.setdefault(it.name, it)
            if len(found) == OBJECTS_OF_A_TOPIC:
                return list(found.values())
    return list(found.values())


def _of_file(topic: str, source: str) -> Iterator[Documented]:
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        text = ast.get_docstring(node)
        if text is None:
            continue
        prose = _distinct(line for line in text.splitlines() if ">>>" not in line)
        code = _distinct(lines[(node.body[0].end_lineno or 0) : node.end_lineno])
        if len(prose) >= MIN_PROSE and len(code) >= MIN_CODE:
            yield Documented(topic, node.name, prose, code)


def _distinct(lines: Iterator[str] | Sequence[str]) -> tuple[str, ...]:
    stripped = (line.strip() for line in lines)
    return tuple(dict.fromkeys(line for line in stripped if len(line) >= MIN_LINE_CHARACTERS))
