"""No command line ends in a traceback: every option of every verb with values that nobody means.

The options are found by their declarations, so that a new one is tried as well.
"""

from __future__ import annotations

import faulthandler
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from enum import Enum
from inspect import Parameter, signature
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import typer
from typer.models import ArgumentInfo

import ipa.cli.verbs.serve
from ipa.cli.arguments import MOST_TEXT_BYTES, parameters, value_fault
from ipa.cli.main import build_app, run
from ipa.model.errors import ConfigurationError, ExitCode
from ipa.settings import RANGES, Settings
from tests.fakes.commands import Ipa

# All values of an option, or so many that differ from option to option.
SAMPLE = int(os.environ.get("IPA_HOSTILE_VALUES", "1"))
CODES = {int(code) for code in ExitCode}
# Refused whatever the option is for, before its verb runs.
NEVER_NUMBERS = ("nan", "inf", "-inf", "1e999", "1e300", "1" + "0" * 400)
NEVER_TEXTS = ("\0", "x" * (MOST_TEXT_BYTES + 1), "\udcff")
# Refused or taken, as the option is; never a traceback.
NUMBERS = ("-1", "0", "-0.0", "1e-320", "x", "", "99999999")
TEXTS = ("", "-1", "x" * 300, "../../etc", "9999999-01-01T00:00Z", "1e99s", "{}", "a=b=c", ":::")
# Of CPU time, which others that use the machine do not take: a verb that computes longer hangs. One that
# waits for ever is ended by pytest's own time-out.
HANGS_S = 60
HUNG: list[bool] = []
# These wait for events or for people, by design.
WAITS = frozenset({("events", "--since"), ("watch", "--interval")})

Verb = tuple[str, ...]


def verbs(app: typer.Typer, above: Verb = ()) -> Iterator[tuple[Verb, Callable[..., Any]]]:
    for command in app.registered_commands:
        assert command.callback is not None
        yield (*above, command.name or command.callback.__name__.replace("_", "-")), command.callback
    for group in app.registered_groups:
        inner = group.typer_instance
        assert inner is not None
        name = group.name if isinstance(group.name, str) else inner.info.name
        assert isinstance(name, str)
        yield from verbs(inner, (*above, name))


VERBS = dict(verbs(build_app()))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Paths of what is no file that a verb could use."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    (folder / "binary").write_bytes(b"\xff\xfe\x00kind: Pipeline")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "broken").symlink_to(folder / "nowhere")
    (folder / "loop").symlink_to(folder / "loop")
    os.mkfifo(folder / "pipe")
    os.truncate(_touched(folder / "large"), 50_000_000)
    own = ("folder", "empty", "binary", "deep.json", "broken", "loop", "pipe", "large", "empty/below")
    return (
        *(str(folder / name) for name in own),
        *("", "/dev/zero", "/dev/null", "/proc/self/mem", "/proc/self/environ", "a" * 300, "/", "-"),
    )


def _touched(path: Path) -> Path:
    path.touch()
    return path


@pytest.fixture(autouse=True)
def _house(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder with one pipeline, a service that nobody starts, and a clock that ends a verb that hangs."""
    for name in ("pipelines", "profiles"):
        shutil.copytree(root / name / "video", tmp_path / name / "video")
    (tmp_path / "load.txt").write_text("5\n9\n" * 600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPA_AT", "http://127.0.0.1:9")
    monkeypatch.setenv("IPA_KUBECONFIG", str(tmp_path / "no-kubeconfig"))
    monkeypatch.setattr(ipa.cli.verbs.serve, "run_service", lambda *_: None)

    def hangs(_number: int, _frame: FrameType | None) -> None:
        faulthandler.dump_traceback()
        HUNG.append(True)
        raise AssertionError("the verb hangs")

    before = signal.signal(signal.SIGPROF, hangs)
    yield
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


def declared(verb: Callable[..., Any]) -> Iterator[tuple[str, bool, bool]]:
    """Each parameter: its name, whether it must be given, and whether it is an argument."""
    hints = get_type_hints(verb, include_extras=True)
    for name, parameter in signature(verb).parameters.items():
        is_annotated = get_origin(hints[name]) is Annotated
        info = get_args(hints[name])[1] if is_annotated else parameter.default
        default = parameter.default if is_annotated else getattr(info, "default", info)
        yield name, default in (..., Parameter.empty), isinstance(info, ArgumentInfo)


USUAL = {
    **{"pipeline": "video", "pipelines": "video=5", "rates": "1:3", "rate": "5", "kind": "pipeline"},
    **{
        "cores": "8",
        "mode_": "advisory",
        "until": "2030-01-01T00:00Z",
        "mode": "advisory",
        "role": "viewer",
        "shell": "bash",
    },
}


def line_of(path: Verb, option: str, value: str) -> list[str]:
    """The command line with that value, and what must be given beside it."""
    verb = VERBS[path]
    shown = {name: each for name, _, each in parameters(verb)}
    options, arguments = [], []
    for name, is_needed, is_argument in declared(verb):
        if shown[name] == option:
            given = value
        elif is_needed:
            given = USUAL.get(name, "video")
        else:
            continue
        if is_argument:
            arguments.append(given)
        else:
            options.append(f"{shown[name]}={given}")
    if path == ("simulate",) and option != "--minutes":
        options.append("--minutes=0.05")
    return [*path, *options, *(("--", *arguments) if arguments else ())]


def every(kinds: tuple[type, ...]) -> list[Any]:
    """Each option of each verb of those kinds."""
    options = []
    for path, verb in VERBS.items():
        for _, kind, option in parameters(verb):
            is_such = isinstance(kind, type) and issubclass(kind, kinds) and kind is not bool
            if is_such and not issubclass(kind, Enum) and (path[-1], option) not in WAITS:
                options.append(pytest.param(path, option, id=f"{' '.join(path)} {option}"))
    return options


def tried(path: Verb, option: str, value: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code and what was said; what is raised fails the test with its traceback."""
    signal.setitimer(signal.ITIMER_PROF, HANGS_S)
    code = int(run(line_of(path, option, value)))
    signal.setitimer(signal.ITIMER_PROF, 0)
    # A server may take the signal for its own end.
    assert not HUNG, (path, option, value[:40])
    out, err = capsys.readouterr()
    assert code in CODES, (path, option, value[:40], code)
    assert "Traceback" not in out + err
    return code, err


def sample(option: str, values: tuple[str, ...], path: Verb) -> tuple[str, ...]:
    """Some of the values: others for each option, the same in each run."""
    first = sum(map(ord, "".join(path) + option)) % len(values)
    return (values[first:] + values[:first])[:SAMPLE]


def refused_or_ended(
    path: Verb,
    option: str,
    never: tuple[str, ...],
    hostile: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What no such option takes is a usage error that names it; all else ends with a code."""
    for value in sample(option, never, path):
        code, err = tried(path, option, value, capsys)
        assert code == ExitCode.USAGE and option in err, (value[:20], err)
    for value in sample(option, hostile, path):
        tried(path, option, value, capsys)


def test_there_are_verbs_to_try() -> None:
    assert len(VERBS) > 30
    assert len(every((int, float))) > 30
    assert len(every((Path,))) > 30


@pytest.mark.parametrize(("path", "option"), every((int, float)))
def test_numbers(path: Verb, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused_or_ended(path, option, NEVER_NUMBERS, NUMBERS, capsys)


@pytest.mark.parametrize(("path", "option"), every((str,)))
def test_texts(path: Verb, option: str, capsys: pytest.CaptureFixture[str]) -> None:
    refused_or_ended(path, option, NEVER_TEXTS, TEXTS, capsys)


@pytest.mark.parametrize(("path", "option"), every((Path,)))
def test_paths(path: Verb, option: str, hostile: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    refused_or_ended(path, option, (*NEVER_TEXTS, "a" * 300), hostile, capsys)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (["serve", "--port", "99999"], 64, "--port 99999 is above 65535"),
        (["serve", "--port", "-1"], 64, "--port -1 is below 0"),
        (["demo", "--port", "99999"], 64, "--port 99999"),
        (["demo", "--seed", "-1"], 64, "--seed"),
        (["simulate", "video", "--seed", "-5"], 64, "--seed"),
        (["simulate", "video", "--minutes", "nan"], 64, "--minutes"),
        (["simulate", "video", "--times", "1e9"], 64, "--times"),
        (["plan", "video", "--rate", "1e11"], 64, "--rate"),
        (["validate", "/proc/self/mem"], 65, "/proc/self/mem:1:1: this cannot be read"),
        (["validate", "/dev/zero"], 65, "/dev/zero:1:1: this is not a file"),
        (["audit", "--check", "/dev/zero"], 65, "/dev/zero is not a file"),
        (["render", "video", "--plan", "/proc/self/environ"], 65, "/proc/self/environ is not JSON"),
    ],
)
def test_what_once_ended_in_a_traceback(line: list[str], code: int, words: str, ipa: Ipa) -> None:
    signal.setitimer(signal.ITIMER_PROF, HANGS_S)
    assert words in ipa(*line, code=code).err


@pytest.mark.parametrize(
    "name", [name for name in Settings.__slots__ if isinstance(getattr(Settings(), name), int | float)]
)
def test_settings_that_are_numbers(name: str) -> None:
    default = getattr(Settings(), name)
    # What it is without being set may also be said.
    assert getattr(Settings.from_env({f"IPA_{name.upper()}": str(default)}), name) == default
    _, most = next(bounds for suffix, bounds in RANGES.items() if name.endswith(suffix))
    wrong = (*NEVER_NUMBERS, "-1", "-0.5", "x", "", "1e-320", f"{most * 10:.0f}")
    for value in () if isinstance(default, bool) else wrong:
        with pytest.raises(ConfigurationError) as error:
            Settings.from_env({f"IPA_{name.upper()}": value})
        assert f"IPA_{name.upper()}=" in error.value.problems[0].message


def test_what_is_within_is_taken() -> None:
    for value in (0, -1, 2**53, 1e12, True, "ü" * 2000, Path("a" * 255), None):
        assert value_fault(value) == ""
    assert Settings.from_env({"IPA_PORT": "0"}).port == 0
