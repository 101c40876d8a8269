"""profiles/<pipeline>/<stage>.yaml <-> StageProfile."""

from __future__ import annotations

import re
from pathlib import Path

from ipa.files.document import Document, check_within, read_document
from ipa.files.forms import FlowMapping, check, dump_yaml, file_section, section, write
from ipa.files.meaning import check_profile
from ipa.model.errors import InputError, NotFoundError, Problem
from ipa.model.forms import NAME, NUMBER, POSITIVE, WHOLE, entries
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile

_POINT = section(
    "point",
    ProfilePoint,
    "cores batch_size=batch latency_s latency_mean_s throughput_rps foreign_cpu_ratio",
    cores=POSITIVE.but(maximum=1024),
    foreign_cpu_ratio=POSITIVE.but(maximum=1, title="a fraction, such as 0.4"),
)
_ROWS = entries(
    WHOLE.but(minimum=0),
    2,
    2,
    title="the fewest and the most rows that one item was answered with, such as [2, 9]",
)
_POINTS = entries(
    _POINT,
    10_000,
    title="at least one measured point",
    examples=[[{"cores": 1, "batch": 1, "latency": "50ms", "latency_mean": "40ms"}]],
)
_VARIANT = section(
    "variant_profile",
    VariantProfile,
    "variant accuracy readiness_s memory_gib accelerators? rows_per_item assumed_ratio points",
    accuracy=POSITIVE.but(maximum=1, title="a fraction, such as 0.78", examples=[0.78]),
    rows_per_item=_ROWS,
    assumed_ratio=NUMBER.but(minimum=1, maximum=100),
    points=_POINTS,
)
_KEYS = section(
    "profile",
    StageProfile,
    "pipeline stage hardware measured_on method source? load_rps variants",
    variants=entries(_VARIANT, 1000, title="at least one variant"),
)
PROFILE = file_section("Profile", _KEYS)


def load_profile(path: Path) -> StageProfile:
    """The profile in the file.

    InputError lists every problem with its line and column; NotFoundError if there is no such file.
    """
    return profile_in(read_document(path))


def profile_in(document: Document) -> StageProfile:
    """The profile in the document; InputError lists every problem."""
    profile: StageProfile = check(document, PROFILE)
    check_profile(document)
    document.raise_problems()
    return profile


def load_profiles(folder: Path, pipeline: str) -> dict[str, StageProfile]:
    """The profiles of the pipeline's stages, by stage. InputError lists the problems of all at once."""
    if not re.search(NAME.schema["pattern"], pipeline):
        raise InputError(f"{pipeline!r} is not the name of a pipeline")
    home = folder / pipeline
    if not home.is_dir():
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


def dump_profile(profile: StageProfile) -> str:
    """The text of a profile file; `load_profile` reads the same profile back, to the last bit."""
    data = write(PROFILE, profile)
    for variant in data["variants"]:
        variant["points"] = [FlowMapping(point) for point in variant["points"]]
    return dump_yaml(data)
