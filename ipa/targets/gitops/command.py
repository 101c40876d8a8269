"""The git command with a deadline, and the commit that the files of a work tree are compared with."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from ipa.adapters.processes import run
from ipa.model.errors import ConfigurationError, InputError, UnavailableError, UsageError
from ipa.model.masking import mask_urls

# What git says may quote a remote's whole banner.
LONGEST_MESSAGE = 400
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
            said = mask_urls(done.stderr.decode("utf-8", "replace"))
            raise GitError(said.strip()[:LONGEST_MESSAGE])
        try:
            return done.stdout.decode("utf-8")
        except UnicodeDecodeError as error:
            raise InputError(f"git {words[0]}: its output is not UTF-8 at byte {error.start}") from error


# A regular file, whether executable or not. Links and submodules are none of ours.
REGULAR = ("100644", "100755")


class Base:
    """The newest commit that the work tree at `folder` and `ref` have in common, and its files.

    Paths are relative to `root`, the top of the work tree. `commit` is the whole name of the commit.
    Errors: UsageError (no work tree, no such ref, no common commit); those of `Git`.
    """

    def __init__(self, folder: Path, ref: str, timeout_s: float) -> None:
        here = Git(folder, timeout_s)
        try:
            self.root = Path(here("rev-parse", "--show-toplevel").removesuffix("\n"))
        except GitError as error:
            raise UsageError(f"{folder} is not in a git work tree: {error}") from error
        self._git = Git(self.root, timeout_s)
        self.commit = self._common(ref)

    def _common(self, ref: str) -> str:
        words = ("rev-parse", "--verify", "--quiet", "--end-of-options")
        try:
            named = self._git(*words, f"{ref}^{{commit}}").strip()
        except GitError as error:
            raise UsageError(
                f"--base {ref!r} is not a commit of this repository",
                hint="Fetch it first, for example with `git fetch origin main`, and pass origin/main.",
            ) from error
        try:
            return self._git("merge-base", named, "HEAD").strip()
        except GitError as error:
            raise UsageError(
                f"--base {ref!r} and HEAD have no commit in common",
                hint="A shallow clone may lack it: fetch the whole history (fetch-depth: 0, GIT_DEPTH: 0).",
            ) from error

    def changed(self) -> list[str]:
        """The files of the work tree that are not as in the commit; new ones too, unless ignored."""
        listed = self._git("diff", "--name-only", "--no-renames", "--no-ext-diff", "-z", self.commit, "--")
        fresh = self._git("ls-files", "--others", "--exclude-standard", "-z")
        return sorted({path for path in (listed + fresh).split("\0") if path})

    def files(self, folders: Iterable[str]) -> list[str]:
        """The files in those folders at the commit."""
        listed = self._git("ls-tree", "-r", "-z", "--full-tree", self.commit, "--", *folders)
        entries = [entry.partition("\t") for entry in listed.split("\0") if entry]
        return [path for about, _, path in entries if about.split()[0] in REGULAR]

    def text(self, path: str) -> str:
        """The file's text at the commit. InputError where it is not UTF-8."""
        return self._git("cat-file", "blob", f"{self.commit}:{path}")
