"""The reference says what the code does."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from ipa.model.decision import Notice, ReasonCode


@pytest.mark.parametrize("tool", ["tools.reference", "tools.monitoring.__main__"])
def test_what_is_made_from_the_code_is_as_the_code_has_it(
    root: Path, tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", [tool, "--check"])
    assert import_module(tool).main() == 0, capsys.readouterr().out


def test_every_reason_is_explained(root: Path) -> None:
    text = (root / "docs" / "reference" / "reasons.md").read_text()
    assert [code.value for code in (*ReasonCode, *Notice) if f"| `{code.value}` |" not in text] == []
