"""`ipa` in this process: a command line is run, its exit code checked, and its output handed back."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import pytest

from ipa.cli.main import run


class Printed(NamedTuple):
    """The output of a command, and its complaints."""

    out: str
    err: str


class Ipa(Protocol):
    """Run `ipa` with these words; it must end with this code."""

    def __call__(self, *words: str, code: int = 0) -> Printed: ...


def ipa_with(captured: pytest.CaptureFixture[str]) -> Ipa:
    """The command, whose output is captured there."""

    def command(*words: str, code: int = 0) -> Printed:
        ended = run(list(words))
        printed = Printed(*captured.readouterr())
        assert ended == code, printed
        assert "Traceback" not in printed.err
        return printed

    return command
