"""The git command with a deadline; a branch that people and GitOps tools use too; the base of a review."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from ipa.adapters.processes import run
from ipa.model.errors import (
    READ_AGAIN,
    ConfigurationError,
    ConflictError,
    ForbiddenError,
    InputError,
    IpaError,
    NotFoundError,
    UnavailableError,
    UsageError,
)
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
AUTHOR = re.compile(r"([^<>\n]+) <([^<>\s]+)>")
# A regular file, not executable.
PLAIN = "100644"


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


@dataclass(frozen=True, slots=True)
class Branch:
    """The branch for commits, on the remote if one is named; `author` as "Name <address>"."""

    name: str
    remote: str = ""
    author: str = "ipa-serving <ipa-serving@localhost>"


class Repository:
    """A branch whose files are read and changed by commits of ours; the work tree and index are not used.

    Errors: ConflictError (the branch or file moved), ForbiddenError (the remote refuses), NotFoundError,
    UnavailableError (no answer in time, or git failed; after a push it is then unknown whether it arrived:
    read), ConfigurationError (no git, no repository, no such author).
    """

    def __init__(self, folder: Path, branch: Branch, timeout_s: float) -> None:
        author = AUTHOR.fullmatch(branch.author)
        if author is None:
            raise ConfigurationError(
                f"IPA_GITOPS_AUTHOR {branch.author!r} is not a name and an address",
                hint='For example "ipa <ipa@example.com>".',
            )
        self._git = Git(folder, timeout_s)
        self._branch = branch
        self._folder = folder
        # Loops of several pipelines share the branch; git's own locks refuse rather than wait.
        self._turn = threading.Lock()
        self._who = {
            f"GIT_{role}_{key}": value
            for role in ("AUTHOR", "COMMITTER")
            for key, value in (("NAME", author[1].strip()), ("EMAIL", author[2]))
        }
        try:
            self._git("rev-parse", "--git-dir")
        except GitError as error:
            raise ConfigurationError(f"{folder} is not a git repository: {error}") from error

    def read(self, path: str) -> str:
        """The file's text at the branch's newest commit."""
        with self._turn:
            return self._text(self._head(), path)

    def write(self, path: str, before: str, after: str, message: str) -> None:
        """One commit that puts `after` in place of `before`. ConflictError: it says something else by now."""
        with self._turn:
            head = self._head()
            if self._text(head, path) != before:
                raise ConflictError(
                    f"{path} on {self._branch.name} was changed since it was read", hint=READ_AGAIN
                )
            try:
                commit = self._commit(head, path, after, message)
            except GitError as error:
                raise UnavailableError(f"nothing was committed: git failed: {error}") from error
            self._publish(head, commit)

    def _head(self) -> str:
        """The branch's newest commit, of the remote where there is one."""
        name, remote = self._branch.name, self._branch.remote
        ref = f"refs/remotes/{remote}/{name}" if remote else f"refs/heads/{name}"
        try:
            if remote:
                self._git("fetch", "--quiet", "--no-tags", remote, f"+refs/heads/{name}:{ref}")
        except GitError as error:
            raise UnavailableError(f"branch {name} of {remote} cannot be read: {error}") from error
        try:
            return self._git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").strip()
        except GitError as error:
            raise NotFoundError(
                f"{self._folder} has no branch {name!r}", hint="Create the branch first."
            ) from error

    def _text(self, commit: str, path: str) -> str:
        try:
            return self._git("cat-file", "blob", f"{commit}:{path}")
        except GitError as error:
            raise NotFoundError(
                f"there is no file {path} on branch {self._branch.name}",
                hint="`ipa render PIPELINE` prints the manifest to commit there.",
            ) from error

    def _commit(self, head: str, path: str, text: str, message: str) -> str:
        """A commit upon `head` that changes the one file; no branch names it yet."""
        blob = self._git("hash-object", "-w", "--stdin", given=text).strip()
        mode = self._git("ls-tree", head, "--", path).split(maxsplit=1)[0] or PLAIN
        with TemporaryDirectory() as folder:
            index = {"GIT_INDEX_FILE": str(Path(folder) / "index")}
            self._git("read-tree", head, environment=index)
            self._git("update-index", "--add", "--cacheinfo", f"{mode},{blob},{path}", environment=index)
            tree = self._git("write-tree", environment=index).strip()
        words = ("commit-tree", tree, "-p", head)
        return self._git(*words, given=message, environment=self._who).strip()

    def _publish(self, head: str, commit: str) -> None:
        """Make it the branch's newest, unless the branch moved meanwhile."""
        name, remote = self._branch.name, self._branch.remote
        try:
            if remote:
                # The lease is what was read: a branch that was moved or remade meanwhile is not pushed onto.
                lease = f"--force-with-lease=refs/heads/{name}:{head}"
                self._git("push", "--quiet", lease, remote, f"{commit}:refs/heads/{name}")
            else:
                self._git("update-ref", f"refs/heads/{name}", commit, head)
        except GitError as error:
            raise _refusal(name, str(error)) from error


def _refusal(name: str, said: str) -> IpaError:
    """The error of a branch that was not written, by what git says of it."""
    if any(words in said for words in ("stale info", "fetch first", "cannot lock ref", "non-fast-forward")):
        return ConflictError(f"branch {name} moved during the write: nothing was changed", hint=READ_AGAIN)
    if any(words in said for words in ("remote rejected", "denied", "not allowed", "Authentication failed")):
        return ForbiddenError(
            f"git refused to write branch {name}: {said}", hint="Allow the service to push to that branch."
        )
    return UnavailableError(f"branch {name} could not be written: {said}")


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
