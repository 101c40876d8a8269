"""The review of `ipa ci`: the changed pipelines at a base and in the work tree, simulated under one load."""

from __future__ import annotations

import operator
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from math import isfinite
from pathlib import Path
from typing import Any

from ipa.files.check import check_files
from ipa.files.document import unknown
from ipa.files.pipelines import FILE_NAME
from ipa.model.errors import InfeasibleError, InputError, Problem, UsageError
from ipa.model.pipeline import Pipeline
from ipa.model.profile import StageProfile
from ipa.profiling.findings import unmeasured_changes
from ipa.service.simulation import SimulatedPlace, as_served, over_seeds_of, rates_of
from ipa.settings import Settings

# A solver without a licence, and a deadline that no machine reaches, so that every machine has the same plan.
SOLVER, DEADLINE_S = "exact", 120.0
COMPARISONS: Mapping[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
INCREASE = "_increase"
_RULE = re.compile(r"\s*([\w./-]+)\s*(<=|>=|<|>)\s*(\S+)\s*")
# The folders of pipelines and of profiles, relative to the top of the work tree.
Folders = tuple[str, str]
# The figures of `ipa simulate -o json`.
SimFigures = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ReviewRule:
    """A rule that fails a change if a figure after it, or the figure's increase, exceeds the limit."""

    figure: str
    comparison: str
    limit: float

    def __str__(self) -> str:
        return f"{self.figure} {self.comparison} {self.limit:g}"

    def broken_by(self, before: SimFigures | None, after: SimFigures) -> str:
        """The value that breaks the rule, in words; empty if the rule holds, or the value is not known.

        UsageError if there is no such figure.
        """
        name = self.figure.removesuffix(INCREASE)
        if name not in after or not isinstance(after[name], int | float | None):
            known = [each for each, value in after.items() if isinstance(value, int | float)]
            raise UsageError(f"--fail-if: there is no figure {name!r}; {unknown(name, known)}")
        value = after[name]
        if name != self.figure:
            earlier = None if before is None else before.get(name)
            value = None if value is None or earlier is None else value - earlier
        is_broken = value is not None and COMPARISONS[self.comparison](value, self.limit)
        return f"{self.figure} is {value:.4g} (fails if {self})" if is_broken else ""


def rule_of(text: str) -> ReviewRule:
    """Parse a rule such as `violation_ratio > 0.01`; UsageError if the text is not one."""
    parts = _RULE.fullmatch(text)
    try:
        limit = float(parts[3]) if parts else float("nan")
    except ValueError:
        limit = float("nan")
    if parts is None or not isfinite(limit):
        hint = 'Write a figure, <, <=, > or >=, and a number, as "violation_ratio > 0.01".'
        raise UsageError(f"--fail-if {text!r} is not a rule", hint=hint)
    return ReviewRule(parts[1], parts[2], limit)


@dataclass(frozen=True, slots=True)
class ReviewRequest:
    """The files below `root` to compare with those below `before`.

    `load` is a trace file or the name of a workload, `place_of` returns the target of a pipeline, and `say`
    receives the progress.
    """

    root: Path
    before: Path
    load: str
    rules: Sequence[ReviewRule]
    policy: str
    seeds: int
    settings: Settings
    place_of: Callable[[Pipeline], SimulatedPlace]
    say: Callable[[str], None]


class Status(StrEnum):
    """The kind of change of a pipeline's files."""

    CHANGED = "changed"
    ADDED = "added"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Reviewed:
    """One pipeline: its figures on each side, None if it is missing there or could not be simulated.

    `findings` are the reasons to refuse the change; `note` has the fault of its files at the base.
    """

    pipeline: str
    path: str
    status: Status
    before: SimFigures | None
    after: SimFigures | None
    findings: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True, slots=True)
class _Files:
    """The pipeline and profiles of one side, and their problems."""

    pipeline: Pipeline | None
    profiles: Mapping[str, StageProfile]
    problems: tuple[Problem, ...]


def review_of(request: ReviewRequest) -> tuple[Reviewed, ...]:
    """The review of every pipeline whose files differ from the base.

    Errors: UsageError (no such policy or figure, a folder outside the work tree), NotFoundError (no such
    trace), InputError (changed files that cannot be used).
    """
    folders = (
        _inside(request.root, request.settings.pipelines_dir),
        _inside(request.root, request.settings.profiles_dir),
    )
    rates_rps = rates_of(request.load, None, 1.0)
    there, here = _texts(request.before, folders), _texts(request.root, folders)
    names = [name for name in sorted({*there, *here}) if there[name] != here[name]]
    after = {name: _read(request.root, folders, here[name]) for name in names}
    problems = [problem for each in after.values() for problem in each.problems]
    if problems:
        raise InputError("the change has files that cannot be used", problems=problems)
    return tuple(
        _reviewed(request, folders, name, there[name], after[name], rates_rps)
        for name in names
        # Profiles without a pipeline are only checked.
        if after[name].pipeline is not None or f"{folders[0]}/{name}/{FILE_NAME}" in there[name]
    )


def _inside(root: Path, path: Path) -> str:
    """The path relative to the top of the work tree; UsageError if it is not below the top."""
    resolved, root = path.resolve(), root.resolve()
    if resolved == root or not resolved.is_relative_to(root):
        raise UsageError(f"{path} is not below {root}, the git work tree that is compared")
    return resolved.relative_to(root).as_posix()


def _texts(root: Path, folders: Folders) -> defaultdict[str, dict[str, bytes]]:
    """By pipeline, the text of each of its files by path relative to the root."""
    texts: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
    for folder, pattern in zip(folders, (FILE_NAME, "*.yaml"), strict=True):
        for path in sorted((root / folder).glob(f"*/{pattern}")):
            if path.is_file():
                texts[path.parent.name][path.relative_to(root).as_posix()] = path.read_bytes()
    return texts


def _read(root: Path, folders: Folders, paths: Iterable[str]) -> _Files:
    """The files below the root; problems name each file by its path in the work tree."""
    files = [root / path for path in paths]
    checked = check_files(files, root / folders[0], root / folders[1]) if files else []
    prefix = f"{root}/"
    problems = {
        replace(it, path=it.path.removeprefix(prefix), message=it.message.replace(prefix, ""))
        for each in checked
        for it in each.problems
    }
    return _Files(
        pipeline=next((each.pipeline for each in checked if each.pipeline is not None), None),
        profiles={each.profile.stage: each.profile for each in checked if each.profile is not None},
        problems=tuple(sorted(problems, key=lambda it: (it.path, it.line, it.column, it.message))),
    )


def _reviewed(
    request: ReviewRequest,
    folders: Folders,
    name: str,
    there: Iterable[str],
    after: _Files,
    rates_rps: tuple[float, ...],
) -> Reviewed:
    old, findings, note = _read(request.before, folders, there), [], ""
    path = f"{folders[0]}/{name}/{FILE_NAME}"
    status = Status.CHANGED if path in there else Status.ADDED
    if old.problems:
        first = old.problems[0]
        note = f"at the base its files could not be used: {first.path}:{first.line}: {first.message}"
    if after.pipeline is None:
        status = Status.REMOVED
    figures: list[SimFigures | None] = []
    for side, files in (("before", old), ("after", after)):
        figures.append(None)
        if files.pipeline is None or files.problems:
            continue
        try:
            figures[-1] = _simulated(files.pipeline, files.profiles, request, rates_rps, f"{name} {side}")
        except InfeasibleError as error:
            findings += [error.message] if side == "after" else []
    if after.pipeline is not None and not old.problems:
        findings += unmeasured_changes(old.profiles, after.profiles)
    if figures[1] is not None:
        findings += filter(None, [rule.broken_by(figures[0], figures[1]) for rule in request.rules])
    return Reviewed(name, path, status, figures[0], figures[1], tuple(findings), note)


def _simulated(
    pipeline: Pipeline,
    profiles: Mapping[str, StageProfile],
    request: ReviewRequest,
    rates_rps: tuple[float, ...],
    words: str,
) -> SimFigures:
    """The figures of one side on its file's target, over all seeds."""
    setup = as_served(pipeline, profiles, rates_rps, request.settings, request.place_of(pipeline))
    setup = replace(setup, policy=request.policy, solver=SOLVER, deadline_s=DEADLINE_S)
    request.say(f"{words}: simulating {len(rates_rps)} s")
    return over_seeds_of(setup, request.seeds, lambda now: request.say(f"{words}: {now}"))[1]
