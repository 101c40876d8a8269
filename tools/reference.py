"""Writes settings, commands, exit codes and access of docs/reference, the schemas of files and of the chart.

All from the code; `--check` fails where they differ.
"""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
SCHEMAS = ROOT / "ipa" / "files" / "schema"
CHART = ROOT / "deploy" / "helm" / "ipa" / "values.schema.json"
# Values of the chart have their own names for these, or it knows them; secrets are never written into values.
NOT_IN_VALUES = {
    *("host", "port", "target", "auth", "install", "kubeconfig", "prometheus_url", "store_url"),
    *("pipelines_dir", "profiles_dir", "webhook_secret", "webhook_secret_file"),
}


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
    import typer

    from ipa.cli.main import build_app
    from ipa.cli.verb_help import GROUPS

    app = build_app()
    verbs = [
        (c.name or c.callback.__name__.replace("_", "-"),) for c in app.registered_commands if c.callback
    ]
    for name, group in typer.main.get_group(app).commands.items():
        verbs += [(name, verb) for verb in getattr(group, "commands", {})]
    parts = [f"## ipa {' '.join(verb)}\n\n```text\n{helped(*verb)}\n```\n" for verb in sorted(verbs)]
    rows = [
        f"| {group} | {', '.join(f'`{verb}`' for verb in of if ' ' not in verb)} |"
        for group, of in GROUPS.items()
    ]
    head = "# Commands\n\nExit codes are [the same for all](exit-codes.md).\n\n| to | verbs |\n|---|---|\n"
    return head + "\n".join(rows) + "\n\n" + "\n".join(parts)


def exit_codes() -> str:
    """The table of exit codes."""
    from ipa.model.exits import MEANINGS, ExitCode

    rows = [f"| {code.value} | {MEANINGS[code]} |" for code in ExitCode]
    head = "# Exit codes of the command line\n\nOne table for all verbs.\n\n| code | meaning |\n|---|---|\n"
    return head + "\n".join(rows) + "\n"


def chart_schema() -> str:
    """The chart's schema, in which `settings` takes what the service does, by type."""
    from dataclasses import fields

    from ipa.settings import Settings

    kinds = {bool: "boolean", int: "integer", float: "number"}
    schema = json.loads(CHART.read_text())
    schema["properties"]["settings"]["properties"] = {
        each.name: {"type": kinds.get(type(each.default), "string")}
        for each in fields(Settings)
        if each.name not in NOT_IN_VALUES
    }
    return json.dumps(schema, indent=2) + "\n"


def access() -> str:
    """Which role may what, and which operation each route is."""
    from ipa.adapters.identity.reviews import VERBS
    from ipa.api.rules import RULES, Where
    from ipa.api.work import BOUNDS, work_of
    from ipa.model.access import COVERS, Operation, Role, allows

    roles = list(Role)
    lines = [
        "# Who may do what",
        "",
        "Each role may do in its namespace what is marked; an operator is one of every namespace. With",
        "`IPA_AUTH=kubernetes` there are no roles: who may do the last column with SeldonDeployments of the",
        "pipeline's namespace may do the same here. [How to secure the service](../how-to/secure.md) says",
        "where roles come from.",
        "",
        f"| operation | what it is | {' | '.join(roles)} | on a cluster |",
        f"|---|---|{'---|' * len(roles)}---|",
    ]
    for operation in Operation:
        marks = " | ".join("yes" if allows(role, operation) else "" for role in roles)
        lines.append(f"| {operation} | {COVERS[operation]} | {marks} | `{VERBS[operation]}` |")
    lines += [
        "",
        "A pipeline that one may not read is not there: it is in no list, and its address answers 404 as any",
        "other that does not exist.",
        "",
        "## Routes",
        "",
        "A route that is missing here is refused to everyone.",
        "",
        "| route | operation | where it has to be allowed | work |",
        "|---|---|---|---|",
    ]
    for (method, path), rule in RULES.items():
        needs = f"{rule.operation} | {rule.where}" if rule else "none: open to all |"
        lines.append(f"| `{method} {path}` | {needs} | {work_of((method, path))} |")
    seen = sum(rule is not None and rule.where is Where.SEEN for rule in RULES.values())
    lines += [
        "",
        f"Where it says *{Where.SEEN}* ({seen} routes), the answer has only what one may see.",
        "",
        "## Work",
        "",
        "What a request costs, and what bounds it; beyond that it is answered 429 with `Retry-After`.",
        "[Why](../explanation/rationing.md).",
        "",
        "| work | bounds |",
        "|---|---|",
        *(f"| {work} | {bounds} |" for work, bounds in BOUNDS.items()),
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """0 where every file is as it should be (after writing, always)."""
    from ipa.files.kinds import KINDS, make_schema

    files = {
        FOLDER / "settings.md": settings(),
        FOLDER / "commands.md": commands(),
        FOLDER / "exit-codes.md": exit_codes(),
        FOLDER / "access.md": access(),
        CHART: chart_schema(),
        **{SCHEMAS / f"{kind}.schema.json": make_schema(kind) for kind in KINDS},
    }
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        sys.stdout.write("".join(f"{path.name} is stale: run python tools/reference.py\n" for path in stale))
        return int(bool(stale))
    for path, text in files.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
