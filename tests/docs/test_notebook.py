"""The notebook's outputs are those that its cells give."""

from __future__ import annotations

import json

from tools.notebook import NOTEBOOK, executed, text_of


def test_the_notebook_was_executed_as_it_is() -> None:
    before = NOTEBOOK.read_text("utf-8")
    outputs = [cell["outputs"] for cell in json.loads(before)["cells"] if cell["cell_type"] == "code"]
    assert len(outputs) > 3
    assert all(outputs)
    assert text_of(executed(json.loads(before))) == before
