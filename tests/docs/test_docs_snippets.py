"""Every snippet of the documentation is executed.

A ```console block holds commands after `$ ` and, optionally, what they print (`...` stands for anything). A
```python block is run. `make` commands are checked to exist as targets: they install and run for minutes.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from ipa.cli.main import run as ipa_run

ROOT = Path(__file__).resolve().parents[2]
# Also those inside of a list, which are indented.
BLOCK = re.compile(r"^( *)```(console|python)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
# Their commands belong together: test_first_hour runs them in their order.
TOGETHER = ("tutorial/first-steps", "how-to/send-requests", "how-to/change-a-running-pipeline")
LONG = re.compile(r"^(make|git|cd|kubectl|helm) ")
SIMPLE = re.compile(r"ipa [^|&;<>()$*`\\]*")


def snippets() -> list[tuple[str, str, str]]:
    files = {*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "pipelines").rglob("*.md")}
    files -= {ROOT / "docs" / f"{page}.md" for page in TOGETHER}
    return [
        (
            f"{file.relative_to(ROOT)}:{file.read_text()[: match.start()].count(chr(10)) + 1}",
            match[2],
            dedent(match[3]),
        )
        for file in sorted(files)
        for match in BLOCK.finditer(file.read_text())
    ]


def commands(block: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif found:
            found[-1] = (found[-1][0], found[-1][1] + line + "\n")
    return found


def check_make(command: str) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [word for word in command.split()[1:] if "=" not in word and word not in targets] == []


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command by a shell."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def run_here(command: str, capfd: pytest.CaptureFixture[str]) -> subprocess.CompletedProcess[str]:
    """Run an `ipa` command that needs no shell in this process, where all is imported."""
    code = ipa_run(shlex.split(command)[1:])
    return subprocess.CompletedProcess(command, code, *capfd.readouterr())


@pytest.mark.parametrize(("where", "kind", "block"), [pytest.param(*s, id=s[0]) for s in snippets()])
def test_snippet(
    where: str,
    kind: str,
    block: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "110")
    monkeypatch.setenv("NO_COLOR", "1")
    for name in ("pipelines", "profiles", "deploy", "experiments"):
        (tmp_path / name).symlink_to(ROOT / name)
    if kind == "python":
        subprocess.run([sys.executable, "-c", block], cwd=tmp_path, check=True, timeout=300)
        return
    assert commands(block), f"{where}: a console block without a command"
    for command, printed in commands(block):
        if command.startswith("make "):
            check_make(command)
        if LONG.match(command):
            continue
        if command.startswith("promtool ") and shutil.which("promtool") is None:
            pytest.skip("needs promtool, of Debian's package prometheus")
        done = run_here(command, capfd) if SIMPLE.fullmatch(command) else run(command, tmp_path)
        assert done.returncode == 0, f"{where}: {command}\n{done.stdout}{done.stderr}"
        if printed.strip():
            pattern = re.escape(printed.strip()).replace(r"\.\.\.", ".*?")
            assert re.search(pattern, done.stdout, re.DOTALL), f"{where}: {command} printed\n{done.stdout}"
