"""profiles/<pipeline>/<stage>.yaml <-> StageProfile."""

from __future__ import annotations

import re
from operator import not_
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from ipa.files.document import Document, check_within, read_document
from ipa.files.dumping import FlowMapping, dump_yaml
from ipa.files.faults import check
from ipa.files.kinds import fields
from ipa.files.kinds.base import DeclaredFile, Section
from ipa.files.kinds.fields import with_resources
from ipa.files.meaning import check_profile
from ipa.model.errors import InputError, NotFoundError, Problem
from ipa.model.profile import ProfilePoint, StageProfile, VariantProfile


class PointSection(Section):
    """One of `points:`."""

    makes: ClassVar = ProfilePoint
    cores: Annotated[fields.Number, Field(gt=0, le=1024, description="Of one replica.")]
    batch_size: fields.BatchSize = Field(alias="batch")
    """Items in the batch."""
    latency_s: fields.PositiveDuration
    """p99 of the service time of one batch."""
    latency_mean_s: fields.Maybe[fields.PositiveDuration] = None
    throughput_rps: fields.Maybe[fields.PositiveRate] = None
    """The most items a second."""
    foreign_cpu_ratio: fields.Maybe[
        Annotated[fields.Number, Field(gt=0, le=1, title="a fraction, such as 0.4")]
    ] = None
    """The share of its CPUs that other processes or machines used meanwhile, if they disturbed it."""


class _VariantKeys(Section):
    variant: fields.VariantName
    accuracy: Annotated[fields.Number, Field(gt=0, le=1, title="a fraction, such as 0.78", examples=[0.78])]
    readiness_s: fields.Maybe[fields.PositiveDuration] = None
    """From start to the first answer."""


class VariantProfileSection(with_resources(_VariantKeys, "Of one replica.")):  # type: ignore[misc]
    """One of a profile's `variants:`."""

    makes: ClassVar = VariantProfile
    rows_per_item: fields.Maybe[
        Annotated[
            list[Annotated[int, Field(ge=0), fields.WHOLE]],
            Field(
                min_length=2,
                max_length=2,
                title="the fewest and the most rows that one item was answered with, such as [2, 9]",
            ),
        ]
    ] = None
    """If they are not [1, 1], the stage does not batch on targets whose replicas batch by themselves."""
    points: Annotated[
        list[PointSection], Field(min_length=1, max_length=10_000, title="at least one measured point")
    ] = Field(examples=[[{"cores": 1, "batch": 1, "latency": "50ms", "latency_mean": "40ms"}]])


class ProfileFile(DeclaredFile):
    """profiles/PIPELINE/STAGE.yaml."""

    makes: ClassVar = StageProfile
    description_of_kind: ClassVar[str] = (
        "What was measured of one stage's variants, over batch sizes and cores."
    )
    kind: Literal["Profile"]
    pipeline: fields.Name
    """Also the name of the folder the file lies in."""
    stage: fields.Name
    """Also the name of the file."""
    hardware: fields.Line = Field(examples=["2 cores of an Intel Xeon at 2.60 GHz"])
    measured_on: fields.Day = Field(examples=["2026-11-24"])
    method: fields.Line = Field(examples=["200 batches for each point after 20 to warm up"])
    source: fields.Maybe[fields.Text] = Field(None, exclude_if=not_)
    load_rps: fields.Maybe[fields.PositiveRate] = None
    """Offered while measuring, where it was limited: throughput is then censored at it."""
    variants: Annotated[
        list[VariantProfileSection], Field(min_length=1, max_length=1000, title="at least one variant")
    ]


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
