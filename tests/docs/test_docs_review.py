"""docs/how-to/review-changes.md: its commands are run in a git repository, and print what it shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.reviewed import GUARDRAILS, PIPELINE, edit, git, make

ROOT = Path(__file__).resolve().parents[2]
PROFILE = "profiles/video/crop.yaml"
PAGE = (ROOT / "docs" / "how-to" / "review-changes.md").read_text()
BLOCK = re.compile(r"^```(bash|diff|text)\n(.*?)^```", re.MULTILINE | re.DOTALL)
pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git: apt-get install git")


def change_of(diff: str) -> tuple[str, str]:
    """The lines that a diff takes away, and those it adds."""
    sides = [[line[1:] for line in diff.splitlines() if line[0] == sign] for sign in "-+"]
    return "\n".join(sides[0]), "\n".join(sides[1])


def ran(folder: Path, line: str) -> str:
    """The output of the command, which must end with the code that its comment says."""
    command, _, said = line.partition("   # exit code ")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    given = {key: value for key, value in os.environ.items() if not key.startswith("IPA_")}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env={**given, "PATH": path}, capture_output=True, text=True,
        timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == int(said), f"{line}\n{done.stdout}{done.stderr}"
    return "\n".join(text.rstrip() for text in done.stdout.splitlines()) + "\n"


def test_the_page_shows_what_its_commands_print(tmp_path: Path) -> None:
    folder = tmp_path / "repository"
    folder.mkdir()
    make(folder)
    assert f"```yaml\n{GUARDRAILS}```" in PAGE
    printed, changes, shown = "", [], 0
    for kind, body in BLOCK.findall(PAGE):
        if kind == "diff":
            git(folder, "checkout", "--quiet", ".")
            changes.append(change_of(body))
            edit(folder / (PROFILE if "accuracy: 0." in body else PIPELINE), changes[-1])
        elif kind == "bash":
            [line] = body.splitlines()
            if "--comment" in line:
                # "The costly change above".
                git(folder, "checkout", "--quiet", ".")
                edit(folder / PIPELINE, changes[1])
            printed = ran(folder, line)
        else:
            shown += 1
            assert body == printed
    assert shown == 3
    assert (folder / "comment.md").read_text().startswith("<!-- ipa ci -->")
