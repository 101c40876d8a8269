"""Every verb has the same flags with the same meaning, ends with the same codes, and prints alike."""

from __future__ import annotations

import inspect
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import typer
import yaml

from ipa.cli import output
from ipa.cli.main import build_app, run
from ipa.cli.output import OUTPUT, Output
from ipa.clients.http import HttpClient
from ipa.model.errors import ExitCode, IpaError
from tests.fakes.commands import Ipa
from tests.fakes.services import FakeWorld, InProcess
from tools.reference import MEANINGS

# What prints a file, or runs until it is stopped, has one form only.
ONE_FORM = {"demo", "render", "schema", "serve"}


@dataclass(frozen=True)
class Flag:
    """An option or argument of a verb, as its function declares it."""

    names: tuple[str, ...]
    kind: Any
    info: Any


def commands() -> dict[str, list[Flag]]:
    """Every verb with its flags; those of groups as `group verb`."""

    def walk(app: typer.Typer, before: str) -> Iterator[tuple[str, list[Flag]]]:
        for command in app.registered_commands:
            assert command.callback is not None
            yield f"{before}{command.name}", list(flags(command.callback))
        for group in app.registered_groups:
            assert group.typer_instance is not None
            yield from walk(group.typer_instance, f"{before}{group.name} ")

    return dict(walk(build_app(), ""))


def flags(function: Any) -> Iterator[Flag]:
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, info = hints[name], parameter.default
        if get_origin(kind) is Annotated:
            kind, info = get_args(kind)[:2]
        if isinstance(info, typer.models.OptionInfo):
            names = tuple(info.param_decls or ()) or (f"--{name.replace('_', '-')}",)
            yield Flag(tuple(part for each in names for part in each.split("/")), kind, info)
        else:
            yield Flag((name,), kind, info)


COMMANDS = commands()


def named(verb: str) -> dict[str, Flag]:
    return {name: flag for flag in COMMANDS[verb] for name in flag.names}


def test_every_verb_prints_in_every_form() -> None:
    assert len(COMMANDS) > 30
    for verb in COMMANDS.keys() - ONE_FORM:
        flag = named(verb).get("--output")
        assert flag is not None, f"ipa {verb} has no --output"
        assert flag.info is OUTPUT, verb
        assert flag.kind is Output, verb
    assert OUTPUT.default is Output.TEXT


def test_a_flag_means_the_same_wherever_it_is() -> None:
    short: dict[str, str] = {}
    kinds: dict[str, set[Any]] = {}
    for flag in (flag for flags in COMMANDS.values() for flag in flags):
        long = [name for name in flag.names if name.startswith("--")]
        for name in flag.names:
            if len(name) == 2 and long:
                assert short.setdefault(name, long[0]) == long[0]
        for name in long:
            # Without `| None`.
            bare = (each for each in get_args(flag.kind) if each is not type(None))
            kinds.setdefault(name, set()).add(next(bare, flag.kind))
    assert short["-o"] == "--output" and short["-n"] == "--namespace" and short["-f"] == "--file"
    assert {name: kinds[name] for name in ("--at", "--rate", "--objective", "--by", "--reason")} == {
        "--at": {str},
        "--rate": {float},
        "--objective": {str},
        "--by": {str},
        "--reason": {str},
    }


def test_what_reaches_a_cluster_takes_a_place_and_a_namespace() -> None:
    for verb in ("doctor", "import"):
        assert {"--at", "--namespace", "-n"} <= set(named(verb)), verb
    asking = ["status", "watch", "history", "diff", "apply", "rollback", "pause", "resume", "mode"]
    for verb in (*asking, "pin", "unpin", "freeze", "unfreeze"):
        assert "--at" in named(verb), verb


def test_every_flag_is_explained() -> None:
    for verb, flags in COMMANDS.items():
        for flag in flags:
            if flag.names[0].startswith("-"):
                assert flag.info.help, f"ipa {verb} {flag.names[0]}"


def test_names_of_pipelines_are_completed_wherever_one_is_asked_for() -> None:
    for verb, flags in COMMANDS.items():
        for flag in flags:
            if flag.names == ("pipeline",):
                assert flag.info.autocompletion is not None, verb


def test_a_shell_is_offered_verbs_pipelines_and_stages(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setenv("_IPA_COMPLETE", "complete_bash")

    def complete(words: str) -> list[str]:
        """The completions that bash is offered for the last of the words."""
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        try:
            run([])
        except SystemExit as end:
            assert not end.code
        return capsys.readouterr().out.split()

    assert {"status", "demo", "doctor"} <= set(complete("ipa "))
    assert complete("ipa status vi") == ["video"]
    assert complete("ipa pin video c") == ["crop", "classification"]
    assert complete("ipa mode video ") == ["advisory", "shadow", "guarded", "active"]
    # An address at which nobody answers keeps nobody waiting.
    assert complete("ipa status --at http://127.0.0.1:9 vi") == ["video"]


def test_the_table_of_exit_codes_is_the_code_s(root: Path) -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", (root / "docs/reference/exit-codes.md").read_text(), re.M)
    assert {int(code): words for code, words in rows} == {int(code): MEANINGS[code] for code in ExitCode}


def test_every_error_ends_with_a_code_of_the_table() -> None:
    kinds: list[type[IpaError]] = [IpaError]
    for kind in kinds:
        kinds.extend(kind.__subclasses__())
        assert kind.exit_code in list(ExitCode), kind
    assert len(kinds) > 10


def test_ctrl_c_ends_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(at: str, **_: object) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr("ipa.clients.http.client_at", interrupted)
    assert run(["watch", "video"]) == ExitCode.INTERRUPTED == 130


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> FakeWorld:
    world = FakeWorld().play(57)
    monkeypatch.setattr(
        "ipa.clients.http.client_at", lambda at, **_: HttpClient(at, InProcess(world.services()))
    )
    return world


@pytest.mark.usefixtures("world")
@pytest.mark.parametrize(
    "words",
    [
        ["status", "ocr"],
        ["status"],
        ["history", "ocr"],
        ["diff", "ocr", "--rate", "30"],
        ["pause", "ocr"],
        ["plan", "digits", "--rate", "10", "--solver", "exact"],
        ["explain", "digits", "--rate", "10", "--solver", "exact"],
        ["fit", "digits"],
        ["fleet", "digits=5", "ocr=2", "--cores", "60"],
        ["simulate", "video", "--minutes", "1", "--workload", "steady_low"],
        ["validate", "pipelines/video"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_the_four_forms_say_the_same(
    words: list[str], root: Path, monkeypatch: pytest.MonkeyPatch, ipa: Ipa
) -> None:
    monkeypatch.chdir(root)
    answers = {}
    for form in Output:
        answers[form] = ipa(*words, "-o", form.value).out
    timeless = re.compile(r'"solve_s": [0-9.e-]+|solve_s: [0-9.e-]+')
    values = json.loads(timeless.sub('"solve_s": 0', answers[Output.JSON]))
    assert yaml.safe_load(timeless.sub("solve_s: 0", answers[Output.YAML])) == values
    assert answers[Output.TEXT].strip()
    if words[0] not in ("pause", "validate"):
        assert re.search(r"^\|-{3}", answers[Output.MD], re.M), answers[Output.MD]
    # Every number that people read is in both.
    numbers = set(re.findall(r"\d+\.\d{3,}", re.sub(r"\d+ ms", "", answers[Output.TEXT])))
    assert numbers <= set(re.findall(r"\d+\.\d{3,}", answers[Output.MD]))


def test_markdown_of_a_table_keeps_its_columns(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None)
    table.add_column("a")
    table.add_column("n", justify="right")
    table.add_row(Text("x"), "1")
    output.show(Output.MD, None, Group(Text("head"), table))
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["head", "", "| a | n |", "|---|---|", "| x | 1 |", ""]


def on_terminal(words: list[str], folder: Path, **environment: str) -> tuple[str, str]:
    """Standard output, and what standard error shows on a terminal."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", "from ipa.cli.main import main; main()", *words]
    full = {**os.environ, "TERM": "xterm", "COLUMNS": "120", **environment}
    full.pop("NO_COLOR", None) if "NO_COLOR" not in environment else None
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=theirs, cwd=folder, env=full, text=True
    ) as it:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 65536):
                shown += part
        except OSError:
            pass  # Linux says so where the other side is closed.
        assert it.stdout is not None
        printed = it.stdout.read()
    os.close(ours)
    assert it.returncode == 0
    return printed, shown.decode()


def test_a_bar_is_on_the_terminal_and_nowhere_else(
    root: Path, monkeypatch: pytest.MonkeyPatch, ipa: Ipa
) -> None:
    words = ["simulate", "digits", "--minutes", "1", "--repeats", "2", "-o", "json"]
    printed, shown = on_terminal(words, root)
    assert json.loads(printed)["requests"] > 0
    assert "simulating" in shown
    assert re.search(r"\x1b\[[0-9;]*3[0-9]", shown)
    printed, plain = on_terminal(words, root, NO_COLOR="1")
    assert "simulating" in plain
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", plain)
    monkeypatch.chdir(root)
    assert ipa(*words).err == ""


def test_no_verb_needs_numpy_to_be_listed() -> None:
    """`ipa --help`, shell completion and every verb start twice as fast without it."""
    code = "import sys; from ipa.cli.main import build_app; build_app(); print({'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
