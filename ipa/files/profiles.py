"""profiles/<pipeline>/<stage>.yaml <-> StageProfile."""

from __future__ import annotations

import re
from pathlib import Path

from ipa.files.document import Document, check_within, read_document
from ipa.files.dumping import FlowMapping, dump_yaml
from ipa.files.faults import check
from ipa.files.kinds.profile import ProfileFile
from ipa.files.meaning import check_profile
from ipa.model.errors import InputError, NotFoundError, Problem
from ipa.model.profile import StageProfile

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def load_profile(path: Path) -> StageProfile:
    """The profile in the file.

    InputError lists every problem with its line and column; NotFoundError where there is no such file.
    """
    return profile_in(read_document(path))


def profile_in(document: Document) -> StageProfile:
    """The profile in the document; InputError lists every problem."""
    file = check(document, ProfileFile)
    check_profile(document)
    document.raise_problems()
    assert file is not None, "without a file there are problems"
    profile: StageProfile = file.build()
    return profile


def load_profiles(folder: Path, pipeline: str) -> dict[str, StageProfile]:
    """The profiles of the pipeline's stages, by stage. InputError lists the problems of all at once."""
    if not _NAME.fullmatch(pipeline):
        raise InputError(f"{pipeline!r} is not the name of a pipeline")
    home = folder / pipeline
    if not _is_folder(home):
        raise NotFoundError(
            f"there are no profiles of {pipeline!r} in {folder}",
            hint=f"Measure them with `ipa profile {pipeline}`, or set profiles_dir.",
        )

    profiles: dict[str, StageProfile] = {}
    problems: list[Problem] = []
    for path in sorted(home.glob("*.yaml")):
        try:
            check_within(path, folder)
            profile = load_profile(path)
        except InputError as error:
            problems.extend(error.problems or [Problem(error.message, str(path))])
            continue
        where = f"{profile.pipeline}/{profile.stage}.yaml"
        if (profile.pipeline, profile.stage) != (pipeline, path.stem):
            problems.append(Problem(f"this is the profile of {where}; move it or correct it", str(path)))
        profiles[profile.stage] = profile
    if problems:
        raise InputError(f"{home} has profiles that cannot be used", problems=problems)
    return profiles


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:
        return False


def dump_profile(profile: StageProfile) -> str:
    """The text of a profile file; `load_profile` reads the same profile back, to the last bit."""
    data = ProfileFile.of(profile).to_mapping()
    for variant in data["variants"]:
        variant["points"] = [FlowMapping(point) for point in variant["points"]]
    return dump_yaml(data)
