"""A newcomer's first hour: the tutorial's commands as they are printed, one after another, each step timed.

Installs from a clone, as the tutorial says, and works in it, so that nothing here is touched. `run` does the
same for the tests, without installing.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TUTORIAL = ROOT / "docs" / "tutorial" / "first-steps.md"
HEADING = re.compile(r"^## (\d+\. .*)$")
# What starts the service, which goes on until the next one starts.
SERVICE = re.compile(r"^ipa (demo|serve)\b")
CONFLICT = 4
# A command that asks while something changes is told to ask again; people do that twice before they read on.
ATTEMPTS = 3
LIMIT_S = 400.0
START_S = 60.0


@dataclass(frozen=True, slots=True)
class Action:
    """Something a newcomer does: types a command, which prints that, or writes a file."""

    command: str
    expected: str = ""
    file: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """A heading of the tutorial, and what is done under it."""

    title: str
    actions: tuple[Action, ...]


class FailedError(Exception):
    """A command did not do what the tutorial says."""


def steps_of(text: str) -> list[Step]:
    """The steps in their order."""
    steps: list[Step] = []
    title, actions, block = "", list[Action](), list[str]()
    kind = ""
    for line in [*text.splitlines(), "## 0. end"]:
        if kind:
            if line == "```":
                actions += _actions(kind, block)
                kind, block = "", []
            else:
                block.append(line)
        elif line.startswith("```"):
            kind = line[3:]
        elif line.startswith("## "):
            if title and actions:
                steps.append(Step(title, tuple(actions)))
            found = HEADING.match(line)
            title, actions = (found[1] if found else ""), []
    return steps


def _actions(kind: str, block: list[str]) -> Iterator[Action]:
    if kind == "yaml" and block[0].startswith("# "):
        yield Action("", "\n".join(block[1:]) + "\n", block[0][2:])
    elif kind == "bash":
        yield from (Action(line) for line in block)
    elif kind == "console":
        for part in "\n".join(block).removeprefix("$ ").split("\n$ "):
            command, _, expected = part.partition("\n")
            yield Action(command, expected)


class Newcomer:
    """Works in a folder with what is on the path; the service that was started goes on behind."""

    def __init__(self, folder: Path, path: str) -> None:
        self._folder = folder
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = str(server.getsockname()[1])
        # Somebody else may have the usual port.
        there = {"IPA_PORT": port, "IPA_AT": f"http://127.0.0.1:{port}"}
        self._environment = {**os.environ, "PATH": path, "NO_COLOR": "1", "COLUMNS": "160", **there}
        self._service: subprocess.Popen[str] | None = None

    def do(self, action: Action) -> None:
        """Do it. FailedError where it does not go as the tutorial says."""
        if action.file:
            (self._folder / action.file).write_text(action.expected)
        elif SERVICE.match(action.command):
            self._start(action.command)
        else:
            self._type(action)

    def close(self) -> None:
        """End the service as Ctrl-C does."""
        service, self._service = self._service, None
        if service is not None:
            service.send_signal(2)
            if service.wait(START_S) != 0:
                raise FailedError(f"the service ended with {service.returncode}")
            assert service.stdout is not None
            service.stdout.close()

    def _start(self, command: str) -> None:
        self.close()
        self._service = service = subprocess.Popen(
            ["bash", "-c", f"exec {command}"],
            cwd=self._folder,
            env={**self._environment, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert service.stdout is not None
        if not any("page and API at" in line for line in service.stdout):
            raise FailedError(f"{command}: it ended before it answered")

    def _type(self, action: Action) -> None:
        for attempt in range(ATTEMPTS):
            done = subprocess.run(
                ["bash", "-c", action.command],
                cwd=self._folder,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            if done.returncode != CONFLICT or attempt == ATTEMPTS - 1:
                break
        if done.returncode != 0:
            raise FailedError(f"{action.command}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        pattern = re.escape(action.expected.strip()).replace(r"\.\.\.", ".*?")
        if not re.search(pattern, done.stdout, re.DOTALL):
            raise FailedError(f"{action.command} printed\n{done.stdout}")


@contextmanager
def newcomer(folder: Path, path: str) -> Iterator[Newcomer]:
    """Somebody who ends what was started."""
    with ExitStack() as stack:
        person = Newcomer(folder, path)
        stack.callback(person.close)
        yield person


def run(folder: Path, path: str, text: str, skipped: str = r"^(make|source) ") -> dict[str, float]:
    """Seconds of each step, done in the folder; commands that match `skipped` are left out."""
    took: dict[str, float] = {}
    with newcomer(folder, path) as person:
        for step in steps_of(text):
            actions = [each for each in step.actions if not re.match(skipped, each.command)]
            began_s = time.monotonic()
            for action in actions:
                person.do(action)
            if actions:
                took[step.title] = time.monotonic() - began_s
    return took


def installed(folder: Path) -> float:
    """Seconds that it took to install from a clone in the folder."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    began_s = time.monotonic()
    subprocess.run(["make", "--quiet", "install"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began_s


def table(took: Mapping[str, float]) -> str:
    """The steps with their seconds."""
    width = max(map(len, took))
    rows = [f"{title:<{width}}  {seconds:7.1f} s" for title, seconds in took.items()]
    return "\n".join([*rows, f"{'together':<{width}}  {sum(took.values()):7.1f} s"])


def main() -> int:
    """0 where all went as the tutorial says."""
    with tempfile.TemporaryDirectory(prefix="ipa-first-hour-") as place:
        folder = Path(place) / "ipa"
        took = {"1. Install": installed(folder)}
        path = f"{folder / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"
        try:
            took |= run(folder, path, TUTORIAL.read_text())
        except FailedError as failure:
            sys.stderr.write(f"{failure}\n")
            return 1
    sys.stdout.write(f"{table(took)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
