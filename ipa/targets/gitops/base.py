"""The commit that the files of a work tree are compared with."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ipa.model.errors import UsageError
from ipa.targets.gitops.command import Git, GitError

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
