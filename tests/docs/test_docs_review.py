"""docs/how-to/review-changes.md: its commands are run in a git repository, and print what it shows."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from ipa.cli.main import run
from tests.fakes.reviewed import PIPELINE, edit, entered, git, remember

ROOT = Path(__file__).resolve().parents[2]
PROFILE = "profiles/video/crop.yaml"
PAGE = (ROOT / "docs" / "how-to" / "review-changes.md").read_text()
BLOCK = re.compile(r"^```(bash|diff|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
pytestmark = [
    pytest.mark.skipif(shutil.which("git") is None, reason="needs git: apt-get install git"),
    pytest.mark.xdist_group("reviews"),
]


def change_of(diff: str) -> tuple[str, str]:
    """The lines that a diff takes away, and those it adds."""
    sides = [[line[1:] for line in diff.splitlines() if line[0] == sign] for sign in "-+"]
    return "\n".join(sides[0]), "\n".join(sides[1])


def ran(line: str, capfd: pytest.CaptureFixture[str]) -> str:
    """The output of the `ipa` command, which must end with the code that its comment says."""
    command, _, exit_code = line.partition("   # exit code ")
    code = run(shlex.split(command)[1:])
    out, err = capfd.readouterr()
    assert code == int(exit_code), f"{line}\n{out}{err}"
    return "\n".join(text.rstrip() for text in out.splitlines()) + "\n"


def test_the_page_shows_what_its_commands_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = entered(tmp_path, monkeypatch)
    remember(monkeypatch)
    printed, shown = "", 0
    for kind, body in BLOCK.findall(PAGE):
        if kind == "diff":
            git(folder, "checkout", "--quiet", ".")
            edit(folder / (PROFILE if "accuracy: 0." in body else PIPELINE), change_of(body))
        elif kind == "bash":
            [line] = body.splitlines()
            printed = ran(line, capfd)
        else:
            shown += 1
            assert body == printed
    assert shown == 3
