"""Writes docs/reference/{settings,commands,exit-codes}.md from the code; `--check` fails if they differ."""

from __future__ import annotations

import ast
import os
import re
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"


def settings() -> str:
    """The settings with their defaults and the comment above each."""
    source = (ROOT / "ipa" / "settings.py").read_text()
    lines = source.splitlines()
    body = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "Settings")
    rows = []
    why = ""
    for node in body.body:
        if not isinstance(node, ast.AnnAssign) or node.value is None:
            continue
        above = []
        row = node.lineno - 2
        while lines[row].strip().startswith("#"):
            above.insert(0, lines[row].strip("# "))
            row -= 1
        why = " ".join(above)
        name = ast.unparse(node.target)
        default = re.sub(r"^Path\('(.*)'\)$", r"\1", ast.unparse(node.value)).strip("'")
        default = {"True": "on", "False": "off"}.get(default, default)
        # field(default='', repr=False): a secret.
        default = re.sub(r"^field\(default='(.*)', repr=False\)$", r"\1", default)
        rows.append(f"| `IPA_{name.upper()}` | `{default or ' '}` | {why} |")
    head = "Environment variables of the service. An unknown `IPA_` one is an error that names the nearest."
    return f"# Settings\n\n{head}\n\n| variable | default | why |\n|---|---|---|\n" + "\n".join(rows) + "\n"


# Without colours, at one width; read where the command line is imported.
os.environ |= {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb", "TERMINAL_WIDTH": "100"}


def helped(*verb: str) -> str:
    """What `ipa VERB --help` prints."""
    from ipa.cli.main import run

    with redirect_stdout(StringIO()) as printed:
        run([*verb, "--help"])
    return "\n".join(line.rstrip() for line in printed.getvalue().strip().splitlines())


def commands() -> str:
    """The help of every verb."""
    from ipa.cli.main import build_app

    app = build_app()
    verbs = [c.name or c.callback.__name__.replace("_", "-") for c in app.registered_commands if c.callback]
    verbs += [group.name for group in app.registered_groups if group.name]
    parts = [f"## ipa {verb}\n\n```text\n{helped(verb)}\n```\n" for verb in sorted(verbs)]
    return "# Commands\n\nExit codes are [the same for all](exit-codes.md).\n\n" + "\n".join(parts)


def exit_codes() -> str:
    """The table of exit codes."""
    from ipa.model.exits import MEANINGS, ExitCode

    rows = [f"| {code.value} | {MEANINGS[code]} |" for code in ExitCode]
    head = "# Exit codes of the command line\n\nOne table for all verbs.\n\n| code | meaning |\n|---|---|\n"
    return head + "\n".join(rows) + "\n"


def main() -> int:
    """0 where every file is as it should be (after writing, always)."""
    pages = {"settings.md": settings(), "commands.md": commands(), "exit-codes.md": exit_codes()}
    stale = [n for n, text in pages.items() if not (FOLDER / n).is_file() or (FOLDER / n).read_text() != text]
    if "--check" in sys.argv[1:]:
        sys.stdout.write("".join(f"{name} is stale: run python tools/reference.py\n" for name in stale))
        return int(bool(stale))
    for name, text in pages.items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
