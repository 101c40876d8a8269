"""The git command, with a deadline."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from ipa.adapters.processes import run
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
        """The output of the command, as text.

        GitError: it failed. UnavailableError: no end in time. ConfigurationError: there is no git.
        InputError: the output is not UTF-8.
        """
        command = ["git", "-C", str(self._folder), *OPTIONS, *words]
        env = {key: value for key, value in os.environ.items() if key not in ELSEWHERE}
        env = {"GIT_SSH_COMMAND": "ssh -o BatchMode=yes", **env, **QUIET, **(environment or {})}
        stdin = None if given is None else given.encode()
        try:
            done = run(command, given=stdin, env=env, limit_s=self._timeout_s)
        except TimeoutError:
            raise UnavailableError(f"git {words[0]}: did not finish within {self._timeout_s:g} s") from None
        except OSError as error:
            raise ConfigurationError(f"git cannot be run: {error.strerror}", hint="Install git.") from error
        if done.returncode != 0:
            said = SECRET.sub("//", done.stderr.decode("utf-8", "replace"))
            raise GitError(said.strip()[:LONGEST_MESSAGE])
        try:
            return done.stdout.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"git {words[0]}: its output is not UTF-8 at byte {error.start}") from error
