"""The reference says what the code does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ipa.model.decision import Notice, ReasonCode


@pytest.mark.parametrize("tool", [("tools/reference.py",), ("-m", "tools.monitoring")], ids=" ".join)
def test_what_is_made_from_the_code_is_as_the_code_has_it(root: Path, tool: tuple[str, ...]) -> None:
    run = subprocess.run(
        [sys.executable, *tool, "--check"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_reason_is_explained(root: Path) -> None:
    text = (root / "docs" / "reference" / "reasons.md").read_text()
    assert [code.value for code in (*ReasonCode, *Notice) if f"| `{code.value}` |" not in text] == []
