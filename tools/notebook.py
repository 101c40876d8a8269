"""Executes docs/how-to/compare-in-a-notebook.ipynb and writes the outputs into it.

`--check` fails if they differ. A small stand-in for Jupyter, which need not be installed: cells run in one
namespace; what they print and the value of their last expression are their outputs, as text, HTML or SVG.
"""

from __future__ import annotations

import ast
import json
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "how-to" / "compare-in-a-notebook.ipynb"
# The richest form of a value that a notebook shows, by the method that gives it.
FORMS = {"_repr_svg_": "image/svg+xml", "_repr_html_": "text/html", "_repr_markdown_": "text/markdown"}


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the outputs of its code cells."""
    space: dict[str, Any] = {"__name__": "__main__"}
    number = 0
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        number += 1
        cell["execution_count"], cell["outputs"] = number, _outputs("".join(cell["source"]), space, number)
    return notebook


def _outputs(source: str, space: dict[str, Any], number: int) -> list[dict[str, Any]]:
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with redirect_stdout(StringIO()) as printed:
        exec(compile(tree, "<cell>", "exec"), space)
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), space) if last else None  # type: ignore[attr-defined]
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": text})
    if value is not None:
        data = {form: getattr(value, name)() for name, form in FORMS.items() if hasattr(value, name)}
        data = {form: text.splitlines(keepends=True) for form, text in data.items()}
        shown = data or {"text/plain": repr(value).splitlines(keepends=True)}
        outputs.append(
            {"data": shown, "execution_count": number, "metadata": {}, "output_type": "execute_result"}
        )
    return outputs


def text_of(notebook: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    """0 if the notebook is as it should be (after writing, always)."""
    before = NOTEBOOK.read_text("utf-8")
    after = text_of(executed(json.loads(before)))
    if "--check" in sys.argv[1:]:
        return int(before != after)
    NOTEBOOK.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
