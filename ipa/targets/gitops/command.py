"""The git command with a deadline, and the commit that the files of a work tree are compared with."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from ipa.adapters.processes import run
from ipa.model.errors import ConfigurationError, InputError, UnavailableError, UsageError
from ipa.model.masking import mask_urls

# A large repository on a slow disk; beyond that something hangs.
TIMEOUT_S = 60.0
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


@contextmanager
def base_checkout(folder: Path, ref: str, timeout_s: float = TIMEOUT_S) -> Iterator[tuple[Path, str, Path]]:
    """The top of the work tree at `folder`, the newest commit in common with `ref`, and its YAML files.

    These are in a folder that is removed after the block. Errors: UsageError (no work tree, no such ref, no
    common commit); those of `Git`.
    """
    here = Git(folder, timeout_s)
    try:
        root = Path(here("rev-parse", "--show-toplevel").removesuffix("\n"))
    except GitError as error:
        raise UsageError(f"{folder} is not in a git work tree: {error}") from error
    git = Git(root, timeout_s)
    commit = _common_commit(git, ref)
    listed = git("ls-tree", "-r", "-z", "--name-only", "--full-tree", commit).split("\0")
    with TemporaryDirectory() as made:
        # An index of its own: that of the work tree stays as it is.
        index = {"GIT_INDEX_FILE": str(Path(made) / "index")}
        files = Path(made) / "files"
        git("read-tree", commit, environment=index)
        names = "\0".join(name for name in listed if name.endswith(".yaml"))
        git("checkout-index", "-z", "--stdin", f"--prefix={files}/", given=names, environment=index)
        yield root, commit, files


def _common_commit(git: Git, ref: str) -> str:
    words = ("rev-parse", "--verify", "--quiet", "--end-of-options")
    try:
        named = git(*words, f"{ref}^{{commit}}").strip()
    except GitError as error:
        raise UsageError(
            f"--base {ref!r} is not a commit of this repository",
            hint="Fetch it first, for example with `git fetch origin main`, and pass origin/main.",
        ) from error
    try:
        return git("merge-base", named, "HEAD").strip()
    except GitError as error:
        raise UsageError(
            f"--base {ref!r} and HEAD have no commit in common",
            hint="A shallow clone may lack it: fetch the whole history (fetch-depth: 0, GIT_DEPTH: 0).",
        ) from error
