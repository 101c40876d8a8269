"""Writes the made pages of docs/, the schemas of files and of the chart.

All from the code; `--check` fails where they differ.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
from collections import Counter
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from ipa.files.forms import described
from ipa.model.errors import ExitCode
from ipa.model.forms import ValueForm

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "reference"
SCHEMAS = ROOT / "ipa" / "files" / "schema"
CHART = ROOT / "deploy" / "helm" / "ipa" / "values.schema.json"
# Values of the chart have their own names for these, or it knows them; secrets are never written into values.
NOT_IN_VALUES = {
    *("host", "port", "target", "auth", "install", "kubeconfig", "prometheus_url", "store_url"),
    *("pipelines_dir", "profiles_dir", "prometheus_token"),
}


SETTINGS_HEAD = """# Settings

From the strongest: an option of the command, an environment variable, the default. `ipa config show` prints
those in effect, and where each comes from; with `--at URL` those of a running service, for its operators. An
unknown variable that begins with `IPA_` is an error that names the nearest.

Each line has the variable, and the default in brackets. Paths are relative to the working folder. Secrets
come from the environment or from a mounted file.
"""


def setting_comments() -> dict[str, str]:
    """The comment above each setting in the code."""
    source = (ROOT / "ipa" / "settings.py").read_text()
    lines = source.splitlines()
    body = next(n for n in ast.parse(source).body if isinstance(n, ast.ClassDef) and n.name == "Settings")
    comments = {}
    for node in body.body:
        if not isinstance(node, ast.AnnAssign):
            continue
        above: list[str] = []
        row = node.lineno - 2
        while lines[row].strip().startswith("#"):
            above.insert(0, lines[row].strip("# "))
            row -= 1
        comments[ast.unparse(node.target)] = " ".join(above)
    return comments


def settings() -> str:
    """The settings by group: variable, default and comment."""
    from ipa.settings import GROUPS, Settings, variable_of

    defaults, comments = Settings(), setting_comments()

    def shown(value: object) -> str:
        if isinstance(value, bool):
            return "on" if value else "off"
        return str(value) or " "

    parts = [SETTINGS_HEAD]
    for group, names in GROUPS.items():
        rows = [
            f"- `{variable_of(name)}` (`{shown(getattr(defaults, name))}`): {comments[name]}"
            for name in names
        ]
        parts.append("\n".join([f"## {group}", "", *rows, ""]))
    return "\n".join(parts)


COMMANDS_HEAD = """# Commands

`ipa VERB --help` says more of each verb, with types and examples. Exit codes are
[the same for all](exit-codes.md). Options with one meaning in several verbs are explained once, below.
"""
# An option that this many verbs explain in the same words is explained once for all of them.
# One that this many verbs have is not named again under each.
SHARED_FROM, USUAL_FROM = 3, 15


def commands() -> str:
    """Each verb with the first lines of its help and its own options; shared options once."""
    import typer

    from ipa.cli.main import build_app
    from ipa.cli.verb_help import GROUPS

    verbs: dict[str, Any] = {}
    for name, command in typer.main.get_group(build_app()).commands.items():
        below = getattr(command, "commands", None)
        verbs |= {f"{name} {verb}": each for verb, each in below.items()} if below else {name: command}
    counts = Counter(_option(each) for command in verbs.values() for each in command.params)
    shared = {option for option, count in counts.items() if count >= SHARED_FROM}
    usual = {option for option, count in counts.items() if count >= USUAL_FROM}
    parts = [COMMANDS_HEAD, "| to | verbs |\n|---|---|"]
    parts += [
        f"| {group} | {', '.join(f'`{verb}`' for verb in of if ' ' not in verb)} |"
        for group, of in GROUPS.items()
    ]
    parts += ["\n## Options of several verbs\n", "```text", *_aligned(sorted(shared)), "```"]
    for verb, command in sorted(verbs.items()):
        options = [_option(each) for each in command.params]
        own = _aligned([each for each in options if each not in shared])
        also = " ".join(each[0].split(",")[0] for each in options if each in shared - usual)
        parts += [
            f"\n## ipa {verb}\n",
            inspect.cleandoc(command.help or "").partition("\n\n")[0] + "\n",
            "```text",
        ]
        parts += [*own, *([f"also: {also}"] if also else []), "```"]
    return "\n".join(parts) + "\n"


def _option(parameter: Any) -> tuple[str, str]:
    """The names of an option or argument, and its help with the default."""
    is_option = parameter.param_type_name == "option"
    names = ", ".join([*parameter.opts, *parameter.secondary_opts]) if is_option else parameter.name.upper()
    default = parameter.default
    shown = isinstance(default, str | int | float) and not isinstance(default, bool) and default != ""
    return names, f"{parameter.help}{f' [{default}]' if shown and parameter.show_default else ''}"


def _aligned(options: Sequence[tuple[str, str]]) -> list[str]:
    """A line an option, the explanations below one another."""
    width = max((len(names) for names, _ in options), default=0)
    return [f"{names:<{width}}  {words}" for names, words in options]


MEANINGS = {
    ExitCode.OK: "done; for `plan` and `diff` without `--detailed-exitcode`: any result; for "
    "`replay`: all results are the same",
    ExitCode.ERROR: "an internal error; something is unreachable or missing; `doctor` found a failure; "
    "`simulate`, `compare` and `experiment run`: a policy or forecaster failed at a tick",
    ExitCode.CHANGED: "with `--detailed-exitcode`: there is a change; `replay`: a decision differs; "
    "`verify`: it is refuted",
    ExitCode.INFEASIBLE: "infeasible: no plan meets the constraints; a guard held a change back; `ci`: a "
    "rule is broken, or a profile changed without a measurement; `fit --strict`: there is a finding",
    ExitCode.CONFLICT: "a saved plan is stale, or a conflict; for `init` and `import`: the files "
    "exist already; for `serve` and `store restore`: another service uses the store, or it is not empty; for "
    "`replay`: a decision's pipeline or profiles were changed since; for `deploy`: not what was reviewed",
    ExitCode.DEGRADED: "degraded, or rolled back; for `probe` and `infer`: no answer, or an error; for "
    "`deploy`: a rollout or a request failed, and all was taken back",
    ExitCode.TIMEOUT: "time-out while waiting or solving",
    ExitCode.USAGE: "the command line makes no sense",
    ExitCode.INPUT: "an input file is wrong",
    ExitCode.FORBIDDEN: "forbidden",
    ExitCode.CONFIGURATION: "a setting is wrong",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
}


def exit_codes() -> str:
    """The table of exit codes."""
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
    from ipa.experiment.results import SCHEMA

    parts = [RESULTS_HEAD]
    first, *_ = SCHEMA
    for name, columns in SCHEMA.items():
        by_words: dict[str, list[str]] = {}
        for key, it in columns.items():
            is_known = name != first and SCHEMA[first].get(key) == it
            own = f" ({', '.join(filter(None, (it.type, it.unit)))}): {it.meaning}"
            by_words.setdefault(f": as in {first}" if is_known else own, []).append(f"`{key}`")
        rows = [f"- {', '.join(keys)}{words}" for words, keys in by_words.items()]
        parts.append("\n".join([f"## {name}", "", *rows, ""]))
    return "\n".join(parts)


# The bounds of each `ipa.api.auth.Work`; the numbers are those of `ApiLimits` and `Streams`.
BOUNDS = {
    "none": "nothing that can be used up",
    "health": "a thread of its own; the state of the store is cached for some seconds",
    "a read": "IPA_API_READS_RPS of one identity; 16 at once, 8 of one identity",
    "a large answer": "as a read; 4 at once, 2 of one identity; pages of decisions end at 2 MB",
    "a whole record": "as a read; 1 at once",
    "a computation": "IPA_API_EXPENSIVE_RPS of one identity; IPA_API_SOLVES at once, in turns",
    "a change": "IPA_API_CHANGES_RPS of one identity; 8 at once, 4 of one identity",
    "a stream": "as a read; 100 open, 10 of one identity; each reads on only as it is taken",
}


def access() -> str:
    """Which role may what, and which operation each route is."""
    from ipa.adapters.identity.reviews import VERBS
    from ipa.api.auth import RULES, Where, work_of
    from ipa.model.access import OPERATIONS, Role, allows

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
    for operation, (_, covers) in OPERATIONS.items():
        marks = " | ".join("yes" if allows(role, operation) else "" for role in roles)
        lines.append(f"| {operation} | {covers} | {marks} | `{VERBS[operation]}` |")
    lines += [
        "",
        "A pipeline that one may not read is not there: it is in no list, and its address answers 404 as any",
        "other that does not exist.",
        "",
        "## Routes",
        "",
        "The operation of each route, where it has to be allowed, and its kind of work. A route that is",
        "missing here is refused to everyone.",
        "",
    ]
    groups: dict[str, list[str]] = {}
    for (method, path), rule in RULES.items():
        needs = f"**{rule.operation}**, {rule.where}" if rule else "**open to all**"
        groups.setdefault(f"{needs}; work: {work_of((method, path))}", []).append(f"`{method} {path}`")
    lines += [f"- {needs}: {', '.join(routes)}" for needs, routes in groups.items()]
    count = sum(rule is not None and rule.where is Where.SEEN for rule in RULES.values())
    lines += [
        "",
        f"Where it says *{Where.SEEN}* ({count} routes), the answer has only what one may see.",
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
Its names stay as they are within a major version; other
modules may change. `help(ipa.library.plan)` prints fields, units and errors of a name.
"""


def python() -> str:
    """The public functions and types with the first line of their docstrings."""
    import ipa.library

    public = [getattr(ipa.library, name) for name in ipa.library.__all__]
    groups = {
        "Functions": [each for each in public if inspect.isfunction(each)],
        "Types": [each for each in public if isinstance(each, type) and not issubclass(each, Exception)],
        "Errors": [each for each in public if isinstance(each, type) and issubclass(each, Exception)],
    }
    parts = [PYTHON_HEAD]
    for title, members in groups.items():
        parts.append(f"## {title}\n")
        parts += [_member(each) for each in sorted(members, key=lambda each: each.__name__)]
        parts.append("")
    return "\n".join(parts).rstrip("\n") + "\n"


def _member(value: Any) -> str:
    """A function with its parameters, or a type with its values or methods."""
    if inspect.isfunction(value):
        names = list(inspect.signature(value).parameters)
    elif issubclass(value, Enum):
        names = [each.value for each in value]
    else:
        names = [f"{name}()" for name, each in vars(value).items() if _is_method(each, name)]
    line = f"- `{value.__name__}{'' if inspect.isclass(value) else '(' + ', '.join(names) + ')'}`: "
    line += (inspect.getdoc(value) or "").partition("\n\n")[0].replace("\n", " ")
    return f"{line} `{', '.join(names)}`" if names and inspect.isclass(value) else line


def _is_method(value: Any, name: str) -> bool:
    return not name.startswith("_") and inspect.isfunction(value)


def schemas() -> dict[str, str]:
    """The JSON Schema of each kind of file (draft 2020-12)."""
    from ipa.files.pipelines import pipeline_form
    from ipa.files.profiles import PROFILE

    kinds = {
        "pipeline": (
            pipeline_form(),
            "A graph of inference stages, the variants of each, an SLA and what is worth what.",
        ),
        "profile": (PROFILE, "What was measured of one stage's variants, over batch sizes and cores."),
    }
    texts = {}
    for kind, (form, description) in kinds.items():
        head = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$id": f"https://ipa-serving.github.io/schema/v1/{kind}.schema.json",
            "title": kind.capitalize(),
            "description": description,
        }
        texts[kind] = json.dumps({**head, **json_schema(form)}, indent=2, ensure_ascii=False) + "\n"
    return texts


def json_schema(form: ValueForm) -> dict[str, Any]:
    """The JSON Schema (2020-12) of such a file, without its address."""
    definitions: dict[str, Any] = {}
    made = _schema(form, definitions, is_root=True)
    return {**made, "$defs": dict(sorted(definitions.items()))}


def _schema(form: ValueForm, definitions: dict[str, Any], *, is_root: bool = False) -> dict[str, Any]:
    made = {
        keyword: _schema(each, definitions) if isinstance(each, ValueForm) else each
        for keyword, each in form.schema.items()
        if keyword not in ("nullable", "description")
    }
    if form.keys is None:
        return made
    made["properties"] = {
        name: _schema(key.form, definitions) | ({"description": text} if text else {})
        for name, key, text in described(form)
    }
    required = [name for name, key in form.keys.items() if key.is_required]
    made |= {"required": required} if required else {}
    if is_root or not form.name:
        return made
    definitions[form.name] = made
    return {"$ref": f"#/$defs/{form.name}"}


def main() -> int:
    """0 where every file is as it should be (after writing, always)."""
    from tools.faults import page as faults_page

    files = {
        FOLDER / "settings.md": settings(),
        FOLDER / "commands.md": commands(),
        FOLDER / "exit-codes.md": exit_codes(),
        FOLDER / "access.md": access(),
        FOLDER / "python.md": python(),
        FOLDER / "results.md": results(),
        ROOT / "docs" / "explanation" / "faults.md": faults_page(),
        CHART: chart_schema(),
        **{SCHEMAS / f"{kind}.schema.json": text for kind, text in schemas().items()},
    }
    stale = [path for path, text in files.items() if not path.is_file() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        sys.stdout.write("".join(f"{path.name} is stale: run make reference\n" for path in stale))
        return int(bool(stale))
    for path, text in files.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
