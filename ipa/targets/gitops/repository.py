"""Manifests on a branch of a git repository, which people and their GitOps tools use at the same time."""

from __future__ import annotations

import re
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

from ipa.model import errors
from ipa.targets.gitops.command import Git, GitError

AUTHOR = re.compile(r"([^<>\n]+) <([^<>\s]+)>")
# A regular file, not executable.
PLAIN = "100644"


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
            raise errors.ConfigurationError(
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
            raise errors.ConfigurationError(f"{folder} is not a git repository: {error}") from error

    def read(self, path: str) -> str:
        """The file's text at the branch's newest commit."""
        with self._turn:
            return self._text(self._head(), path)

    def write(self, path: str, before: str, after: str, message: str) -> None:
        """One commit that puts `after` in place of `before`. ConflictError: it says something else by now."""
        with self._turn:
            head = self._head()
            if self._text(head, path) != before:
                raise errors.ConflictError(
                    f"{path} on {self._branch.name} was changed since it was read", hint=errors.READ_AGAIN
                )
            try:
                commit = self._commit(head, path, after, message)
            except GitError as error:
                raise errors.UnavailableError(f"nothing was committed: git failed: {error}") from error
            self._publish(head, commit)

    def _head(self) -> str:
        """The branch's newest commit, of the remote where there is one."""
        name, remote = self._branch.name, self._branch.remote
        ref = f"refs/remotes/{remote}/{name}" if remote else f"refs/heads/{name}"
        try:
            if remote:
                self._git("fetch", "--quiet", "--no-tags", remote, f"+refs/heads/{name}:{ref}")
        except GitError as error:
            raise errors.UnavailableError(f"branch {name} of {remote} cannot be read: {error}") from error
        try:
            return self._git("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}").strip()
        except GitError as error:
            raise errors.NotFoundError(
                f"{self._folder} has no branch {name!r}", hint="Create the branch first."
            ) from error

    def _text(self, commit: str, path: str) -> str:
        try:
            return self._git("cat-file", "blob", f"{commit}:{path}")
        except GitError as error:
            raise errors.NotFoundError(
                f"there is no file {path} on branch {self._branch.name}",
                hint="`ipa render PIPELINE` prints the manifest to commit there.",
            ) from error

    def _commit(self, head: str, path: str, text: str, message: str) -> str:
        """A commit upon `head` that changes the one file; no branch names it yet."""
        blob = self._git("hash-object", "-w", "--stdin", given=text).strip()
        mode = self._git("ls-tree", head, "--", path).split(maxsplit=1)[0] or PLAIN
        with tempfile.TemporaryDirectory() as folder:
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


def _refusal(name: str, said: str) -> errors.IpaError:
    """The error of a branch that was not written, by what git says of it."""
    if any(words in said for words in ("stale info", "fetch first", "cannot lock ref", "non-fast-forward")):
        return errors.ConflictError(
            f"branch {name} moved during the write: nothing was changed", hint=errors.READ_AGAIN
        )
    if any(words in said for words in ("remote rejected", "denied", "not allowed", "Authentication failed")):
        return errors.ForbiddenError(
            f"git refused to write branch {name}: {said}", hint="Allow the service to push to that branch."
        )
    return errors.UnavailableError(f"branch {name} could not be written: {said}")
