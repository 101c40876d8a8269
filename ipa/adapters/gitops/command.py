"""The git command, with a deadline."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ipa.model.errors import ConfigurationError, InputError, UnavailableError

# What git says may quote a remote's whole banner.
LONGEST_MESSAGE = 400
# What stands before the @ of an address.
SECRET = re.compile(r"//[^/@\s]+@")
# A person's hooks, signing and pagers are for persons; and nobody is here to type a password.
OPTIONS = ("-c", "core.hooksPath=/dev/null", "-c", "commit.gpgSign=false", "-c", "gc.auto=0")
QUIET = {"GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}

# Variables that would make it another repository than the one it is asked for.
ELSEWHERE = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_NAMESPACE"})


class GitError(Exception):
    """git said no; `args[0]` is what it said."""


class Git:
    """The git command in one repository. Every call ends within the time, with all it has started."""

    def __init__(self, folder: Path, timeout_s: float) -> None:
        self._folder, self._timeout_s = folder, timeout_s

    def __call__(
        self, *words: str, given: str | None = None, environment: Mapping[str, str] | None = None
    ) -> str:
        """What it prints, as text.

        GitError: it failed. UnavailableError: no end in time. ConfigurationError: there is no git.
        InputError: what it prints is not UTF-8.
        """
        command = ["git", "-C", str(self._folder), *OPTIONS, *words]
        env = {key: value for key, value in os.environ.items() if key not in ELSEWHERE}
        env = {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes", **env, **QUIET, **(environment or {})}
        try:
            process = subprocess.Popen(  # noqa: S603 - no shell; words are ours or checked
                command,
                stdin=subprocess.PIPE if given is not None else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=env,
                # So that what it starts (ssh, helpers) can be ended with it.
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigurationError(f"git cannot be run: {error.strerror}", hint="Install git.") from error
        try:
            out, err = process.communicate(None if given is None else given.encode(), self._timeout_s)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            raise UnavailableError(f"git {words[0]}: no end within {self._timeout_s:g} s") from None
        if process.returncode != 0:
            said = SECRET.sub("//", err.decode("utf-8", "replace"))
            raise GitError(said.strip()[:LONGEST_MESSAGE])
        try:
            return out.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"git {words[0]}: what it prints is not UTF-8: byte {error.start}") from error
