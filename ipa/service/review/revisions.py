"""The pipelines of a change of files, at its base and in the work tree."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from ipa.files.check import Checked, check_files
from ipa.files.pipelines import FILE_NAME
from ipa.model.errors import InputError, Problem, UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.report.review.result import FileHash, Status


class BaseRevision(Protocol):
    """The commit that the files of a work tree are compared with. Paths are relative to `root`."""

    @property
    def root(self) -> Path:
        """The top of the work tree."""

    @property
    def commit(self) -> str:
        """The whole name of the commit."""

    def changed(self) -> list[str]:
        """The files of the work tree that differ from the commit, new ones included."""

    def files(self, folders: Iterable[str]) -> list[str]:
        """The files in those folders at the commit."""

    def text(self, path: str) -> str:
        """The text of the file at the commit. InputError if it is not UTF-8."""


@dataclass(frozen=True, slots=True)
class Files:
    """The pipeline and profiles of one side, and the hashes of their files by path; `problems` if wrong."""

    pipeline: Pipeline | None
    profiles: dict[str, StageProfile]
    hashes: dict[str, str]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A pipeline on both sides; None if it is missing, or (before) unusable for the reason of `note`."""

    pipeline: str
    path: str
    status: Status
    before: Files | None
    after: Files | None
    note: str = ""

    @property
    def files(self) -> tuple[FileHash, ...]:
        """Every file of either side."""
        before = self.before.hashes if self.before else {}
        after = self.after.hashes if self.after else {}
        names = sorted({*before, *after})
        return tuple(FileHash(name, before.get(name, ""), after.get(name, "")) for name in names)

    @property
    def is_same(self) -> bool:
        """True if both sides have the same files."""
        return self.before is not None and self.after is not None and self.before.hashes == self.after.hashes


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders of pipelines and profiles, relative to the top of the work tree."""

    pipelines: str
    profiles: str

    def name(self, path: str) -> str | None:
        """The pipeline that the file belongs to; None for other files."""
        folder, _, file = path.rpartition("/")
        home, _, name = folder.rpartition("/")
        is_pipeline = home == self.pipelines and file == FILE_NAME
        return name if is_pipeline or (home == self.profiles and file.endswith(".yaml")) else None


def folders_of(base: BaseRevision, pipelines_dir: Path, profiles_dir: Path) -> Folders:
    """The two folders; UsageError if one is not below the top of the work tree."""
    return Folders(inside(base, pipelines_dir), inside(base, profiles_dir))


def inside(base: BaseRevision, path: Path) -> str:
    """The path relative to the top of the work tree; UsageError if it is outside, or the top itself."""
    found, root = path.resolve(), base.root.resolve()
    if found == root or not found.is_relative_to(root):
        raise UsageError(f"{path} is not below {base.root}, the git work tree that is compared")
    return found.relative_to(root).as_posix()


def pairs_of(base: BaseRevision, folders: Folders, *, all_of_them: bool) -> list[Pair]:
    """The pipelines with a file that differs from the base; with `all_of_them` every pipeline."""
    there = base.files([folders.pipelines, folders.profiles])
    here = [
        path.relative_to(base.root).as_posix()
        for folder, pattern in ((folders.pipelines, f"*/{FILE_NAME}"), (folders.profiles, "*/*.yaml"))
        for path in sorted((base.root / folder).glob(pattern))
        if path.is_file()
    ]
    concerned = {folders.name(path) for path in (here if all_of_them else base.changed())} - {None}
    return [
        _pair(base, folders, name, _of(folders, name, there), _of(folders, name, here))
        for name in sorted(filter(None, concerned))
    ]


def _of(folders: Folders, name: str, paths: Iterable[str]) -> list[str]:
    return [path for path in paths if folders.name(path) == name]


def _pair(base: BaseRevision, folders: Folders, name: str, there: Sequence[str], here: Sequence[str]) -> Pair:
    path = f"{folders.pipelines}/{name}/{FILE_NAME}"
    after = _read(base.root, folders, name, here) if here else None
    before, note = None, ""
    try:
        before = _at_base(base, folders, name, there) if path in there else None
    except InputError as error:
        note = f"at the base its files could not be used: {error.message}"
    if before is not None and before.problems:
        first = before.problems[0]
        note = f"at the base its files could not be used: {first.path}:{first.line}: {first.message}"
        before = None
    if path not in here:
        # Profiles without a pipeline are only checked.
        status = Status.REMOVED
        after = after if after is not None and after.problems else None
    elif path not in there:
        status = Status.ADDED
    else:
        status = Status.CHANGED
    pair = Pair(name, path, status, before, after, note)
    return replace(pair, status=Status.UNCHANGED) if pair.is_same else pair


def _at_base(base: BaseRevision, folders: Folders, name: str, paths: Sequence[str]) -> Files:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for path in paths:
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(base.text(path), encoding="utf-8", newline="")
        return _read(root, folders, name, paths)


def _read(root: Path, folders: Folders, name: str, paths: Sequence[str]) -> Files:
    checked = check_files([root / path for path in paths], root / folders.pipelines, root / folders.profiles)
    return Files(
        pipeline=next((each.pipeline for each in checked if each.pipeline is not None), None),
        profiles={each.profile.stage: each.profile for each in checked if each.profile is not None},
        hashes={path: sha256((root / path).read_bytes()).hexdigest() for path in paths},
        problems=tuple(_relative(problem, root) for problem in problems_of(checked)),
    )


def problems_of(checked: Iterable[Checked]) -> list[Problem]:
    """The problems, each once, in the order of the files."""
    found = {problem for each in checked for problem in each.problems}
    return sorted(found, key=lambda it: (it.path, it.line, it.column, it.message))


def _relative(problem: Problem, root: Path) -> Problem:
    """The problem as one of a file below the root."""
    prefix = f"{root}/"
    return replace(
        problem, path=problem.path.removeprefix(prefix), message=problem.message.replace(prefix, "")
    )
