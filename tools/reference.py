"""Writes settings, commands, exit codes and access of docs/reference, the schemas of files and of the chart.

All from the code; `--check` fails where they differ.
"""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import sys
from contextlib import redirect_stdout
from dataclasses import is_dataclass
from enum import Enum
from io import StringIO
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
SCHEMAS = ROOT / "ipa" / "files" / "schema"
CHART = ROOT / "deploy" / "helm" / "ipa" / "values.schema.json"
# Values of the chart have their own names for these, or it knows them; secrets are never written into values.
NOT_IN_VALUES = {
    *("host", "port", "target", "auth", "install", "kubeconfig", "prometheus_url", "store_url"),
    *("pipelines_dir", "profiles_dir", "profile_reach", "prometheus_token"),
    *("webhook_secret", "webhook_secret_file"),
}


SETTINGS_HEAD = """# Settings

From the strongest: an option of the command, an environment variable, the file of settings, the default.
`ipa config show` prints those in effect, and where each comes from; with `--at URL` those of a running
service, for its operators. An unknown variable that begins with `IPA_` and an unknown key of the file are
errors that name the nearest.

The file is `ipa.yaml` in the working folder, if there is one, or the one that `IPA_CONFIG_FILE` names
([an example](files.md#settings)). Its keys are in groups, here the sections. Paths are relative to the
working folder, also those in the file. Secrets (here without a key) come from the environment or from a
mounted file, never from this file.
"""


def setting_comments() -> dict[str, str]:
    """The comment above each setting in the code."""
    source = (ROOT / "ipa" / "settings.py").read_text()
    lines = source.splitlines()
    body = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "Settings")
    found = {}
    for node in body.body:
        if not isinstance(node, ast.AnnAssign):
            continue
        above: list[str] = []
        row = node.lineno - 2
        while lines[row].strip().startswith("#"):
            above.insert(0, lines[row].strip("# "))
            row -= 1
        found[ast.unparse(node.target)] = " ".join(above)
    return found


def settings_schema() -> str:
    """The schema of the file of settings."""
    from ipa.files.kinds import schema_of
    from ipa.files.settings import settings_file
    from ipa.settings import setting_groups

    return schema_of("settings", settings_file(setting_groups(setting_comments())))


def settings() -> str:
    """The settings by group with their variables, keys, defaults and comments."""
    from ipa.settings import GROUPS, SECRETS, Settings, variable_of

    defaults, comments = Settings(), setting_comments()

    def shown(value: object) -> str:
        if isinstance(value, bool):
            return "on" if value else "off"
        return str(value) or " "

    parts = [SETTINGS_HEAD]
    for group, keys in GROUPS.items():
        rows = [
            f"| `{variable_of(name)}` | {'' if name in SECRETS else f'`{key}`'} | "
            f"`{shown(getattr(defaults, name))}` | {comments[name]} |"
            for key, name in keys.items()
        ]
        head = f"## {group}\n\n| variable | key | default | why |\n|---|---|---|---|\n"
        parts.append(head + "\n".join(rows) + "\n")
    return "\n".join(parts)


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
    from ipa.settings import SETTINGS

    kinds = {bool: "boolean", int: "integer", float: "number"}
    schema = json.loads(CHART.read_text())
    schema["properties"]["settings"]["properties"] = {
        each.name: {"type": kinds.get(type(each.default), "string")}
        for each in SETTINGS
        if each.name not in NOT_IN_VALUES
    }
    return json.dumps(schema, indent=2) + "\n"


RESULTS_HEAD = """# Results of experiments

`ipa experiment run` and `ipa compare` write these tables as Parquet ([how to](../how-to/run-experiments.md)).
Each column has its unit and description in the file's metadata too. A ratio is from 0 to 1. Equal code and
inputs give equal bytes, on any machine and engine.

```text
import pyarrow.parquet as pq
runs = pq.read_table("runs/experiments/ipa-paper/runs.parquet")
print(runs.schema.field("cores_mean").metadata)
```
"""


def results() -> str:
    """The columns of the tables of experiments."""
    from ipa.experiment.tables import SCHEMA

    parts = [RESULTS_HEAD]
    for name, columns in SCHEMA.items():
        rows = [f"| `{key}` | {it.type} | {it.unit} | {it.meaning} |" for key, it in columns.items()]
        parts.append(
            f"## {name}\n\n| column | type | unit | meaning |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
        )
    return "\n".join(parts)


def access() -> str:
    """Which role may what, and which operation each route is."""
    from ipa.adapters.identity.reviews import VERBS
    from ipa.api.rules import BOUNDS, RULES, Where, work_of
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


PYTHON_HEAD = """# Python interface

`ipa.library` is the public interface for scripts, notebooks and plug-ins
([how to use it](../how-to/use-from-python.md), [how to write a policy](../how-to/write-a-policy.md)).
`ipa.testing` has the contract suites for plug-ins. Their names stay as they are within a major version; other
modules may change.
"""


def python() -> str:
    """The public functions and types with their signatures and docstrings."""
    import ipa.library
    import ipa.testing

    found = [getattr(ipa.library, name) for name in ipa.library.__all__]
    contracts = [getattr(ipa.testing, name) for name in ipa.testing.__all__]
    groups = {
        "Functions": [each for each in found if inspect.isfunction(each)],
        "Types": [each for each in found if isinstance(each, type) and not issubclass(each, Exception)],
        "Errors": [each for each in found if isinstance(each, type) and issubclass(each, Exception)],
        "Contract suites": contracts,
    }
    parts = [PYTHON_HEAD]
    for title, members in groups.items():
        parts.append(f"## {title}\n")
        parts += [_member(each) for each in sorted(members, key=lambda each: each.__name__)]
    return "\n".join(parts)


def _member(found: Any) -> str:
    """One function or type: where it is, its signature or fields, its docstring and those of its methods."""
    module = "ipa.testing" if found.__module__.startswith("ipa.testing") else "ipa.library"
    lines = [
        f"### {module}.{found.__name__}\n",
        "```text",
        _signature(found),
        "```\n",
        inspect.getdoc(found) or "",
    ]
    if isinstance(found, type) and not issubclass(found, Exception):
        lines += [f"\n- `{name}`: {comment}" for name, comment in _field_comments(found)]
        lines += [_method(found, name) for name in vars(found) if _is_public(vars(found)[name], name)]
    return "\n".join(line for line in lines if line) + "\n"


def _field_comments(kind: type) -> list[tuple[str, str]]:
    """The fields of a dataclass that have a comment above them, with it."""
    found, above = [], []
    for line in inspect.getsource(kind).splitlines() if is_dataclass(kind) else []:
        if line.startswith("    # "):
            above.append(line.removeprefix("    # "))
            continue
        name, _, annotation = line.strip().partition(":")
        if above and name.isidentifier() and annotation:
            found.append((name, " ".join(above)))
        above = []
    return found


def _is_public(found: Any, name: str) -> bool:
    return not name.startswith("_") and (inspect.isfunction(found) or isinstance(found, property))


def _method(kind: type, name: str) -> str:
    found = vars(kind)[name]
    is_property = isinstance(found, property)
    first = (inspect.getdoc(found) or "").partition("\n\n")[0].replace("\n", " ")
    return f"\n- `{name}{'' if is_property else _one_line(found)}`: {first}"


def _signature(found: Any) -> str:
    """The signature on one line, or a line a parameter; of a type without a constructor its name alone."""
    if isinstance(found, type) and (
        issubclass(found, Exception | Enum) or getattr(found, "_is_protocol", False)
    ):
        return "\n".join([found.__name__, *(f"  {each.name} = {each.value!r}" for each in _values(found))])
    text = f"{found.__name__}{_one_line(found)}"
    if len(text) <= 100:
        return text
    parameters = inspect.signature(found).parameters.values()
    shown, starred = [], False
    for each in parameters:
        if each.kind is inspect.Parameter.KEYWORD_ONLY and not starred:
            shown, starred = [*shown, "*"], True
        line = _tidy(str(each))
        shown.append(line if len(line) <= 100 else f"{line.partition(' = ')[0]} = ...")
    returned = inspect.signature(found).return_annotation
    end = "" if isinstance(found, type) or returned is inspect.Signature.empty else f" -> {returned}"
    return "\n".join([f"{found.__name__}(", *(f"    {each}," for each in shown), f"){end}"])


def _values(found: type) -> list[Enum]:
    return list(found) if issubclass(found, Enum) else []


def _one_line(found: Any) -> str:
    text = _tidy(str(inspect.signature(found))).removeprefix("(self, ").removeprefix("(self")
    text = text if text.startswith("(") else f"({text}"
    return re.sub(r" -> None$", "", text) if isinstance(found, type) else text


def _tidy(text: str) -> str:
    """Signatures show annotations as text in quotes, and defaults that are made anew as an object."""
    text = re.sub(r"<function (\w+) at 0x\w+>", r"\1", text.replace("<factory>", "..."))
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)


def main() -> int:
    """0 where every file is as it should be (after writing, always)."""
    from ipa.files.kinds import KINDS, make_schema

    files = {
        FOLDER / "settings.md": settings(),
        FOLDER / "commands.md": commands(),
        FOLDER / "exit-codes.md": exit_codes(),
        FOLDER / "access.md": access(),
        FOLDER / "python.md": python(),
        FOLDER / "results.md": results(),
        CHART: chart_schema(),
        SCHEMAS / "settings.schema.json": settings_schema(),
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
