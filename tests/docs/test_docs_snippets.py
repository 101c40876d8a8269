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
import warnings
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
# What one line of a page may ask of the shell beside its words: output into a file, and another exit code.
WORD = r"[^|&;<>()$*`\\'\" ]+|'[^']*'|\"[^\"$`\\]*\""
SIMPLE = re.compile(
    rf"(?P<words>ipa(?: (?:{WORD}))*)(?P<both> 2>&1)?(?: > (?P<file>\S+))?"
    r"(?: \|\| (?P<ends>true|test \$\? = \d+))?"
)


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
    blocks: list[tuple[str, str]] = []
    for line in block.splitlines():
        if line.startswith("$ "):
            blocks.append((line[2:], ""))
        elif blocks:
            blocks[-1] = (blocks[-1][0], blocks[-1][1] + line + "\n")
    return blocks


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


def run_here(command: re.Match[str], capfd: pytest.CaptureFixture[str]) -> subprocess.CompletedProcess[str]:
    """Run an `ipa` command in this process, where all is imported, as a shell would."""
    code = ipa_run(shlex.split(command["words"])[1:])
    out, err = capfd.readouterr()
    if command["both"]:
        out, err = out + err, ""
    if command["file"]:
        Path(command["file"]).write_text(out)
        out = ""
    if command["ends"]:
        code = int(command["ends"] != "true" and code != int(command["ends"].split()[-1]))
    return subprocess.CompletedProcess(command[0], code, out, err)


def run_python(block: str) -> None:
    """Run the block in this process, as a module of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(block, "snippet", "exec"), {"__name__": "snippet"})


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
        run_python(block)
        return
    assert commands(block), f"{where}: a console block without a command"
    for command, printed in commands(block):
        if command.startswith("make "):
            check_make(command)
        if LONG.match(command):
            continue
        if command.startswith("promtool ") and shutil.which("promtool") is None:
            pytest.skip("needs promtool, of Debian's package prometheus")
        simple = SIMPLE.fullmatch(command)
        done = run_here(simple, capfd) if simple else run(command, tmp_path)
        assert done.returncode == 0, f"{where}: {command}\n{done.stdout}{done.stderr}"
        if printed.strip():
            pattern = re.escape(printed.strip()).replace(r"\.\.\.", ".*?")
            assert re.search(pattern, done.stdout, re.DOTALL), f"{where}: {command} printed\n{done.stdout}"
