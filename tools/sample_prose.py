"""Prints public docstrings and hold messages of ipa/, drawn at random with a fixed seed, for people to judge.

`python -m tools.sample_prose [COUNT] [SEED]`. Each must be clear at the first reading. Hold messages are the
texts in `ipa.control.engine`, with the expressions that fill them in braces.
"""

from __future__ import annotations

import ast
import random
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENGINE = ROOT / "ipa" / "control" / "engine"
COUNT, SEED = 40, 15
# A text with fewer words is a part of a message.
LEAST_WORDS = 4


def docstrings(path: Path, folder: Path = ROOT) -> Iterator[tuple[str, str]]:
    """Yield (name, docstring) of a module below `folder` and of its public classes, functions and methods."""
    module = ".".join(path.relative_to(folder).with_suffix("").parts)
    yield from _docstrings(ast.parse(path.read_text()), module.removesuffix(".__init__"))


def _docstrings(node: ast.Module | ast.ClassDef, name: str) -> Iterator[tuple[str, str]]:
    if text := ast.get_docstring(node):
        yield name, text
    for each in node.body:
        if not isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or each.name[0] == "_":
            continue
        if isinstance(each, ast.ClassDef):
            yield from _docstrings(each, f"{name}.{each.name}")
        elif text := ast.get_docstring(each):
            yield f"{name}.{each.name}", text


def messages(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (place, text) of the messages in a file: its texts other than docstrings."""
    tree = ast.parse(path.read_text())
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    inside |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in inside:
            continue
        if isinstance(node, ast.JoinedStr):
            text = "".join(
                str(part.value) if isinstance(part, ast.Constant) else f"{{{ast.unparse(part.value)}}}"
                for part in node.values
                if isinstance(part, ast.Constant | ast.FormattedValue)
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if len(text.split()) >= LEAST_WORDS:
            yield f"{path.name}:{node.lineno}", text


def main(count: int = COUNT, seed: int = SEED) -> None:
    """Print `count` docstrings and as many hold messages."""
    chance = random.Random(seed)
    texts = sorted(each for path in (ROOT / "ipa").rglob("*.py") for each in docstrings(path))
    holds = sorted(each for path in ENGINE.glob("*.py") for each in messages(path))
    for heading, named in (("Public docstrings", texts), ("Hold messages", holds)):
        print(f"{heading} ({min(count, len(named))} of {len(named)}, seed {seed})\n")
        for name, text in chance.sample(named, min(count, len(named))):
            print(f"{name}\n{textwrap.indent(text, '    ')}\n")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
