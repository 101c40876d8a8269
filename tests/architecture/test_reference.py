"""The reference says what the code does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ipa.model.decision import Notice, ReasonCode


def test_settings_and_commands_are_as_in_the_code(root: Path) -> None:
    run = subprocess.run(
        [sys.executable, "tools/reference.py", "--check"],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_every_reason_is_explained(root: Path) -> None:
    text = (root / "docs" / "reference" / "reasons.md").read_text()
    assert [code.value for code in (*ReasonCode, *Notice) if f"| `{code.value}` |" not in text] == []
