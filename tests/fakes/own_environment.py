"""Packages of others in an environment of their own, where they want other versions than this project has.

The environment is made on demand in a folder that later runs find again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ipa.adapters.processes import FileLock, HeldError
from tests.fakes.waiting import until

MAKE_S = 600.0


@dataclass(frozen=True)
class OwnEnvironment:
    """A package of one version: `check` is the code that tells that an interpreter has it.

    `pythons` are the versions to try, `beside` what else is installed; `variable` may name an
    interpreter that has all of it.
    """

    name: str
    version: str
    check: str
    variable: str
    pythons: tuple[str, ...] = ("3.11", "3.12")
    beside: tuple[str, ...] = ()

    def python(self) -> str:
        """The interpreter. RuntimeError says why there is none."""
        path = os.environ.get(self.variable, "") or _made(self)
        if path.startswith("!"):
            raise RuntimeError(path[1:])
        return path


@cache
def _made(wanted: OwnEnvironment) -> str:
    """The interpreter of the environment, made if it is not there; after "!" why it cannot be made."""
    cache_home = Path(os.environ.get("XDG_CACHE_HOME", "") or Path.home() / ".cache")
    home = cache_home / "ipa-tests"
    folder = home / f"{wanted.name}-{wanted.version}"
    interpreter = folder / "bin" / "python"
    if _has_it(wanted, interpreter):
        return str(interpreter)
    uv = Path(sys.executable).with_name("uv")
    if not uv.is_file():
        return f"!{wanted.name} {wanted.version} needs uv to be installed, which is not beside this Python"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _alone(home / "lock"):
            failure = "" if _has_it(wanted, interpreter) else _make(wanted, str(uv), folder)
    except OSError as error:
        return f"!the folder {home} cannot be written: {error}"
    if failure:
        shutil.rmtree(folder, ignore_errors=True)
        return f"!{wanted.name} {wanted.version} cannot be installed: {failure}"
    return str(interpreter)


def _has_it(wanted: OwnEnvironment, interpreter: Path) -> bool:
    if not interpreter.exists():
        return False
    # Tests of a foreign version prove nothing.
    command = [interpreter, "-Ic", wanted.check]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One worker makes it, the others wait."""
    taken: list[FileLock] = []

    def take() -> bool:
        with suppress(HeldError):
            taken.append(FileLock(path))
        return bool(taken)

    until(take, MAKE_S)
    try:
        yield
    finally:
        taken[0].release()


def _make(wanted: OwnEnvironment, uv: str, folder: Path) -> str:
    """Make it with the first of its Pythons that does; return why none does, empty if one did."""
    install = [uv, "pip", "install", "-q", "-p", str(folder), f"{wanted.name}=={wanted.version}"]
    failures = []
    for version in wanted.pythons:
        venv = [uv, "venv", "-q", "--clear", "-p", version, str(folder)]
        failure = _run(venv) or _run([*install, *wanted.beside])
        if not failure and _has_it(wanted, folder / "bin" / "python"):
            return ""
        failures.append(f"Python {version}: {failure or 'it does not import'}")
    return "; ".join(failures)


def _run(command: Sequence[str]) -> str:
    """Run it; return how it failed, empty if it did not."""
    env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    env.pop("VIRTUAL_ENV", None)
    try:
        run = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=MAKE_S)
    except subprocess.TimeoutExpired:
        return f"{command[1]} took longer than {MAKE_S:g} s"
    return " ".join(run.stderr.split())[-200:] or "it failed" if run.returncode else ""
