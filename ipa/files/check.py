"""Checks files by themselves and against each other: what `ipa validate` shows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ipa.files.document import Document, Pointer, read_document
from ipa.files.pipelines import FILE_NAME, pipeline_in
from ipa.files.profiles import profile_in
from ipa.files.reading import opened
from ipa.model.errors import InputError, IpaError, NotFoundError, Problem
from ipa.model.pipeline import OutputRows, Pipeline, Stage
from ipa.model.profile import StageProfile

# How a file in a folder shows that it is meant for us, even one that is broken otherwise.
_OURS = re.compile(r"""^(apiVersion:\s*["']?ipa/|kind:\s*["']?(Pipeline|Profile)\b)""", re.MULTILINE)
_KIND = re.compile(r"""^kind:\s*["']?Profile\b""", re.MULTILINE)
PIPELINE, PROFILE = "Pipeline", "Profile"


@dataclass(slots=True)
class Checked:
    """One checked file: its value, or its problems."""

    path: Path
    document: Document = field(repr=False, default_factory=lambda: Document("", None))
    pipeline: Pipeline | None = None
    profile: StageProfile | None = None
    # Of a profile: true if its pipeline is known, and only planned.
    planned_only: bool = False
    # Of a pipeline: the profiles that it was checked against, by stage.
    measured: dict[str, StageProfile] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)


def check_files(paths: Sequence[Path], pipelines_dir: Path, profiles_dir: Path) -> list[Checked]:
    """Each file found under `paths` (by default both folders), with its problems.

    Pipelines are checked against their profiles among `paths`, else against those in `profiles_dir`.
    """
    checked = [_check(path, kind) for path, kind in _find(paths, pipelines_dir, profiles_dir)]
    profiles = {(each.profile.pipeline, each.profile.stage): each for each in checked if each.profile}
    paths_checked = {each.path for each in checked}
    pipelines = [each.pipeline for each in checked if each.pipeline]
    elsewhere = {name for name, _ in profiles} - {pipeline.name for pipeline in pipelines}
    others = [_check(pipelines_dir / name / FILE_NAME, PIPELINE).pipeline for name in elsewhere]
    planned_only = {one.name for one in (*pipelines, *others) if one and not one.runnable}
    for each in checked:
        if each.profile is not None:
            each.planned_only = each.profile.pipeline in planned_only
            if each.path.is_relative_to(profiles_dir):
                _check_place(each, f"{each.profile.pipeline}/{each.profile.stage}.yaml", profiles_dir)
        if each.pipeline is not None:
            if each.path.is_relative_to(pipelines_dir):
                _check_place(each, f"{each.pipeline.name}/{FILE_NAME}", pipelines_dir)
            _check_coverage(each, each.pipeline, profiles, profiles_dir, paths_checked)
    return checked


def _find(paths: Sequence[Path], pipelines_dir: Path, profiles_dir: Path) -> Iterator[tuple[Path, str]]:
    """Files to check, and the kind of each."""
    if not paths:
        yield from ((path, PIPELINE) for path in sorted(pipelines_dir.glob(f"*/{FILE_NAME}")))
        yield from ((path, PROFILE) for path in sorted(profiles_dir.glob("*/*.yaml")))
    for path in paths:
        if path.is_dir():
            for inner in sorted(path.rglob("*.yaml")):
                if inner.name == FILE_NAME or _OURS.search(_head(inner)):
                    yield inner, _kind(inner)
        else:
            yield path, _kind(path)


def _kind(path: Path) -> str:
    """The kind that the file declares; a pipeline if it declares none."""
    return PROFILE if _KIND.search(_head(path)) else PIPELINE


def _head(path: Path) -> str:
    """The beginning of a file, which contains its kind; empty if it cannot be read."""
    try:
        with opened(path) as stream:
            return stream.read(4096).decode("utf-8", errors="replace")
    except (IpaError, OSError):
        # The loader, which reads it whole, reports what is wrong.
        return ""


def _check(path: Path, kind: str) -> Checked:
    checked = Checked(path)
    try:
        checked.document = read_document(path)
        if kind == PROFILE:
            checked.profile = profile_in(checked.document)
        else:
            checked.pipeline = pipeline_in(checked.document)
    except (InputError, NotFoundError) as error:
        checked.problems.extend(error.problems or [Problem(error.message)])
    return checked


def _check_place(checked: Checked, expected: str, folder: Path) -> None:
    if checked.path.relative_to(folder).as_posix() != expected:
        message = f"this file belongs at {folder / expected}; move it or correct the name"
        checked.problems.append(Problem(message, str(checked.path), 1, 1))


def _check_rows(document: Document, pointer: Pointer, stage: Stage, measured: Checked) -> None:
    """Note a stage that declares one row an item although other numbers were measured."""
    for variant in measured.profile.variants if measured.profile else ():
        if stage.output_rows is OutputRows.PER_ITEM and variant.has_varying_rows and variant.rows_per_item:
            least, most = variant.rows_per_item
            message = (
                f"output_rows is per-item, and {measured.path} has {least} to {most} rows for an item of "
                f"variant {variant.variant!r}; say varying, or measure it again"
            )
            document.problem((*pointer, "output_rows"), message)
            return


def _check_coverage(
    checked: Checked,
    pipeline: Pipeline,
    profiles: dict[tuple[str, str], Checked],
    profiles_dir: Path,
    paths_checked: set[Path],
) -> None:
    """Note every stage without a profile, and every variant that its profile lacks."""
    document = checked.document
    for index, stage in enumerate(document.data["stages"]):
        where = profiles_dir / pipeline.name / f"{stage['name']}.yaml"
        profile_file = profiles.get((pipeline.name, stage["name"]))
        if profile_file is None and where in paths_checked:
            continue  # it was checked, and its problems are listed
        if profile_file is None:
            profile_file = _check(where, PROFILE)
            if not where.is_file():
                message = f"stage {stage['name']!r} has no profile; expected {where}"
                document.problem(("stages", index, "name"), message)
            else:
                checked.problems.extend(profile_file.problems)
        if profile_file.profile is None:
            continue
        checked.measured[stage["name"]] = profile_file.profile
        _check_rows(document, ("stages", index), pipeline.stage(stage["name"]), profile_file)
        measured = {variant.variant for variant in profile_file.profile.variants}
        for position, variant in enumerate(stage["variants"]):
            if variant["name"] not in measured:
                message = f"variant {variant['name']!r} is not in the profile {profile_file.path}"
                document.problem(("stages", index, "variants", position, "name"), message)
    checked.problems.extend(document.problems)
